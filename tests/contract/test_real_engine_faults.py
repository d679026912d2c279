"""What only the real engine can show: its process killed, stopped, frozen, orphaned, out of memory; its cache free."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

import speakers
from callers import Answer, Events, Later, Line, call, gather, post_bytes
from figures import MEASURING, Figure
from launcher import ONE_LAYER, ROOT, ServiceProcess, until
from speakers import KINDS, PATHS

pytestmark = pytest.mark.engine

Start = Callable[..., ServiceProcess]
#: Two busy cores; the bundled model is unpacked on the first start ever.
START_S = 300.0
HANG_S = 5.0
EXIT_WITHIN_S = 5.0
#: Longer than the engine may be silent; minutes when they are asked for.
FROZEN_S = 120.0 if MEASURING else HANG_S + 6
#: What is measured is measured with the whole model.
MODEL = [] if MEASURING else ONE_LAYER


STORY = "Tell me a long story about a river."


def body(words: int, *, stream: bool = False) -> dict[str, object]:
    """A chat that generates exactly `words` tokens."""
    ask = [{"role": "user", "content": STORY}]
    return {"messages": ask, "max_tokens": words, "min_tokens": words, "ignore_eos": True, "stream": stream}


def chat(service: ServiceProcess, words: int, timeout: str = "60") -> Answer:
    return call(service.port, "POST", "/chat", body(words), headers={"x-request-timeout": timeout}, timeout=90)


def engine_process(service: ServiceProcess) -> psutil.Process:
    """vLLM's EngineCore: the fattest below the worker."""
    family = service.worker.children(recursive=True)
    return max(family, key=lambda process: process.memory_info().rss)


def busy(service: ServiceProcess) -> float:
    metrics = service.metrics()
    return sum(value for name, value in metrics.items() if name.startswith("vllm:num_requests_running"))


def cache_in_use(service: ServiceProcess) -> float:
    metrics = service.metrics()
    return sum(value for name, value in metrics.items() if name.startswith("vllm:kv_cache_usage_perc"))


@pytest.fixture(scope="module")
def service(start_once: Start) -> ServiceProcess:
    """One real engine for everything that it survives, and for its end."""
    return start_once(argv=MODEL, engine="vllm", profile="cpu", hang_s=HANG_S, max_running=4).wait_ready(START_S)


@pytest.fixture
def doomed(start: Start) -> Iterator[ServiceProcess]:
    yield start(argv=MODEL, engine="vllm", profile="cpu", hang_s=HANG_S, max_running=4).wait_ready(START_S)


def test_a_deadline_gives_the_partial_text_and_frees_the_cache(service: ServiceProcess, figure: Figure) -> None:
    deadline_s = 4  # a busy machine may need two of them for the first word
    answer = chat(service, 2000, timeout=str(deadline_s))
    over = time.monotonic()
    assert (answer.status, answer.finish) == (200, "length")
    assert answer.text and answer.json["usage"]["completion_tokens"] < 2000
    until(lambda: busy(service) == 0 and cache_in_use(service) == 0, "vLLM has nothing left of it", 15)
    figure("vllm_late", answer.seconds - deadline_s, "s")
    figure("vllm_late_cache", time.monotonic() - over, "s")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True], ids=["silent", "streaming"])
def test_a_client_that_leaves_frees_vllm_too(service: ServiceProcess, figure: Figure, kind: str, stream: bool) -> None:
    sent = body(3000, stream=stream) if kind == "chat" else speakers.body(kind, 3000, STORY, stream=stream)
    line = Line(service.port, post_bytes(sent, PATHS[kind]))
    until(lambda: service.running() == 1, "it runs")
    time.sleep(1)
    line.close()
    left = time.monotonic()
    service.wait_idle(2)
    figure("vllm_freed", time.monotonic() - left, "s")
    until(lambda: busy(service) == 0 and cache_in_use(service) == 0, "vLLM has nothing left of it", 15)
    figure("vllm_freed_cache", time.monotonic() - left, "s")


def test_a_client_that_leaves_at_the_last_event_has_left_nothing(service: ServiceProcess) -> None:
    whole = "chatbot_requests_total[ok][/chat]"
    before, clients = service.metrics().get(whole, 0), 20
    for _ in range(clients):
        with Line(service.port, post_bytes(body(2, stream=True))) as line:
            line.read_until(b"[DONE]\n\n")
    until(lambda: service.metrics().get(whole, 0) == before + clients, "all are counted as whole")


def freeze(service: ServiceProcess) -> None:
    with service.frozen():
        time.sleep(FROZEN_S)


