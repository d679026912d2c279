"""What a body may ask for. Each case is an attack that must be answered with an error of the client's, quickly."""

import gzip
import json
from typing import Any

import pytest

from chatbot_llm.errors import BadRequest
from chatbot_llm.routes import validation
from chatbot_llm.settings import Settings
from in_process import Client

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
SETTINGS = Settings(engine="scripted", max_prompt_chars=10_000)


def schema(value: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}}


def tool(parameters: Any, **more: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters, **more}}]}


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
    "half a token": {"max_tokens": 2.5},
    "many tokens at least": {"min_tokens": 10**6},
    "many answers": {"n": 1000},
    "many answers in a string": {"n": "1000"},
    "answers to choose from": {"best_of": 2},
    "beam search": {"use_beam_search": True},
    "scores of the prompt": {"prompt_logprobs": 20},
    "scores of the prompt by echo": {"echo": True, "logprobs": True, "top_logprobs": 5},
    "a long prompt": {"messages": [{"role": "user", "content": "x" * 20_000}]},
    "a long prompt in parts": part(type="text", text="x" * 20_000),
    "many messages": {"messages": [{"role": "user", "content": "a"}] * 3000},
    "many parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 3000}]},
    "text hidden in a tool": {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 20_000}}]},
    "text hidden in template arguments": {"chat_template_kwargs": {"documents": "x" * 20_000}},
    "many tools": {"tools": [{"type": "function", "function": {"name": "f"}}] * 200},
    "five stops": {"stop": ["a"] * 5},
    "many ids that are allowed": {"allowed_token_ids": list(range(90_000))},
    "many bad words": {"bad_words": ["a"] * 129},
    "many biases": {"logit_bias": {str(at): 1 for at in range(2000)}},
    # shapes on which vLLM 0.32 stumbles instead of refusing them
    "structured outputs that are a string": {"structured_outputs": "a"},
    "structured outputs that are a list": {"structured_outputs": []},
    "a model that is a list": {"model": []},
    # numbers no engine holds
    "a number beyond 64 bits": {"seed": 10**30},
    "an infinite number": {"temperature": float("1e999")},
    # programs of the caller's own
    "a regex": {"structured_outputs": {"regex": "a*"}},
    "a grammar": {"structured_outputs": {"grammar": "root ::= root"}},
    "a structural tag": {"structured_outputs": {"structural_tag": "{}"}},
    "a structural tag as a format": {"response_format": {"type": "structural_tag", "format": {}}},
    "a regex beside nothing": {"structured_outputs": {"regex": "a*", "json": None}},
    # schemas
    "a deep schema": schema(nested(80)),
    "a long schema": schema({"enum": ["x" * 100] * 1300}),
    "a wide choice": {"structured_outputs": {"choice": ["a"] * 1001}},
    "a count below zero": schema({"type": "string", "minLength": -5}),
    "a count below zero inside": schema({"properties": {"a": {"items": {"maxItems": -1}}}}),
    "a count that is half": schema({"type": "array", "minItems": 1.5}),
    "a count below zero in a strict tool": tool({"minProperties": -1}, strict=True),
    "no schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
    "no schema at all": {"response_format": {"type": "json_schema"}},
    "a schema that is a list": schema([]),
    "an infinite number in a schema": schema({"maximum": float("1e999")}),
    "two structures": {"structured_outputs": {"json": {}, "choice": ["a"]}},
    "no structure": {"structured_outputs": {}},
    "structures in two fields": {**schema({}), "structured_outputs": {"choice": ["a"]}},
    "white space of one's own": {"structured_outputs": {"json": {}, "whitespace_pattern": " "}},
    "a switch that does nothing": {"structured_outputs": {"json": {}, "disable_any_whitespace": True}},
    # fields that would do nothing
    "a schema beside json_object": {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
    "a json_schema beside json_object": {"response_format": {"type": "json_object", "json_schema": {"name": "x"}}},
    "a json_schema beside text": {"response_format": {"type": "text", "json_schema": {"name": "x"}}},
    "an unknown kind of format": {"response_format": {"type": "grammar"}},
    **{f"guided_{name}": {f"guided_{name}": "x"} for name in ("json", "choice", "regex", "grammar")},
    "documents that are no list": {"documents": "a"},
    "long documents": {"documents": [{"text": "x" * 20_000}]},
    "functions": {"functions": [{"name": "f"}]},
    "a function to call": {"function_call": "auto"},
    "a call in the old form": {"messages": [{"role": "assistant", "content": "", "function_call": {"name": "f"}}]},
    "an answer in the old form": {"messages": [{"role": "function", "name": "f", "content": "1"}]},
    "a role that no template knows": {"messages": [{"role": "ceo", "content": "Hi"}]},
    "a field of tomorrow": {"think_harder": True},
    "a field that is misspelt": {"max_token": 5},
    "storing": {"store": True},
    "search": {"web_search_options": {}},
    "sound": {"modalities": ["text", "audio"]},
    "brevity": {"verbosity": "low"},
    "padding": {"stream": True, "stream_options": {"include_obfuscation": True}},
    "an option of streams misspelt": {"stream": True, "stream_options": {"usage": True}},
    "a tool of another type": {"tools": [{"type": "web_search"}]},
    "a tool without a function": {"tools": [{"type": "function"}]},
    # what would fail deep inside
    "a message that is a number": {"messages": [1]},
    "content that is a number": {"messages": [{"role": "user", "content": 5}]},
    "text that is a number": part(type="text", text=5),
    "arguments that are no JSON": {
        "messages": [
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}],
            }
        ]
    },
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=list(REFUSED))
def test_a_body_that_asks_for_too_much_is_refused(body: dict[str, Any]) -> None:
    whole = {**CHAT, **body}
    with pytest.raises(BadRequest) as refused:
        raw = json.dumps(whole).encode().replace(b"Infinity", b"1e999")
        validation.check("chat", validation.read_json(raw), SETTINGS)
    assert len(refused.value.message) < 200, "a refusal does not repeat the attack"
    assert URL not in refused.value.message


