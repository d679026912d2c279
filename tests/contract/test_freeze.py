"""FC stops an instance between requests, for minutes or hours: what it does to clocks and connections.

A freeze here is SIGSTOP of the whole tree. Five seconds are long: longer than the engine may be silent and longer than
the deadlines below. `make figures` takes two minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from callers import Later, Line, call, chat, stream
from figures import MEASURING, Figure
from launcher import ServiceProcess, until
from speakers import PATHS, Reply, scripted, streamed

FROZEN_S = 120.0 if MEASURING else 5.0
HEADER = "x-request-timeout"


@pytest.fixture(scope="module")
def service(start_once: Callable[..., ServiceProcess]) -> ServiceProcess:
    return start_once(max_running=2, max_waiting=2, hang_s=1, read_timeout_s=4).wait_ready()


def freeze(service: ServiceProcess) -> None:
    with service.frozen():
        time.sleep(FROZEN_S)


def test_frozen_with_nobody_inside_it_serves_on(service: ServiceProcess, figure: Figure) -> None:
    with Line(service.port, b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n") as kept:
        kept.read_until(b"scripted")
        with Line(service.port, b"GET /version HTTP/1.1\r\nHost:") as half:
            time.sleep(0.6)
            freeze(service)
            half.send(b" t\r\n\r\n")
            assert half.read_until(b"scripted").startswith(b"HTTP/1.1 200"), "begun before, finished after"
        kept.send(b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n")
        assert kept.read_until(b"scripted").startswith(b"HTTP/1.1 200")
    assert chat(service.port, 5).status == 200
    until(lambda: service.metrics()["chatbot_frozen_seconds"] >= FROZEN_S - 2, "the freeze was noticed", 2)
    time.sleep(2)  # the engine is asked whether it lives a few times more
    assert service.health()["ready"]
    figure("frozen_idle", FROZEN_S, "s")


def test_frozen_amid_answers_they_go_on_and_deadlines_move(service: ServiceProcess, figure: Figure) -> None:
    deadline_s = 4
    deadline = {HEADER: str(deadline_s)}
    streaming = Later(lambda: stream(service.port, 40, token_s=0.05, headers=deadline))
    endless = Later(lambda: chat(service.port, 4000, token_s=0.05, headers=deadline))
    until(lambda: service.running() == 2, "both run")
    waiting = Later(lambda: chat(service.port, 3, headers={HEADER: "5"}))
    until(lambda: service.health()["waiting"] == 1, "one waits")
    time.sleep(0.3)
    freeze(service)
    whole = streaming.get()
    assert (len(whole.words), whole.done, whole.error) == (40, True, None)
    answered = waiting.get()
    assert (answered.status, answered.json["usage"]["completion_tokens"]) == (200, 3), "no spurious deadline"
    cut = endless.get()
    assert cut.finish == "length", "a deadline moves, it does not go away"
    assert FROZEN_S + 2 < cut.seconds < FROZEN_S + 6
    figure("frozen", FROZEN_S, "s")
    figure("frozen_moved", cut.seconds - deadline_s, "s")
    figure("frozen_words", len(whole.words), "words")
    service.wait_idle()


def test_frozen_amid_an_answer_of_any_protocol_it_goes_on(service: ServiceProcess) -> None:
    deadline = {HEADER: "4"}

    def ask(kind: str) -> Reply:
        sent = scripted(kind, 40, stream=True, token_s=0.05)
        return streamed(kind, call(service.port, "POST", PATHS[kind], sent, headers=deadline).body.decode())

    calls = [Later(lambda kind=kind: ask(kind)) for kind in ("responses", "messages")]
    until(lambda: service.running() == 2, "both run")
    time.sleep(0.3)
    freeze(service)
    for one in calls:
        reply = one.get()
        assert (reply.completion, reply.pieces, reply.error) == (40, 40, ""), "no spurious deadline"
    service.wait_idle()
