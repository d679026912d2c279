"""The end of an instance: nothing new, what runs finishes within the limit, nothing is cut without saying so."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable

import pytest

from callers import Answer, Later, Line, call, chat, chat_body, post_bytes, stream
from figures import Figure
from launcher import ServiceProcess, until
from speakers import KINDS, PATHS, Reply, scripted, streamed, whole

Start = Callable[..., ServiceProcess]


def test_pre_stop_lets_everything_finish_and_refuses_the_rest(start: Start, figure: Figure) -> None:
    service = start(max_running=2, max_waiting=2).wait_ready()
    streaming = Later(lambda: stream(service.port, 40, token_s=0.05))
    silent = Later(lambda: chat(service.port, 40, token_s=0.05))
    until(lambda: service.running() == 2, "both run")
    waiting = Later(lambda: chat(service.port, 2))
    until(lambda: service.health()["waiting"] == 1, "one waits")
    pre_stop = Later(lambda: call(service.port, "GET", "/pre-stop"))
    until(lambda: service.health()["state"] == "draining", "it drains")
    assert service.call("GET", "/health").status == 503
    refused = chat(service.port, 1)
    assert (refused.status, refused.json["error"]["code"]) == (503, "draining")
    assert int(refused.headers["retry-after"]) >= 1
    assert len(streaming.get().words) == 40
    assert silent.get().json["usage"]["completion_tokens"] == 40
    assert waiting.get().status == 200, "what was inside stays inside"
    answered = time.monotonic()
    reported: Answer = pre_stop.get()
    figure("drained", time.monotonic() - answered, "s")
    assert (reported.status, reported.json) == (200, {"state": "drained", "cut_short": False})
    ending = time.monotonic()
    service.terminate()
    assert service.wait_exit(5) == 0
    figure("drained_exit", time.monotonic() - ending, "s")
    service.assert_nothing_left()


def test_sigterm_lets_running_requests_finish(start: Start) -> None:
    service = start(max_running=2).wait_ready()
    streaming = Later(lambda: stream(service.port, 40, token_s=0.05))
    silent = Later(lambda: chat(service.port, 40, token_s=0.05))
    until(lambda: service.running() == 2, "both run")
    service.terminate()
    answer = streaming.get()
    assert (len(answer.words), answer.done, answer.error) == (40, True, None)
    assert silent.get().json["usage"]["completion_tokens"] == 40
    assert service.wait_exit(5) == 0
    service.assert_nothing_left()


def test_nothing_new_is_begun_after_sigterm(start: Start) -> None:
    service = start(max_running=2).wait_ready()
    with Line(service.port, b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n") as kept:
        kept.read_until(b"scripted")
        running = Later(lambda: stream(service.port, 40, token_s=0.05))
        until(lambda: service.running() == 1, "it runs")
        service.terminate()
        until(lambda: "Handling signal: term" in service.log(), "the signal has come")
        with contextlib.suppress(ConnectionError):
            kept.send(post_bytes(chat_body(1)))
            answer = kept.read_all()
            assert answer == b"" or b"503" in answer.split(b"\r\n")[0]
        with contextlib.suppress(ConnectionError):
            assert chat(service.port, 1).status == 503
        assert len(running.get().words) == 40


def test_at_the_limit_what_still_runs_is_cut_and_says_so(start: Start, figure: Figure) -> None:
    limit_s = 0.5
    service = start(max_running=2, max_waiting=2, drain_s=limit_s).wait_ready()
    streaming = Later(lambda: stream(service.port, 4000, token_s=0.05))
    silent = Later(lambda: chat(service.port, 4000, token_s=0.05))
    until(lambda: service.running() == 2, "both run")
    waiting = Later(lambda: chat(service.port, 2))
    until(lambda: service.health()["waiting"] == 1, "one waits")
    ending = time.monotonic()
    service.terminate()
    cut = streaming.get()
    assert (cut.finish, cut.done) == ("length", True) and cut.words
    assert (silent.get().status, silent.get().finish) == (200, "length")
    figure("drain_cut_late", time.monotonic() - ending - limit_s, "s")
    reported = waiting.get()
    assert (reported.status, reported.json["error"]["code"]) == (503, "draining")
    assert service.wait_exit(5) == 0
    service.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_ends_it_at_once(start: Start, number: signal.Signals) -> None:
    service = start(drain_s=60).wait_ready()
    with Line(service.port, post_bytes(chat_body(4000, token_s=0.1))):
        until(lambda: service.running() == 1, "it runs")
        service.terminate()
        until(lambda: "Handling signal: term" in service.log(), "the signal has come")
        assert service.process.poll() is None
        began = time.monotonic()
        service.process.send_signal(number)
        assert service.wait_exit(10) == 0
        assert time.monotonic() - began < 3
    service.assert_nothing_left()


def test_connections_that_ask_nothing_do_not_hold_up_the_end(start: Start) -> None:
    service = start(drain_s=60, read_timeout_s=60).wait_ready()
    request = post_bytes(chat_body(1))
    with Line(service.port), Line(service.port, request[:-5]), Line(service.port, b"NONSENSE\r\n\r\n"):
        with Line(service.port, request) as kept:
            kept.read_until(b'"usage"')
            service.terminate()
            assert service.wait_exit(10) == 0
    service.assert_nothing_left()


def test_sigterm_while_loading_ends_it(start: Start) -> None:
    service = start(script={"load_s": 60}).wait_listening()
    service.terminate()
    assert service.wait_exit(10) == 0
    service.assert_nothing_left()


def test_every_protocol_says_in_its_own_words_that_it_was_cut(start: Start) -> None:
    ways = [(kind, streams) for kind in KINDS for streams in (False, True)]
    service = start(max_running=len(ways), drain_s=0.5).wait_ready()

    def ask(kind: str, streams: bool) -> Reply:
        answer = call(service.port, "POST", PATHS[kind], scripted(kind, 4000, stream=streams, token_s=0.05))
        return streamed(kind, answer.body.decode()) if streams else whole(kind, answer.json)

    calls = [Later(lambda way=way: ask(*way)) for way in ways]
    until(lambda: service.running() == len(ways), "all run")
    service.terminate()
    for one in calls:
        reply = one.get()
        assert reply.text and reply.finish == "length" and not reply.error
    assert service.wait_exit(5) == 0