def called(**fields: Any) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}, **fields}
    return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]}


#: Where an error must say it is.
PLACES: list[tuple[dict[str, Any], str]] = [
    (called(id=5), "messages[1].tool_calls[0].id: must be a string"),
    (called(id=None), "messages[1].tool_calls[0].id: must be a string"),
    (called(type="custom"), "messages[1].tool_calls[0].type: must be function"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (part(type="text", text=5), "messages[0].content[1].text"),
    ({"messages": [{"role": "boss", "content": "a"}]}, "messages[0].role"),
    (schema({"properties": {"age": {"type": "string", "minLength": -5}}}), "schema.properties.age: minLength"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema.schema"),
    ({"stop": ["a"] * 5}, "stop: at most 4, not 5"),
    ({"guided_json": {}}, "response_format"),
    ({"guided_regex": "a"}, "structured_outputs"),
    ({"max_token": 5}, "max_token"),
    ({"functions": [{"name": "f"}]}, "tools"),
]


@pytest.mark.parametrize(("body", "place"), PLACES, ids=[place for _, place in PLACES])
def test_a_refusal_names_the_place_or_the_way_round(body: dict[str, Any], place: str) -> None:
    with pytest.raises(BadRequest) as refused:
        validation.check("chat", {**CHAT, **body}, SETTINGS)
    assert place in refused.value.message
    assert refused.value.param


UUID = (
    "^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}|0{8}(-0{4}){3}-0{12})$"
)
HONEST: dict[str, dict[str, Any]] = {
    "a plain chat": {},
    "cached parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {}}]}]},
    "a part with an empty address": part(type="text", text="a", image_url=None),
    "a tool": tool(
        {
            "type": "object",
            "properties": {"image_url": {"type": "string"}, "pattern": {"type": "string"}, "minLength": {}},
            "$defs": {"day": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}},
            "additionalProperties": {"$ref": "#/$defs/day"},
        }
    ),
    "a tool of zod": tool({"properties": {"id": {"type": "string", "format": "uuid", "pattern": UUID}}}),
    "a strict tool of zod": tool({"properties": {"id": {"type": "string", "pattern": UUID}}}, strict=True),
    "a tool that counts below zero, as a hint": tool({"properties": {"a": {"minLength": -5}}}),
    "Chinese tools": tool({"description": "\u5929\u6c14" * 3_000}),
    "no parameters": tool(None),
    "documents": {"documents": [{"title": "a", "text": "b"}], "documents_policy": "drop_last"},
    "a choice": {"structured_outputs": {"choice": ["yes", "no"]}},
    "json": {"response_format": {"type": "json_object"}},
    "text": {"response_format": {"type": "text"}},
    "a schema as a string": {"structured_outputs": {"json": '{"type": "object"}'}},
    "long answers": schema({"properties": {"summary": {"type": "string", "maxLength": 65_536}}}),
    "a thousand values": schema({"enum": [f"value {at}" for at in range(1_000)]}),
    "a thousand choices": {"structured_outputs": {"choice": [f"c{at}" for at in range(1_000)]}},
    "the largest float": schema({"type": "number", "maximum": 1.7976931348623157e308}),
    "a number of a hundred digits in a schema": schema({"type": "integer", "maximum": 10**100}),
    "nothing said": {"max_tokens": None, "n": None, "prompt_logprobs": None, "use_beam_search": False, "x": None},
    "whole numbers as floats": {"max_tokens": 2.0, "n": 1.0},
    "four stops": {"stop": ["a"] * 4},
    "what OpenAI's clients send": {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "reasoning_effort": "low",
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "verbosity": "medium",
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    },
    "a conversation with a tool": {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Weather?", "name": "Ann"},
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "function_call": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "mild"},
        ]
    },
}


