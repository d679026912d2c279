"""What holds for every protocol alike: answers, streams, cuts, faults, errors, limits, and that nothing is kept."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from chatbot_llm.engine import protocols
from chatbot_llm.engine.protocols.base import EngineRequest
from in_process import App, Client, Make
from speakers import KINDS, PATHS, body, error_of, events, scripted, streamed, whole

every = pytest.mark.parametrize("kind", KINDS)


@every
def test_an_answer_and_a_stream_say_the_same(client: Client, kind: str) -> None:
    reply = whole(kind, client.post(PATHS[kind], json=body(kind, 6)).get_json())
    assert reply[:2] == ("The capital of France is Paris.", "length") and reply.completion == 6
    answer = client.post(PATHS[kind], json=body(kind, 6, stream=True))
    assert answer.mimetype == "text/event-stream"
    reported = streamed(kind, answer.get_data(as_text=True))
    assert reported[:2] == reply[:2] and reported.pieces == 6
    if kind != "chat":  # a chat counts in a stream when it is asked to
        assert reported[2:4] == reply[2:4]


@every
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_came_to_its_end_says_so(client: Client, kind: str, stream: bool) -> None:
    answer = client.post(PATHS[kind], json=body(kind, 100, stream=stream))
    reply = streamed(kind, answer.get_data(as_text=True)) if stream else whole(kind, answer.get_json())
    assert reply.finish == "stop" and reply.text.endswith("not by a model.")


@every
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("first_s", [0, 30])
def test_at_its_deadline_an_answer_ends_in_good_order(make_app: Make, kind: str, stream: bool, first_s: int) -> None:
    client = make_app().test_client()
    sent = scripted(kind, 500, stream=stream, token_s=0.05, first_s=first_s)
    answer = client.post(PATHS[kind], json=sent, headers={"x-request-timeout": "0.3"})
    reply = streamed(kind, answer.get_data(as_text=True)) if stream else whole(kind, answer.get_json())
    assert answer.status_code == 200
    assert reply.finish == "length" and bool(reply.text) == (first_s == 0)


@every
def test_a_fault_amid_a_stream_is_told_in_the_protocols_form(
    app: App, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    engine = app.service.engine
    real = engine._answer

    async def failing(request: EngineRequest) -> AsyncGenerator[str, None]:
        async def some() -> AsyncGenerator[str, None]:
            number = 0
            async for event in await real(request):
                yield event
                number += 1
                if number == 8:
                    raise ZeroDivisionError("secret detail")

        return some()

    monkeypatch.setattr(engine, "_answer", failing)
    raw = app.test_client().post(PATHS[kind], json=body(kind, 16, stream=True)).get_data(as_text=True)
    reply = streamed(kind, raw)
    assert reply.text and reply.error and "secret" not in raw
    assert app.service.admission.counts() == (0, 0)


@every
@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_before_the_first_token_has_a_status(
    app: App, monkeypatch: pytest.MonkeyPatch, kind: str, stream: bool
) -> None:
    async def failing(request: EngineRequest) -> Any:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(app.service.engine, "_answer", failing)
    answer = app.test_client().post(PATHS[kind], json=body(kind, stream=stream))
    assert answer.status_code == 500 and error_of(kind, answer.get_json())


@every
@pytest.mark.parametrize("name", ["stream", "echo"])
@pytest.mark.parametrize("value", ["false", "no", 0, 1, [], {}])
def test_a_switch_is_true_or_false(client: Client, kind: str, name: str, value: Any) -> None:
    """vLLM's models read "false" as false, Python as true."""
    answer = client.post(PATHS[kind], json=body(kind, **{name: value}))
    known = name == "stream" or kind == "chat"
    reported = error_of(kind, answer.get_json())["message"]
    assert answer.status_code == 400
    assert reported.startswith(f"{name}: {'must be true or false' if known else 'this field is not known'}")


@every
def test_a_stream_begins_with_the_first_token(make_app: Make, kind: str) -> None:
    app = make_app()
    sent = scripted(kind, 3, stream=True, first_s=0.3)
    text = app.test_client().post(PATHS[kind], json=sent).get_data(as_text=True)
    assert streamed(kind, text).pieces == 3
    if kind == "responses":
        assert app.service.metrics.first._sum.get() > 0.25, "what comes before the first token is not counted as it"