def test_frozen_amid_a_stream_it_goes_on(service: ServiceProcess, figure: Figure) -> None:
    whole = "chatbot_requests_total[ok][/chat]"
    before = service.metrics().get(whole, 0)
    with Events(service.port, body(20, stream=True), headers={"x-request-timeout": "60"}) as events:
        lines = iter(events)
        next(lines)
        freeze(service)
        rest = gather(lines)
    assert rest.done and rest.error is None
    until(lambda: service.metrics().get(whole, 0) == before + 1, "it is counted as whole, not as cut short")
    figure("vllm_frozen", FROZEN_S, "s")


def test_frozen_with_nobody_inside_it_serves_on(service: ServiceProcess, figure: Figure) -> None:
    freeze(service)
    woken = time.monotonic()
    answer = chat(service, 5)
    assert (answer.status, answer.json["usage"]["completion_tokens"]) == (200, 5)
    figure("vllm_frozen_idle", FROZEN_S, "s")
    figure("vllm_woken", time.monotonic() - woken, "s")
    time.sleep(HANG_S + 6)
    assert service.health()["ready"], "nobody took a freeze for a hang"


def reported_and_gone(service: ServiceProcess, strike: Callable[[], None], unhealthy_s: float) -> tuple[float, float]:
    """Whatever `strike` does to the engine: /health, both kinds of callers and the exit status tell of it in time.

    Returns the seconds until /health did and until the process had ended.
    """
    silent = Later(lambda: chat(service, 3000))
    with Events(service.port, body(3000, stream=True)) as events:
        lines = iter(events)
        next(lines)
        until(lambda: service.running() == 2, "both run")
        time.sleep(1)
        strike()
        struck = time.time()
        healthy, ill = service.turned_unhealthy(unhealthy_s + 30)
        assert healthy < struck + unhealthy_s, "/health says so in time"
        reported = silent.get(5)
        assert reported.status == 500 and reported.json["error"]["code"] == "engine_error"
        cut = gather(lines)
    assert cut.error is not None and cut.error["code"] == "engine_error" and cut.done
    assert service.wait_exit(unhealthy_s + EXIT_WITHIN_S) not in (0, None)
    ended = time.time()
    assert ended < struck + unhealthy_s + EXIT_WITHIN_S
    service.assert_nothing_left()
    return ill - struck, ended - struck


def test_an_engine_process_that_hangs(doomed: ServiceProcess) -> None:
    # its next ping may be 5 s away, and is given up after hang_s
    reported_and_gone(doomed, lambda: engine_process(doomed).send_signal(signal.SIGSTOP), 5 + HANG_S + 1)


# That a worker ends with its master is the same with any engine (test_engine_death.py).
@pytest.mark.parametrize("who", ["worker", "master"] if MEASURING else ["worker"])
def test_no_engine_process_is_orphaned(doomed: ServiceProcess, figure: Figure, who: str) -> None:
    (doomed.process if who == "master" else doomed.worker).send_signal(signal.SIGKILL)
    killed = time.monotonic()
    doomed.wait_exit(10)
    doomed.assert_nothing_left(10)
    figure("vllm_killed_gone", time.monotonic() - killed, "s")
    figure("vllm_killed_left", len(doomed.tree()), "processes")


def test_a_card_that_runs_out_of_memory(start: Start, figure: Figure) -> None:
    flags = ["--distributed-executor-backend", "support.out_of_memory.SmallCard"]
    env = {"PYTHONPATH": f"{ROOT / 'code'}:{ROOT / 'tests'}", "BENCH_STEP_S": "0.02"}
    service = start(engine="vllm", profile="cpu", argv=flags, env=env, max_running=4).wait_ready(START_S)
    one_too_many: list[Later[Answer]] = []
    noticed, ended = reported_and_gone(service, lambda: one_too_many.append(Later(lambda: chat(service, 3000))), 1)
    assert one_too_many[0].get(5).json["error"]["code"] == "engine_error"
    assert "OutOfMemoryError: CUDA out of memory. Tried to allocate" in service.log()
    assert '"outcome": "ok"' not in service.log(), "no answer was whole, though a stream had begun with 200"
    figure("memory_noticed", noticed, "s")
    figure("memory_ended", ended, "s")


def test_sigterm_while_loading_leaves_nothing(start: Start) -> None:
    service = start(argv=MODEL, engine="vllm", profile="cpu").wait_listening()
    until(lambda: service.health()["phase"] in ("spawn", "weights", "kv_cache"), "the engine process is there", START_S)
    service.terminate()
    assert service.wait_exit(20) == 0
    service.assert_nothing_left(10)


def test_kill_9_of_the_engine_process(service: ServiceProcess, figure: Figure) -> None:
    # stays the last one here: the others share this service, and a start of the real engine takes most of a minute
    noticed, ended = reported_and_gone(service, engine_process(service).kill, 1)
    figure("vllm_death_noticed", noticed, "s")
    figure("vllm_death_ended", ended, "s")