@pytest.mark.parametrize("body", HONEST.values(), ids=list(HONEST))
def test_honest_bodies_pass(body: dict[str, Any]) -> None:
    validation.check("chat", json.loads(json.dumps({**CHAT, **body})), SETTINGS)


def test_what_is_null_is_not_said_and_whole_numbers_are_whole() -> None:
    body = {**CHAT, "max_tokens": 2.0, "n": None, "tool_choice": None, "stop": None}
    validation.check("chat", body, SETTINGS)
    assert body == {**CHAT, "max_tokens": 2} and isinstance(body["max_tokens"], int)


@pytest.mark.parametrize("wanted", [{"regex": "a+"}, {"grammar": 'root ::= "a"'}])
def test_the_operator_can_allow_grammars_of_the_callers_own(wanted: dict[str, Any]) -> None:
    body = {**CHAT, "structured_outputs": wanted}
    validation.check("chat", body, SETTINGS.model_copy(update={"raw_grammars": True}))
    with pytest.raises(BadRequest, match="CHATBOT_RAW_GRAMMARS"):
        validation.check("chat", body, SETTINGS)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"type": "number", "maximum": 1.7976931348623157e308, "minimum": -5}, {"type": "number", "minimum": -5}),
        ({"type": "array", "uniqueItems": False}, {"type": "array"}),
        ({"type": "string", "format": "email", "pattern": "^(?!\\.)a@b$"}, {"type": "string", "format": "email"}),
        ({"type": "string", "format": "cuid2", "pattern": "^[0-9a-z]+$"}, {"type": "string", "pattern": "^[0-9a-z]+$"}),
        (
            {"type": "string", "format": "time", "pattern": "^(?:\\d){2}$"},
            {"type": "string", "pattern": "^(?:\\d){2}$"},
        ),
        ({"type": "string", "format": "password"}, {"type": "string"}),
        (
            {"type": "string", "format": "uuid4"},
            {
                "type": "string",
                "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",
            },
        ),
        *(
            (same, same)
            for same in (
                {"type": "string", "format": "jwt"},
                {"type": "string", "format": "email", "pattern": "@example\\.com$"},
                {"type": "string", "format": "date", "pattern": "^(?!2020)"},
                {"type": "string", "format": "uuid", "pattern": "^(?:0|1)+$"},
                {"type": "string", "format": "odd", "pattern": "^(?!a)b"},
                {"properties": {"format": {"type": "string"}, "pattern": {"type": "string"}}},
                {"type": "string", "pattern": "^(?=a)b"},
                {"type": "array", "uniqueItems": True},
                {"type": "integer", "maximum": 2**53},
                {"enum": [{"uniqueItems": False}], "default": {"maximum": 1.7976931348623157e308}},
                {"properties": {"uniqueItems": False, "pattern": {"type": "string"}}},
            )
        ),
    ],
)
def test_what_a_schema_says_without_meaning_is_taken_out(given: dict[str, Any], kept: dict[str, Any]) -> None:
    for wrap in (lambda schema: {"properties": {"a": {"anyOf": [schema, {"type": "null"}]}}}, lambda schema: schema):
        body = {**CHAT, **schema(json.loads(json.dumps(wrap(given)))), **tool(json.loads(json.dumps(wrap(given))))}
        validation.check("chat", body, SETTINGS)
        assert body["response_format"]["json_schema"]["schema"] == wrap(kept)
        assert body["tools"][0]["function"]["parameters"] == wrap(kept)


