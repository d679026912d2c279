"""What a body may ask for. Each case is an attack that must be answered with an error of the client's, quickly."""

import json
from typing import Any

import pytest

from chatbot_llm.errors import BadRequest
from chatbot_llm.routes import validation as limits
from chatbot_llm.settings import Settings
from in_process import Client

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
SETTINGS = Settings(engine="scripted", max_prompt_chars=10_000)


def schema(value: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}}


def part(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, fields]}]}


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


URL = "http://169.254.169.254/latest/meta-data"

REFUSED: dict[str, dict[str, Any]] = {
    # reach: nothing the server would have to fetch
    "an image": part(type="image_url", image_url={"url": URL}),
    "an image without a type": part(image_url={"url": URL}),
    "an image beside text": part(type="text", text="a", image_url={"url": URL}),
    "audio": part(type="input_audio", input_audio={"data": "", "format": "wav"}),
    "a file": part(type="file", file={"file_data": "", "filename": "x"}),
    "a type that is no string": part(type=["text"]),
    "a remote schema": schema({"$ref": "https://example.com/schema.json"}),
    "a schema of this machine": schema({"allOf": [{"$ref": "file:///etc/passwd"}]}),
    "a remote schema in a tool": {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$dynamicRef": URL}}}]
    },
    "a remote schema in a string": {"structured_outputs": {"json": json.dumps({"$ref": URL})}},
    # code
    "a chat template": {"chat_template": "{{ 7 * 7 }}"},
    "a chat template among its arguments": {"chat_template_kwargs": {"chat_template": "{{ 7 * 7 }}"}},
    "a pickled prompt": {"prompt_embeds": "gASV"},
    "extension arguments": {"vllm_xargs": {"a": 1}},
    "transfer of the cache": {"kv_transfer_params": {"do_remote_prefill": True, "remote_host": URL}},
    # work
    "many tokens": {"max_tokens": 10**6},
    "many tokens in a string": {"max_tokens": "1000000"},
    "many tokens as a float": {"max_completion_tokens": 1e6},
    "many tokens at least": {"min_tokens": 10**6},
    "many answers": {"n": 1000},
    "many answers in a string": {"n": "1000"},
    "many answers to choose from": {"best_of": 1000},
    "beam search": {"use_beam_search": True},
    "scores of the prompt": {"prompt_logprobs": 20},
    "scores of the prompt by echo": {"prompt": "a", "echo": True, "logprobs": 5},
    "a long prompt": {"messages": [{"role": "user", "content": "x" * 20_000}]},
    "a long prompt in parts": part(type="text", text="x" * 20_000),
    "a long list of token ids": {"prompt": [1] * 20_000},
    "many prompts": {"prompt": ["a"] * 100},
    "many messages": {"messages": [{"role": "user", "content": "a"}] * 3000},
    "many parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 3000}]},
    "text hidden in a tool": {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 20_000}}]},
    "text hidden in template arguments": {"chat_template_kwargs": {"documents": "x" * 20_000}},
    "many tools": {"tools": [{"type": "function", "function": {"name": "f"}}] * 200},
    "many stops": {"stop": ["a"] * 100},
    "many biases": {"logit_bias": {str(at): 1 for at in range(2000)}},
    # shapes on which vLLM 0.32 stumbles instead of refusing them
    "structured outputs that are a string": {"structured_outputs": "a"},
    "structured outputs that are a list": {"structured_outputs": []},
    "a model that is a list": {"model": []},
    # numbers no engine holds
    "a number beyond 64 bits": {"seed": 10**30},
    "an infinite number": {"temperature": float("1e999")},
    # automata
    "a deep schema": schema(nested(80)),
    "a long schema": schema({"enum": ["x" * 100] * 250}),
    "a wide choice": {"structured_outputs": {"choice": ["a"] * 1000}},
    "a counted explosion": {"structured_outputs": {"regex": "((a{20}){20}){20}"}},
    "an optional chain": {"structured_outputs": {"regex": ".?" * 100}},
    "an optional chain of empty alternatives": {"structured_outputs": {"regex": "(.|)" * 100}},
    "a long pattern": {"structured_outputs": {"regex": "a" * 1001}},
    "a huge count": {"structured_outputs": {"regex": "a{1,999999999999999999999}"}},
    "many patterns": schema({"properties": {f"p{at}": {"pattern": "^[a-z]{0,100}$"} for at in range(150)}}),
    "a pattern as a name": schema({"patternProperties": {".?" * 100: {}}}),
    "a pattern in a string": {"structured_outputs": {"json": json.dumps({"pattern": ".?" * 100})}},
    "a pattern in a structural tag": {"structured_outputs": {"structural_tag": json.dumps({"pattern": ".?" * 100})}},
    "a pattern for white space": {"structured_outputs": {"json": {}, "whitespace_pattern": ".?" * 100}},
    "a grammar": {"structured_outputs": {"grammar": "root ::= " + '("a" | "")' * 50}},
    "an array unrolled": schema({"type": "array", "minItems": 10**6}),
    "a string unrolled": schema({"type": "string", "minLength": 10**6}),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=list(REFUSED))
