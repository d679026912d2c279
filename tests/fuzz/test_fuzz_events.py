"""Random events for /invoke, and random bodies for every other route that takes one."""

import base64
import codecs
import json
from typing import Any

import pytest
import requests
from fuzzing import LIMIT_S, check_error, examples
from hypothesis import given
from hypothesis import strategies as st

from launcher import ServiceProcess

session = requests.Session()
session.trust_env = False

FIELDS = (
    "messages prompt model max_tokens max_completion_tokens n stream stream_options stop tools tool_choice seed "
    "response_format structured_outputs temperature logprobs echo chat_template_kwargs tokens user logit_bias "
    "functions function_call documents store metadata guided_json schema json_schema name strict parameters enum $ref "
    "pattern minLength maxProperties choice grammar include_usage allowed_token_ids image_url tool_calls arguments "
    "input instructions max_output_tokens format output call_id item_reference function_call_output reasoning summary "
    "system stop_sequences input_schema tool_result tool_use tool_use_id output_config thinking include truncation "
    "path rawPath method httpMethod headers body isBase64Encoded requestContext role content type text json regex"
).split()
PATHS = (
    "/chat",
    "/v1/responses",
    "/v1/messages",
    "/generate",
    "/v1/completions",
    "/tokenize",
    "/detokenize",
    "/v1/models",
    "/health",
    "/invoke",
    "/x",
)

text = st.text(max_size=30) | st.sampled_from(["user", "assistant", "json_schema", "/chat", "data: [DONE]\n\n", "\x00"])
numbers = st.integers(-(2**70), 2**70) | st.integers(-2, 20) | st.floats()
leaves = st.none() | st.booleans() | numbers | text
names = st.sampled_from(FIELDS) | st.text(max_size=10)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
messages = st.lists(st.fixed_dictionaries({"role": text}, optional={"content": values, "name": values}), max_size=4)
kinds = st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "item_reference"]) | values
items = st.lists(
    st.fixed_dictionaries(
        {}, optional={"type": kinds, **{name: values for name in ("role", "content", "output", "summary", "call_id")}}
    )
)
chats = st.dictionaries(st.sampled_from(FIELDS), values, max_size=5).flatmap(
    lambda body: st.one_of(
        st.just(body),
        messages.map(lambda many: {**body, "messages": many}),
        items.map(lambda many: {**body, "input": many}),
    )
)
encoded = st.binary(max_size=60).map(lambda raw: base64.b64encode(raw).decode())
requests_ = st.fixed_dictionaries(
    {"path": st.sampled_from(PATHS) | text},
    optional={
        "method": st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "get", "\r\n"]) | values,
        "headers": st.dictionaries(text, values, max_size=4) | values,
        "body": chats | chats.map(json.dumps) | encoded | values,
        "isBase64Encoded": st.booleans() | values,
        "requestContext": values,
    },
)


def sent(value: Any) -> bytes:
    raw = json.dumps(value).encode("utf-8", "surrogatepass")
    return codecs.BOM_UTF8 + raw if len(raw) % 7 == 0 else raw


@examples(0.15)
@given(raw=requests_.map(sent) | chats.map(sent) | values.map(sent) | st.binary(max_size=200))
def test_any_event_is_answered(service: ServiceProcess, raw: bytes) -> None:
    answer = session.post(f"http://127.0.0.1:{service.port}/invoke", data=raw, timeout=LIMIT_S)
    check_error(answer.status_code, answer.content)


@pytest.mark.parametrize(
    "path",
    [
        "/chat",
        "/generate",
        "/v1/completions",
        "/tokenize",
        "/detokenize",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
    ],
)
@examples(0.025)
@given(raw=chats.map(sent) | values.map(sent) | st.binary(max_size=200))
def test_any_body_is_answered(service: ServiceProcess, path: str, raw: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = session.post(f"http://127.0.0.1:{service.port}{path}", data=raw, headers=headers, timeout=LIMIT_S)
    check_error(answer.status_code, answer.content)


@examples(0.03)
@given(
    headers=st.dictionaries(
        st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True),
        st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40),
        max_size=5,
    )
)
def test_any_headers_are_answered(service: ServiceProcess, headers: dict[str, str]) -> None:
    framing = ("content-length", "transfer-encoding", "host", "expect", "connection")
    raw = {name: value.strip().encode("latin-1") for name, value in headers.items() if name.lower() not in framing}
    answer = session.get(f"http://127.0.0.1:{service.port}/version", headers=raw, timeout=LIMIT_S)
    check_error(answer.status_code, answer.content)
