"""An engine that dies surprises nobody: callers are told, /health says so, the process ends, a new one serves."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from callers import Later, Line, call, chat, chat_body, post_bytes, stream
from chatbot_llm.engine import supervisor
from chatbot_llm.settings import Settings
from figures import MEASURING, Figure
from launcher import ServiceProcess, until

Start = Callable[..., ServiceProcess]
EXIT_WITHIN_S = 5.0
#: How long the engine may be silent here, seconds; where figures are asked for, as long as in production.
HANG_S = Settings().hang_s if MEASURING else 2.0


def ready_at(service: ServiceProcess) -> float:
    """When the service said that it was ready, by its log."""
    line = next(line for line in service.log().splitlines() if '"msg": "ready"' in line)
    return datetime.fromisoformat(line.split(" ")[0]).timestamp()


def assert_ends(service: ServiceProcess, reason: str, died: float) -> None:
    assert service.wait_exit(EXIT_WITHIN_S) not in (0, None)
    assert time.monotonic() - died < EXIT_WITHIN_S + 1
    assert reason in service.log()
    service.assert_nothing_left()


@pytest.mark.parametrize(
    ("script", "settings", "reason"),
    [
        ({"die_s": 3}, {}, "the engine died: the script says so"),
        ({"hang_s": 1}, {"hang_s": HANG_S}, f"the engine has not answered for {HANG_S:g} s"),
    ],
    ids=["death", "hang"],
)
def test_everybody_inside_is_told_and_the_process_ends(
    start: Start, figure: Figure, script: dict[str, Any], settings: dict[str, Any], reason: str
) -> None:
    service = start(script=script, max_running=2, max_waiting=2, **settings).wait_ready()
    silent = Later(lambda: chat(service.port, 4000, token_s=0.05))
    streaming = Later(lambda: stream(service.port, 4000, token_s=0.05))
    until(lambda: service.running() == 2, "both run")
    waiting = Later(lambda: chat(service.port, 1))
    healthy, ill = service.turned_unhealthy()
    died = time.monotonic()
    what, after_s, within_s = ("death", script["die_s"], 1.0) if "die_s" in script else ("hang", script["hang_s"], 30.0)
    struck = ready_at(service) + after_s
    assert healthy < struck + within_s, "/health says so in time"
    figure(f"{what}_noticed", ill - struck, "s")
    reported = silent.get()
    assert reported.status == 500 and reason in reported.json["error"]["message"]
    cut = streaming.get()
    assert cut.error is not None and reason in cut.error["message"] and cut.done
    assert waiting.get().status == 503
    assert_ends(service, reason, died)
    assert '"outcome": "ok"' not in service.log(), "no answer was whole, though a stream had begun with 200"
    figure(f"{what}_ended", time.time() - struck, "s")


def test_after_a_death_a_new_process_serves_on_the_same_port(start: Start) -> None:
    first = start(script={"die_s": 0.5}).wait_listening()
    assert first.wait_exit(20) != 0
    second = start(port=first.port).wait_ready()
    assert chat(second.port, 3).status == 200


def test_a_failure_while_loading_is_the_answer_to_initialize(start: Start) -> None:
    service = start(script={"load_s": 1, "fail_load": "CUDA error: out of memory"}).wait_listening()
    waiting = Later(lambda: chat(service.port, 1))
    initialize = Later(lambda: call(service.port, "POST", "/initialize", b""))
    reported = initialize.get()
    died = time.monotonic()
    assert reported.status == 500 and "CUDA error: out of memory" in reported.json["error"]["message"]
    assert waiting.get().status == 503
    assert_ends(service, "CUDA error: out of memory", died)


def test_initialize_called_right_after_a_failure_still_gets_the_reason(start: Start) -> None:
    service = start(script={"fail_load": "no such kernel"}).wait_listening()
    until(lambda: service.health()["state"] == "failed", "loading has failed")
    reported = call(service.port, "POST", "/initialize", b"")
    assert reported.status == 500 and "no such kernel" in reported.json["error"]["message"]
    refused = chat(service.port, 1)
    assert refused.status == 503, "nobody waits for an engine that will not come"
    assert_ends(service, "no such kernel", time.monotonic())


def test_a_hang_is_noticed_within_thirty_seconds() -> None:
    assert supervisor.PING_S + Settings().hang_s + 2 * supervisor.WATCH_S < 30


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=["kill -9", "crash"])
def test_a_worker_that_is_killed_ends_the_whole_process(start: Start, number: signal.Signals) -> None:
    service = start().wait_ready()
    service.worker.send_signal(number)
    assert service.wait_exit(EXIT_WITHIN_S) not in (0, None)
    service.assert_nothing_left()


def test_no_process_outlives_a_master_that_was_killed(start: Start, figure: Figure) -> None:
    service = start().wait_ready()
    with Line(service.port, post_bytes(chat_body(4000, token_s=0.1))):
        until(lambda: service.running() == 1, "it runs")
        service.process.kill()
        killed = time.monotonic()
        service.wait_exit(5)
        service.assert_nothing_left()
        figure("killed_gone", time.monotonic() - killed, "s")
        figure("killed_left", len(service.tree()), "processes")