def test_a_body_that_asks_for_too_much_is_refused(body: dict[str, Any]) -> None:
    whole = {**CHAT, **body}
    with pytest.raises(BadRequest) as refused:
        limits.check(limits.read_json(json.dumps(whole).encode().replace(b"Infinity", b"1e999")), SETTINGS)
    assert len(refused.value.message) < 200, "a refusal does not repeat the attack"
    assert URL not in refused.value.message


HONEST: dict[str, dict[str, Any]] = {
    "a plain chat": {},
    "cached parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {}}]}]},
    "a tool": {
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "parameters": {
                        "type": "object",
                        "properties": {"image_url": {"type": "string"}, "pattern": {"type": "string"}},
                        "$defs": {"day": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}},
                        "additionalProperties": {"$ref": "#/$defs/day"},
                    },
                },
            }
        ]
    },
    "an email": {"structured_outputs": {"regex": r"[\w.+-]+@[\w-]+(\.[a-z]{2,})+"}},
    "an address": {"structured_outputs": {"regex": r"(\d{1,3}\.){3}\d{1,3}"}},
    "a grammar": {"structured_outputs": {"grammar": 'root ::= "SELECT " column ("," column)*\ncolumn ::= [a-z]+'}},
    "a choice": {"structured_outputs": {"choice": ["yes", "no"]}},
    "json": {"response_format": {"type": "json_object"}},
    "a schema as a string": {"structured_outputs": {"json": '{"type": "object"}'}},
    "long answers": schema({"properties": {"summary": {"type": "string", "maxLength": 4000}}}),
    "nothing said": {"max_tokens": None, "n": None, "prompt_logprobs": None, "use_beam_search": False},
}


@pytest.mark.parametrize("body", HONEST.values(), ids=list(HONEST))
def test_honest_bodies_pass(body: dict[str, Any]) -> None:
    limits.check({**CHAT, **body}, SETTINGS)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"{}{}",
    ],
)
def test_what_is_no_json_object_is_told_so(client: Client, raw: bytes) -> None:
    answer = client.post("/chat", data=raw, content_type="application/json")
    assert answer.status_code == 400
    assert answer.get_json()["error"]["type"] == "invalid_request_error"


def test_a_body_larger_than_allowed_is_refused(client: Client) -> None:
    limit = Settings(engine="scripted").max_body_bytes
    answer = client.post("/chat", data=b"{" + b" " * limit + b"}", content_type="application/json")
    assert answer.status_code == 413
    assert answer.headers["Connection"] == "close"


def test_only_json_is_a_body(client: Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = client.post("/chat", data=json.dumps(CHAT), content_type=kind)
        assert answer.status_code == 415
