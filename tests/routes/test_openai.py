"""The OpenAI surface and its errors, as an HTTP client sees them."""

import json
from typing import Any

import pytest

from in_process import App, Client, Make

CHAT: dict[str, Any] = {
    "model": "scripted",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of France?"}],
    "temperature": 0.7,
    "max_tokens": 6,
}


def envelope(answer: Any) -> dict[str, Any]:
    """The error of an answer, after checking that it has the OpenAI form."""
    error = answer.get_json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    assert "Traceback" not in error["message"]
    return dict(error)


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
def test_a_chat_is_answered_in_the_openai_form(client: Client, path: str) -> None:
    answer = client.post(path, json=CHAT)
    body = answer.get_json()
    assert answer.status_code == 200
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "The capital of France is Paris."}
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 6


def test_a_stream_ends_with_usage_and_done(client: Client) -> None:
    answer = client.post("/chat", json={**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    assert answer.mimetype == "text/event-stream"
    events = answer.get_data(as_text=True).strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 6
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    assert text == "The capital of France is Paris."


def test_generate_adds_the_list_of_texts(client: Client) -> None:
    body = client.post("/generate", json={"prompt": "Q: ", "max_tokens": 2}).get_json()
    assert body["object"] == "text_completion"
    assert body["text"] == ["Q: The capital"]
    assert body["choices"][0]["text"] == "The capital"


def test_generate_streams_what_is_new(client: Client) -> None:
    answer = client.post("/generate", json={"prompt": "Q: ", "max_tokens": 2, "stream": True})
    events = [json.loads(e[6:]) for e in answer.get_data(as_text=True).strip().split("\n\n")[:-1]]
    assert [event["text"] for event in events] == [["Q: The"], [" capital"], [""]]


def test_completions_have_no_extra_list(client: Client) -> None:
    assert "text" not in client.post("/v1/completions", json={"prompt": "Q", "max_tokens": 2}).get_json()


def test_the_model_name_may_be_left_out(client: Client) -> None:
    assert client.post("/chat", json={"messages": CHAT["messages"]}).status_code == 200


def test_a_model_that_is_not_served_is_404_and_names_those_that_are(client: Client) -> None:
    answer = client.post("/chat", json={**CHAT, "model": "gpt-4"})
    assert answer.status_code == 404
    error = envelope(answer)
    assert error["code"] == "model_not_found" and "scripted" in error["message"]


def test_models_and_version_name_what_is_served(client: Client) -> None:
    assert [card["id"] for card in client.get("/v1/models").get_json()["data"]] == ["scripted"]
    assert client.get("/v1/models/scripted").get_json()["id"] == "scripted"
    assert client.get("/v1/models/other").status_code == 404
    assert client.get("/version").get_json()["models"] == ["scripted"]


@pytest.mark.parametrize(
    ("send", "status", "part"),
    [
        ({"data": b"{", "content_type": "application/json"}, 400, "not JSON"),
        ({"data": b"[1]", "content_type": "application/json"}, 400, "JSON object"),
        ({"data": b'{"a": NaN}', "content_type": "application/json"}, 400, "NaN"),
        ({"data": b'{"a": "\\ud800"}', "content_type": "application/json"}, 400, "surrogate"),
        ({"data": b"[" * 100_000, "content_type": "application/json"}, 400, "nested"),
        ({"data": b"\xff\xfe{}", "content_type": "application/json"}, 400, "UTF-8"),
        ({"data": b"{}", "content_type": "text/plain"}, 415, "application/json"),
        ({"json": {}}, 400, "messages"),
        ({"json": {"messages": []}}, 400, "messages"),
        ({"json": {"messages": [1]}}, 400, "messages"),
        ({"json": {**CHAT, "max_tokens": 100_000}}, 400, "max_tokens"),
        ({"json": {**CHAT, "n": 1000}}, 400, "n:"),
        ({"json": {**CHAT, "chat_template": "{{ 1 }}"}}, 400, "chat_template"),
        ({"json": CHAT, "headers": {"x-request-timeout": "soon"}}, 400, "x-request-timeout"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(client: Client, send: Any, status: int, part: str) -> None:
    answer = client.post("/chat", **send)
    assert answer.status_code == status
    assert part in envelope(answer)["message"]


def test_too_many_tokens_for_the_context_has_its_own_code(client: Client) -> None:
    answer = client.post("/generate", json={"prompt": "word " * 9000, "max_tokens": 1})
    assert answer.status_code == 400
    assert envelope(answer)["code"] == "context_length_exceeded"


def test_a_body_above_the_limit_is_413(make_app: Make) -> None:
    client = make_app(max_body_bytes=2048).test_client()
    answer = client.post("/chat", json={**CHAT, "x": "y" * 4000})
    assert answer.status_code == 413
    assert "2048" in envelope(answer)["message"]


def test_unknown_routes_and_methods_have_the_envelope(client: Client) -> None:
    assert "/nope" in envelope(client.get("/nope"))["message"]
    answer = client.get("/chat")
    assert answer.status_code == 405 and "POST" in answer.headers["Allow"]
    envelope(answer)


def test_a_surprise_in_our_code_leaks_nothing(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    async def burst(request: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(app.service.engine, "answer", burst)
    answer = app.test_client().post("/chat", json=CHAT)
    assert answer.status_code == 500
    assert "secret" not in envelope(answer)["message"]
    assert app.service.admission.counts() == (0, 0)


def test_a_request_id_is_echoed_and_timed(client: Client) -> None:
    answer = client.post("/chat", json=CHAT, headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert "abc-1" in answer.get_json()["id"]
    assert "queue;dur=" in answer.headers["Server-Timing"]


def test_a_harmful_request_id_is_not_echoed(client: Client) -> None:
    answer = client.post("/chat", json=CHAT, headers={"x-request-id": "a b<c>"})
    assert "<" not in answer.headers["x-request-id"]


def test_the_deadline_returns_what_there_is_as_a_whole_answer(make_app: Make) -> None:
    client = make_app({"token_s": 0.05, "loop": True}).test_client()
    answer = client.post("/chat", json={**CHAT, "max_tokens": 500}, headers={"x-request-timeout": "0.3"})
    choice = answer.get_json()["choices"][0]
    assert answer.status_code == 200
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith("The capital")


def test_the_deadline_ends_a_stream_in_good_order(make_app: Make) -> None:
    client = make_app({"token_s": 0.05, "loop": True}).test_client()
    answer = client.post(
        "/chat", json={**CHAT, "max_tokens": 500, "stream": True}, headers={"x-request-timeout": "0.3"}
    )
    text = answer.get_data(as_text=True)
    assert text.endswith("data: [DONE]\n\n") and '"finish_reason":"length"' in text
