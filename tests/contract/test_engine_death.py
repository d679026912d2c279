"""An engine that dies surprises nobody: callers are told, /health says so, the process ends, a new one serves."""

from __future__ import annotations

import contextlib
import http.client
import signal
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from callers import Later, Line, call, chat, chat_body, post_bytes, stream
from chatbot_llm.engine import loop_engine
from chatbot_llm.settings import Settings
from launcher import Service, until

Start = Callable[..., Service]
EXIT_WITHIN_S = 5.0


def last_healthy(service: Service) -> float:
    """Wait until /health does not say 200 any more; the wall clock's time when it last did."""
    seen = 0.0

    def sick() -> bool:
        nonlocal seen
        asked = time.time()
        with contextlib.suppress(OSError, http.client.HTTPException):
            if service.call("GET", "/health", timeout=5).status == 200:
                seen = asked
                return False
        return True

    until(sick, "it is unhealthy", 40)
    return seen


def ready_at(service: Service) -> float:
    """When the service said that it was ready, by its log."""
    line = next(line for line in service.log().splitlines() if '"msg": "ready"' in line)
    return datetime.fromisoformat(line.split(" ")[0]).timestamp()


def assert_ends(service: Service, reason: str, died: float) -> None:
    assert service.wait_exit(EXIT_WITHIN_S) not in (0, None)
    assert time.monotonic() - died < EXIT_WITHIN_S + 1
    assert reason in service.log()
    service.assert_nothing_left()


@pytest.mark.parametrize(
    ("script", "settings", "reason"),
    [
        ({"die_s": 3}, {}, "the engine died: the script says so"),
        ({"hang_s": 1}, {"hang_s": 2}, "the engine has not answered for 2 s"),
    ],
    ids=["death", "hang"],
)
def test_everybody_inside_is_told_and_the_process_ends(
    start: Start, script: dict[str, Any], settings: dict[str, Any], reason: str
) -> None:
    service = start(script=script, max_running=2, max_waiting=2, **settings).wait_ready()
    silent = Later(lambda: chat(service.port, 4000, token_s=0.05))
    streaming = Later(lambda: stream(service.port, 4000, token_s=0.05))
    until(lambda: service.running() == 2, "both run")
    waiting = Later(lambda: chat(service.port, 1))
    healthy = last_healthy(service)
    died = time.monotonic()
    if "die_s" in script:
        assert healthy < ready_at(service) + script["die_s"] + 1.0, "/health says so within a second"
    told = silent.get()
    assert told.status == 500 and reason in told.json["error"]["message"]
    cut = streaming.get()
    assert cut.error is not None and reason in cut.error["message"] and cut.done
    assert waiting.get().status == 503
    assert_ends(service, reason, died)


def test_after_a_death_a_new_process_serves_on_the_same_port(start: Start) -> None:
    first = start(script={"die_s": 0.5}).wait_listening()
    assert first.wait_exit(20) != 0
    second = start(port=first.port).wait_ready()
    assert chat(second.port, 3).status == 200


def test_a_failure_while_loading_is_the_answer_to_initialize(start: Start) -> None:
    service = start(script={"load_s": 1, "fail_load": "CUDA error: out of memory"}).wait_listening()
    waiting = Later(lambda: chat(service.port, 1))
    initialize = Later(lambda: call(service.port, "POST", "/initialize", b""))
    told = initialize.get()
    died = time.monotonic()
    assert told.status == 500 and "CUDA error: out of memory" in told.json["error"]["message"]
    assert waiting.get().status == 503
    assert_ends(service, "CUDA error: out of memory", died)


def test_initialize_called_right_after_a_failure_still_gets_the_reason(start: Start) -> None:
    service = start(script={"fail_load": "no such kernel"}).wait_listening()
    until(lambda: service.health()["state"] == "failed", "loading has failed")
    told = call(service.port, "POST", "/initialize", b"")
    assert told.status == 500 and "no such kernel" in told.json["error"]["message"]
    refused = chat(service.port, 1)
    assert refused.status == 503, "nobody waits for an engine that will not come"
    assert_ends(service, "no such kernel", time.monotonic())


def test_a_hang_is_noticed_within_thirty_seconds() -> None:
    assert loop_engine.PING_S + Settings().hang_s + 2 * loop_engine.WATCH_S < 30


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=["kill -9", "crash"])
def test_a_worker_that_is_killed_ends_the_whole_process(start: Start, number: signal.Signals) -> None:
    service = start().wait_ready()
    service.worker.send_signal(number)
    assert service.wait_exit(EXIT_WITHIN_S) not in (0, None)
    service.assert_nothing_left()


def test_no_process_outlives_a_master_that_was_killed(start: Start) -> None:
    service = start().wait_ready()
    with Line(service.port, post_bytes(chat_body(4000, token_s=0.1))):
        until(lambda: service.running() == 1, "it runs")
        service.process.kill()
        service.wait_exit(5)
        service.assert_nothing_left()
