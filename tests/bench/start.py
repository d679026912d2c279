"""Cold start and waking: process start to listening, ready and first token; and the first token after a freeze."""

import signal
import time
from collections.abc import Callable
from typing import Any

import psutil

from bench.servers import Server, ask, chat, running

#: How long the process is stopped, seconds: longer than what the service takes for a freeze (3 s).
FROZEN_S = 5.0


def measure(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Starts of the service and of vLLM's server in turn, one alive at a time, files in the page cache."""
    cells = []
    for turn in range(rounds):
        for name in ("service", "vllm") if turn % 2 == 0 else ("vllm", "service"):
            with running(name) as server:
                cells.append(
                    {
                        "round": turn,
                        "peer": name,
                        "listening_s": server.listening_s,
                        "ready_s": server.ready_s,
                        "first_token_s": server.first_token_s,
                        "health_s": server.health_s,
                        "cpu_s": sum(server.cpu_s().values()),
                        "phases_s": server.phases,
                    }
                )
            say(f"{name}: listening {cells[-1]['listening_s']:.1f} s, first token {cells[-1]['first_token_s']:.1f} s")
    return cells


def first_token_ms(server: Server, question: str) -> float:
    begun = time.perf_counter()
    status, _ = ask(server.port, "POST", "/v1/chat/completions", chat(server.model, 1, question), 60)
    if status != 200:
        raise RuntimeError(f"status {status} from {server.name}")
    return 1000 * (time.perf_counter() - begun)


def wake(server: Server, rounds: int, say: Callable[[str], None]) -> list[dict[str, float]]:
    """First token after SIGSTOP of every process for some seconds, against one after the same time of idling."""
    cells = []
    for turn in range(rounds):
        ms = {}
        for name in ("idle", "frozen") if turn % 2 else ("frozen", "idle"):
            family = server.family() if name == "frozen" else []
            for process in family:
                process.send_signal(signal.SIGSTOP)
            time.sleep(FROZEN_S)
            for process in reversed(family):
                if process.status() == psutil.STATUS_STOPPED:
                    process.send_signal(signal.SIGCONT)
            ms[name] = first_token_ms(server, f"Is this question {turn} when {name}?")
        cells.append({"round": turn, "idle_ms": ms["idle"], "frozen_ms": ms["frozen"]})
        say(f"first token after idling {ms['idle']:.0f} ms, after a freeze {ms['frozen']:.0f} ms")
    return cells