@every
def test_every_error_has_the_protocols_form(make_app: Make, kind: str) -> None:
    client = make_app(api_keys="key-0123456789abcdef", max_body_bytes=2048, max_running=1, max_waiting=0).test_client()
    path, key = PATHS[kind], {"x-api-key": "key-0123456789abcdef"}
    sent = body(kind)
    answers = {
        401: client.post(path, json=sent),
        413: client.post(path, json={**sent, "x": "y" * 4000}, headers=key),
        415: client.post(path, data=b"{}", content_type="text/plain", headers=key),
        405: client.get(path, headers=key),
        404: client.post(path, json={**sent, "model": "gpt-4"}, headers=key),
        400: client.post(path, json={**sent, "think_harder": 1}, headers=key),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        error_of(kind, answer.get_json())
    kinds = {status: answer.get_json()["error"]["type"] for status, answer in answers.items()}
    assert kinds[401] == "authentication_error" and kinds[400] == "invalid_request_error"
    assert kinds[413] == ("request_too_large" if kind == "messages" else "invalid_request_error")


class Held:
    """Somebody who has the only slot."""

    def end(self, cause: object) -> None:
        pass


@every
def test_a_full_queue_says_when_to_try_again(make_app: Make, kind: str) -> None:
    app = make_app(max_running=1, max_waiting=0)
    app.run(app.service.admission.enter(Held()))
    answer = app.test_client().post(PATHS[kind], json=body(kind))
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
    assert error_of(kind, answer.get_json())["type"] == "rate_limit_error"


@every
def test_while_loading_and_draining_it_is_503(make_app: Make, kind: str) -> None:
    loading = make_app({"load_s": 30}, wait=False).test_client()
    answer = loading.post(PATHS[kind], json=body(kind), headers={"x-request-timeout": "0.2"})
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
    assert error_of(kind, answer.get_json())["type"] == ("overloaded_error" if kind == "messages" else "server_error")
    app = make_app()
    app.run(app.service.drain())
    answer = app.test_client().post(PATHS[kind], json=body(kind))
    assert answer.status_code == 503 and "shutting down" in error_of(kind, answer.get_json())["message"]


@every
def test_an_answer_is_timed_logged_and_counted_by_its_route(
    app: App, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    with caplog.at_level("INFO", logger="chatbot_llm.request"):
        answer = app.test_client().post(PATHS[kind], json=body(kind, 6), headers={"x-request-id": "abc-1"})
    assert "queue;dur=" in answer.headers["Server-Timing"] and answer.headers["x-request-id"] == "abc-1"
    assert "abc-1" in answer.get_json()["id"]
    (line,) = [record.fields for record in caplog.records if record.name == "chatbot_llm.request"]
    assert (line["route"], line["outcome"]) == (PATHS[kind], "ok")
    assert line["completion_tokens"] == 6 and line["prompt_tokens"] == 1
    series = f'chatbot_requests_total{{outcome="ok",route="{PATHS[kind]}"}} 1.0'
    assert series in app.service.metrics.render().decode()


@every
def test_text_that_looks_like_a_streams_end_is_text(client: Client, kind: str) -> None:
    text = "a \n\nevent: response.completed\ndata: [DONE]\n\nevent: message_stop\n\n\u2028 b"
    sent = scripted(kind, 12, stream=True, text=text)
    reported = streamed(kind, client.post(PATHS[kind], json=sent).get_data(as_text=True))
    assert reported.finish == "length" and reported.text.startswith(text) and not reported.error


@pytest.mark.long
@every
def test_a_thousand_requests_leave_nothing_behind(app: App, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    client = app.test_client()
    caplog.set_level("CRITICAL", logger="chatbot_llm")  # pytest keeps what is logged

    def ask(times: int) -> Counter[str]:
        for number in range(times):
            client.post(PATHS[kind], json=body(kind, 2, stream=number % 2 == 0))
        gc.collect()
        return Counter(type(thing).__name__ for thing in gc.get_objects())

    before = ask(50)
    grown = ask(1000) - before
    assert sum(grown.values()) < 500, grown.most_common(5)


def test_each_route_belongs_to_one_protocol(app: App) -> None:
    owned = [path for protocol in protocols.PROTOCOLS.values() for path in protocol.paths]
    routes = {str(rule) for rule in app.door.app.url_map.iter_rules() if "POST" in (rule.methods or ())}
    assert len(owned) == len(set(owned)) and set(owned) == routes - {"/initialize", "/invoke"}
    assert protocols.of_path("/v1/messages/batches").kind == "messages" and protocols.of_path("/").kind == "chat"


def test_the_events_of_a_stream_are_whole(client: Client) -> None:
    raw = client.post("/v1/responses", json=body("responses", 1, stream=True)).get_data(as_text=True)
    assert [name.removeprefix("response.") for name, _ in events(raw)] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]
    raw = client.post("/v1/messages", json=body("messages", 1, stream=True)).get_data(as_text=True)
    assert [name for name, _ in events(raw)] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_a_cut_of_the_drain_is_told(make_app: Make) -> None:
    app = make_app(drain_s=0.2)
    client = app.test_client()

    async def together() -> None:
        await asyncio.sleep(0.3)
        await app.service.drain()

    draining = asyncio.run_coroutine_threadsafe(together(), app._loop)
    sent = scripted("responses", 4000, stream=True, token_s=0.02)
    assert streamed("responses", client.post("/v1/responses", json=sent).get_data(as_text=True)).finish == "length"
    draining.result(10)
