"""Flags against flags: what is started, what is claimed, and that nothing which did not run gets a figure."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra.commands import acceptance, smoke
from infra.errors import CheckFailed
from infra.image import variants

RIGHT = {prompt.text: prompt.expect for prompt in acceptance.prompts()}
SHIPPED = {"--max-num-batched-tokens": "2048", "--attention-backend": "TRITON_ATTN"}
EFFORT = variants.Effort(repeats=1, questions=1, tokens=8, prompts=20)
#: Seconds by the double's clock that an answer takes.
SLOW_S = 0.06


class VariantsDouble(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = {}
    #: What differs from SLOW_S, and what answers garbage, by a value that a variant sets.
    pace: Mapping[str, float] = {}
    garbage = ""
    longest = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.now, self._one_by_one = 0.0, threading.Lock()

    def work(self, seconds: float) -> None:
        with self._one_by_one:
            self.now += seconds

    # In place of the module `time`: what a busy machine takes decides nothing then.
    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.work(seconds)


class Handler(BaseHTTPRequestHandler):
    server: VariantsDouble
    protocol_version = "HTTP/1.0"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._reply({"status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self._reply({"count": 2 * len(body["prompt"].split())})
            return
        values = [*self.server.flags, *self.server.environment.values()]
        self.server.work(SLOW_S * min((self.server.pace.get(value, 1.0) for value in values), default=1.0))
        text = body["messages"][0]["content"]
        if body["max_tokens"] == 1:
            self.server.longest = max(self.server.longest, len(text.split()))
        text = "!!!!!!!!!!!!" if self.server.garbage in values else f"It is {RIGHT.get(text) or 'so'}."
        self._reply({"choices": [{"message": {"content": text}}], "usage": {"completion_tokens": 8}})

    def _reply(self, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


class Started:
    """A target whose service is the double; `broken` values keep it from starting, as vLLM refuses a backend."""

    def __init__(self, service: VariantsDouble, broken: tuple[str, ...]) -> None:
        self._service, self._broken = service, broken

    def __call__(self, flags: Sequence[str], environment: Mapping[str, str]) -> tuple[Started, str]:
        self._service.flags, self._service.environment = flags, environment
        return self, f"http://127.0.0.1:{self._service.server_port}"

    def start(self) -> None:
        self.up = 1

    def running(self) -> bool:
        return not set(self._service.flags) & set(self._broken)

    def log(self) -> str:
        return "Traceback ...\n  raise\nValueError: no such backend on this machine\n(EngineCore) bye"

    def stop(self, limit_s: int) -> int:
        return 0

    def remove(self) -> None:
        self.up = 0


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[VariantsDouble]:
    with VariantsDouble() as server:
        for module in (variants, smoke):
            monkeypatch.setattr(module, "time", server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("at_one", "at_ten", "wins"), [(1.2, 1.0, True), (1.01, 1.01, False), (2.0, 0.9, False)])
def test_a_winner_gains_on_average_and_loses_nowhere(at_one: float, at_ten: float, wins: bool) -> None:
    base = variants.Outcome("base", ttft_ms={512: 100.0}, tokens_per_s={1: 10.0, 10: 50.0})
    found = variants.Outcome("it", ttft_ms={512: 100.0}, tokens_per_s={1: 10 * at_one, 10: 50 * at_ten})
    assert found.wins(base) == wins


#: Two of them of one topic, one that changes nothing, and one that only a card can run.
TRIED = [
    variants.Variant("good chunks", "chunks", {"--max-num-batched-tokens": "4096"}),
    variants.Variant("as it is", "chunks", {"--max-num-batched-tokens": "2048"}),
    variants.Variant("another backend", "attention", {"--attention-backend": "FLEX_ATTENTION"}),
    variants.Variant("int8", "marlin", {"VLLM_MARLIN_INPUT_DTYPE": "int8"}, needs="Marlin's kernels"),
]


def compared(
    service: VariantsDouble, card: bool = True, broken: tuple[str, ...] = ()
) -> tuple[dict[str, object], list[str]]:
    """(outcome by name, the recommended diff)."""
    target = Started(service, broken)
    found = variants.compare(target, TRIED, card, 5, EFFORT, SHIPPED)
    assert target.up == 0, "taken down, whatever happened"
    return {each["name"]: each for each in found["variants"]}, found["recommended"]


def test_what_wins_is_recommended_as_a_diff_of_the_profile(service: VariantsDouble) -> None:
    service.pace = {"4096": 0.3}
    outcomes, diff = compared(service)
    assert [*outcomes] == ["as shipped", "good chunks", "another backend", "int8", "as shipped, again"]
    assert diff[3:] == ['-"--max-num-batched-tokens": "2048",', '+"--max-num-batched-tokens": "4096",']
    assert [each["tokens_per_s"][10] for each in outcomes.values() if not each["fault"]] == pytest.approx(
        [8 / SLOW_S, 8 / SLOW_S / 0.3, 8 / SLOW_S, 8 / SLOW_S, 8 / SLOW_S]
    )
    assert outcomes["good chunks"]["same"] == outcomes["good chunks"]["same_beginning"] == 20
    assert service.longest == 2000, "4000 tokens, where a word is two"


def test_winners_of_two_topics_are_tried_together(service: VariantsDouble) -> None:
    service.pace = {"4096": 0.3, "int8": 0.3}
    outcomes, diff = compared(service)
    assert "together" in outcomes
    assert {'+"VLLM_MARLIN_INPUT_DTYPE": "int8",', '+"--max-num-batched-tokens": "4096",'} <= set(diff)


def test_a_fast_variant_that_answers_garbage_is_not_recommended(service: VariantsDouble) -> None:
    service.pace, service.garbage = {"int8": 0.3}, "int8"
    outcomes, diff = compared(service)
    assert outcomes["int8"]["faults"] == 20 and outcomes["int8"]["same"] == 0
    assert diff == []


def test_what_does_not_start_has_a_reason_and_no_figure(
    service: VariantsDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes, diff = compared(service, broken=("FLEX_ATTENTION",))
    refused = outcomes["another backend"]
    assert refused["fault"] == "it does not start: ValueError: no such backend on this machine"
    assert refused["start_s"] == 0 and refused["ttft_ms"] == refused["tokens_per_s"] == {}
    assert "the profile stays as it is" in capsys.readouterr().out and diff == []


def test_what_only_a_card_can_run_is_not_started_without_one(service: VariantsDouble) -> None:
    outcomes, _ = compared(service, card=False)
    assert outcomes["int8"]["fault"] == "not tried: it needs Marlin's kernels, which only an NVIDIA card has"


def test_without_the_shipped_service_there_is_nothing_to_compare_with(service: VariantsDouble) -> None:
    target = Started(service, ())
    target.running = lambda: False  # type: ignore[method-assign]
    with pytest.raises(CheckFailed, match="as shipped: it does not start"):
        variants.compare(target, TRIED, True, 5, EFFORT, SHIPPED)


def test_graphs_are_captured_by_tokens() -> None:
    """Sixteen requests with three drafted tokens each are 64 tokens; where nothing is drafted a request is one."""

    def sizes(flags: Mapping[str, str]) -> list[int]:
        return list(json.loads(flags["--compilation-config"])["cudagraph_capture_sizes"])

    assert sizes(variants.speculation(3)) == [4, 8, 16, 32, 64]
    assert sizes(variants.speculation(2)) == [3, 6, 12, 24, 48]
    assert sizes(variants.speculation(3, up_to=4)) == [1, 2, 4, 8, 16]
    assert "--compilation-config" not in variants.speculation(3, graphs=False)


def test_the_questions_are_many_and_each_has_passages() -> None:
    bodies = variants.questions()
    assert len({body["messages"][0]["content"] for body in bodies}) == len(bodies) >= 60
    assert all(len({each["title"] for each in body["documents"]}) >= 3 for body in bodies)
    assert len({each["text"] for body in bodies for each in body["documents"]}) >= 30
