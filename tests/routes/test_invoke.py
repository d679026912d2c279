"""/invoke: events of every shape become the same requests, and the body tells all."""

import base64
import codecs
import json
from typing import Any

import pytest

from in_process import Client

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
JSON = "application/json"
RAW = {"prompt": "Hello", "max_tokens": 4}
RESPONSE = {"input": "Hello", "max_output_tokens": 4}
MESSAGE = {**CHAT, "system": "Be brief."}
#: Each of these fields makes an event with messages Anthropic's.
MARKED: list[dict[str, Any]] = [
    MESSAGE,
    {**CHAT, "stop_sequences": ["x"]},
    {**CHAT, "anthropic_version": "2023-06-01"},
    {**CHAT, "tools": [{"name": "f", "input_schema": {}}]},
    {**CHAT, "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "a"}]}]},
]


def invoke(client: Client, event: Any) -> Any:
    """Send an event as FC does: bytes of no particular type."""
    data = event if isinstance(event, bytes) else json.dumps(event).encode()
    return client.post("/invoke", data=data, content_type="application/octet-stream")


#: What differs between any two answers; an error's status stands in an event alone.
TIMELY = ("id", "created", "created_at", "status")


def timeless(body: Any) -> Any:
    """A body without what differs between any two answers."""
    if isinstance(body, dict):
        return {key: timeless(value) for key, value in body.items() if key not in TIMELY}
    return [timeless(item) for item in body] if isinstance(body, list) else body


REQUESTS: list[tuple[str, Any]] = [
    ("/chat", CHAT),
    ("/v1/chat/completions", {**CHAT, "max_tokens": 2}),
    ("/generate", RAW),
    ("/v1/completions", RAW),
    ("/chat", {**CHAT, "model": "other"}),
    ("/chat", {"messages": []}),
    ("/generate", {**RAW, "max_tokens": 0}),
    ("/generate", {"prompt": "w " * 9000}),
    ("/tokenize", {"prompt": "a b c"}),
    ("/v1/responses", RESPONSE),
    ("/v1/responses", {**RESPONSE, "background": True}),
    ("/v1/messages", MESSAGE),
    ("/v1/messages", {**MESSAGE, "max_tokens": 0}),
    ("/v1/messages/count_tokens", {"messages": CHAT["messages"]}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
@pytest.mark.parametrize("form", ["object", "string", "base64", "httpMethod", "fc"])
def test_an_event_answers_what_the_route_answers(client: Client, path: str, body: Any, form: str) -> None:
    text = json.dumps(body)
    event: dict[str, Any] = {
        "object": {"path": path, "method": "POST", "body": body},
        "string": {"path": path, "method": "post", "body": text},
        "base64": {"path": path, "body": base64.b64encode(text.encode()).decode(), "isBase64Encoded": True},
        "httpMethod": {
            "path": path,
            "httpMethod": "POST",
            "headers": {"Content-Type": "application/json"},
            "body": text,
        },
        "fc": {"version": "v1", "rawPath": path, "body": text, "requestContext": {"http": {"method": "POST"}}},
    }[form]
    direct, through = client.post(path, json=body), invoke(client, event)
    assert timeless(through.get_json()) == timeless(direct.get_json())
    assert through.status_code == direct.status_code
    if direct.status_code >= 400:
        assert through.get_json()["error"]["status"] == direct.status_code


@pytest.mark.parametrize(
    ("event", "path"),
    [
        (CHAT, "/chat"),
        (RAW, "/generate"),
        (RESPONSE, "/v1/responses"),
        *((event, "/v1/messages") for event in MARKED),
    ],
)
def test_a_bare_body_is_understood(client: Client, event: Any, path: str) -> None:
    assert timeless(invoke(client, event).get_json()) == timeless(client.post(path, json=event).get_json())


@pytest.mark.parametrize(
    ("event", "sent", "path"),
    [
        ({**CHAT, "input": None, "system": None, "prompt": None}, CHAT, "/chat"),
        ({**RAW, "messages": None, "input": None}, RAW, "/generate"),
        ({**RESPONSE, "messages": None}, RESPONSE, "/v1/responses"),
        ({**MESSAGE, "input": None}, MESSAGE, "/v1/messages"),
    ],
)
def test_a_field_that_is_null_does_not_tell_the_protocol(client: Client, event: Any, sent: Any, path: str) -> None:
    answer, through = client.post(path, json=sent), invoke(client, event)
    assert through.status_code == 200 and timeless(through.get_json()) == timeless(answer.get_json())


STREAMED = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("event", [STREAMED, {"path": "/chat", "body": STREAMED}])
def test_an_event_that_asks_for_a_stream_is_answered_whole(client: Client, event: Any) -> None:
    assert timeless(invoke(client, event).get_json()) == timeless(client.post("/chat", json=CHAT).get_json())


@pytest.mark.parametrize("event", [CHAT, RAW, {"path": "/chat", "body": json.dumps(CHAT)}])
def test_a_byte_order_mark_changes_nothing(client: Client, event: Any) -> None:
    marked = codecs.BOM_UTF8 + json.dumps(event).encode()
    assert timeless(invoke(client, marked).get_json()) == timeless(invoke(client, event).get_json())


def test_other_routes_can_be_called(client: Client) -> None:
    assert invoke(client, {"path": "/health", "method": "GET"}).get_json()["ready"] is True
    assert invoke(client, {"path": "/v1/models"}).get_json()["data"][0]["id"] == "scripted"


MEANINGLESS = [
    b"",
    b"  ",
    {},
    {"key1": "value1", "key2": "value2"},
    {"path": 1},
    b"hello world",
    b'"text"',
    b"[1]",
    b"null",
    b"\xff\xfe",
]


@pytest.mark.parametrize("event", MEANINGLESS)
def test_an_event_that_means_nothing_gets_a_hint(client: Client, event: Any) -> None:
    error = invoke(client, event).get_json()["error"]
    assert error["code"] == "unknown_event" and error["status"] == 400
    assert "column" not in error["message"], "not a JSON parser's words"
    for word in ("messages", "prompt", "path"):
        assert word in error["message"]


@pytest.mark.parametrize("path", ["/invoke", "/initialize", "/pre-stop"])
def test_an_event_cannot_reach_the_platforms_routes(client: Client, path: str) -> None:
    method = "GET" if path == "/pre-stop" else "POST"
    assert invoke(client, {"path": path, "method": method, "body": {}}).get_json()["error"]["status"] == 403


@pytest.mark.parametrize(
    "event",
    [
        b"{\xff\xfe}",
        b"{",
        {"path": "/chat", "body": "!", "isBase64Encoded": True},
        {"path": "/chat", "method": "DELETE"},
        {"path": "/chat", "headers": [1]},
        {"path": "/chat", "headers": {"a\nb": "c"}, "body": "{}"},
        {"path": "/" + "x" * 5000},
    ],
)
def test_a_broken_event_is_a_400(client: Client, event: Any) -> None:
    assert invoke(client, event).get_json()["error"]["status"] == 400