@pytest.mark.parametrize(
    "body",
    [{"prompt": [1] * 20_000}, {"prompt": ["a"] * 100}, {"prompt": "a", "echo": True, "logprobs": 5}, {"suffix": "x"}],
)
def test_a_completion_that_asks_for_too_much_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        validation.check("completion", {"prompt": "a", **body}, SETTINGS)


@pytest.mark.parametrize("kind", ["completion", "tokenize", "detokenize"])
def test_every_protocol_names_what_it_does_not_know(kind: str) -> None:
    with pytest.raises(BadRequest, match="think_harder"):
        validation.check(
            kind, {**({"tokens": [1]} if kind == "detokenize" else {"prompt": "a"}), "think_harder": 1}, SETTINGS
        )


def test_what_counts_tokens_takes_the_body_of_a_chat() -> None:
    validation.check("tokenize", {**CHAT, "temperature": 0, "stream": True, "tools": tool({})["tools"]}, SETTINGS)


@pytest.mark.parametrize("name", ["sk-canary-5f0c9a7e1b2d", "a b", "x" * 100, "\u00e9"])
def test_a_name_that_no_field_would_have_is_not_repeated(name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        validation.check("chat", {**CHAT, name: 1}, SETTINGS)
    assert name not in refused.value.message + str(refused.value.param)


def test_a_lone_surrogate_is_called_that(client: Client) -> None:
    raw = b'{"messages": [{"role": "user", "content": "\\ud83d"}]}'
    answer = client.post("/chat", data=raw, content_type="application/json")
    assert answer.status_code == 400 and "lone surrogate" in answer.get_json()["error"]["message"]


def test_a_byte_order_mark_is_no_part_of_a_body(client: Client) -> None:
    raw = b"\xef\xbb\xbf" + json.dumps(CHAT).encode()
    assert client.post("/chat", data=raw, content_type="application/json").status_code == 200


def test_a_compressed_body_is_told_so(client: Client) -> None:
    raw = gzip.compress(json.dumps(CHAT).encode())
    answer = client.post("/chat", data=raw, content_type="application/json", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415 and "compressed" in answer.get_json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/chat/completions"), ("GET", "/models"), ("POST", "/completions")]
)
def test_a_base_url_without_v1_is_told_so(client: Client, method: str, path: str) -> None:
    answer = client.open(path, method=method, json=CHAT if method == "POST" else None)
    assert answer.status_code == 404 and f"/v1{path}" in answer.get_json()["error"]["message"]


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
