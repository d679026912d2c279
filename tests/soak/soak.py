"""Mixed load with faults on a schedule, for as long as one likes: `make soak MINUTES=5`.

Starts the real process over the scripted engine, loads it beyond its capacity, and every few seconds does one thing to
it that the world does: freezes it, floods it, lets a crowd vanish, holds half-sent requests, reads nothing. Writes one
page, soak.txt, and a plot, soak.png, and exits with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import matplotlib

from callers import Later, Line, call, chat_body, post_bytes, stream
from launcher import ServiceProcess

matplotlib.use("Agg")
from matplotlib import pyplot

RUNNING, WAITING = 8, 8
CALLERS = 24
READ_TIMEOUT_S = 5.0
FAULT_EVERY_S = 10.0
FREEZE_S = 4.5
#: Beyond this the memory is said to leak; the first quarter, in which buffers and threads are made, does not count.
MOST_SLOPE_MB_PER_HOUR = 60.0
#: Growth after the first quarter that counts as caches whatever its slope: a short run cannot tell them from a leak.
EXCUSED_MB = 8.0
MOST_HEALTH_S = 1.0
#: Faults that can be labelled in the plot before their names cover each other.
MOST_LABELS = 30
#: What a request may come to. Anything else is a broken promise.
EXPECTED = {"ok", "deadline", "left", "refused", "unsent"}


@dataclass
class Book:
    """Everything seen, as it happened. Times are seconds since the start."""

    began: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)
    outcomes: Counter[str] = field(default_factory=Counter)
    #: (when, kind, seconds) of every answered request
    answers: list[tuple[float, str, float]] = field(default_factory=list)
    #: (when, resident MB, threads, running, waiting, /health seconds)
    samples: list[tuple[float, float, int, int, int, float]] = field(default_factory=list)
    faults: list[tuple[float, str]] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def now(self) -> float:
        return time.monotonic() - self.began

    def note(self, kind: str, outcome: str, seconds: float, detail: str = "") -> None:
        with self.lock:
            self.outcomes[outcome] += 1
            self.answers.append((self.now(), kind, seconds))
            if outcome not in EXPECTED:
                self.odd.append(f"{self.now():.1f} s: {kind}: {outcome} {detail}"[:300])


def one_request(service: ServiceProcess, book: Book, dice: random.Random) -> None:
    """One request of a kind drawn by lot; its outcome goes into the book."""
    kind = dice.choices(["chat", "stream", "generate", "impatient", "leaving"], [6, 6, 3, 2, 2])[0]
    words, token_s = dice.randint(5, 60), 0.02
    began = time.monotonic()
    outcome, detail = "ok", ""
    try:
        if kind == "stream":
            seen = stream(service.port, words, token_s=token_s)
            if len(seen.words) != words or not seen.done or seen.error:
                outcome, detail = "broken stream", repr(seen)
        elif kind == "leaving":
            line = Line(service.port, post_bytes(chat_body(4000, stream=dice.random() < 0.5, token_s=token_s)))
            time.sleep(dice.random())
            (line.reset if dice.random() < 0.5 else line.close)()
            outcome = "left"
        else:
            body = chat_body(words, token_s=token_s)
            if kind == "generate":
                body = {"prompt": "Once", "max_tokens": words, "script": body["script"]}
            headers = {"x-request-timeout": "0.3"} if kind == "impatient" else {}
            answer = call(service.port, "POST", "/generate" if kind == "generate" else "/chat", body, headers=headers)
            if answer.status == 200:
                outcome = "deadline" if kind == "impatient" and answer.finish == "length" else "ok"
            elif answer.status in (429, 503) and int(answer.headers["retry-after"]) >= 1:
                outcome = "refused"
            else:
                outcome, detail = f"status {answer.status}", repr(answer.body[:200])
    except AssertionError as error:  # a stream that was refused
        outcome, detail = ("refused", "") if "overloaded" in str(error) else ("wrong", str(error))
    except (OSError, http.client.HTTPException) as error:
        outcome, detail = "no answer", repr(error)
    book.note(kind, outcome, time.monotonic() - began, detail)
    if outcome == "refused":
        time.sleep(0.3 + dice.random())


def freeze(service: ServiceProcess) -> None:
    with service.frozen():
        time.sleep(FREEZE_S)


def flood(service: ServiceProcess) -> None:
    """Ten times the capacity at once, and nobody stays to hear the answer."""
    lines = [Line(service.port, post_bytes(chat_body(500, token_s=0.05))) for _ in range(10 * RUNNING)]
    time.sleep(0.5)
    for line in lines:
        line.reset()


def hold_half(service: ServiceProcess) -> None:
    lines = [Line(service.port, post_bytes(chat_body(5))[:-9]) for _ in range(60)]
    time.sleep(READ_TIMEOUT_S / 2)
    for line in lines:
        line.close()


def read_nothing(service: ServiceProcess) -> None:
    request = post_bytes(chat_body(1500, stream=True, text="x" * 2000, burst=150, token_s=0.01))
    lines = [Line(service.port, request, receive_buffer=4096) for _ in range(3)]
    time.sleep(READ_TIMEOUT_S)
    for line in lines:
        line.close()


def nonsense(service: ServiceProcess) -> None:
    for data in (b"NONSENSE\r\n\r\n", b"\x00\xff" * 500, post_bytes({"messages": 1}), b"POST /chat HTTP/1.1\r\n\r\n"):
        with Line(service.port, data):
            time.sleep(0.1)


FAULTS: tuple[Callable[[ServiceProcess], None], ...] = (flood, freeze, hold_half, read_nothing, nonsense)


def watch(service: ServiceProcess, book: Book, stop: threading.Event) -> None:
    """Sample the process twice a second."""
    worker = service.worker
    while not stop.wait(0.5):
        with contextlib.suppress(OSError, http.client.HTTPException):
            health = call(service.port, "GET", "/health", timeout=30)
            memory = worker.memory_info().rss / (1 << 20)
            shown = health.json
            sample = (book.now(), memory, worker.num_threads(), shown["running"], shown["waiting"], health.seconds)
            book.samples.append(sample)


def run(service: ServiceProcess, seconds: float, seed: int) -> Book:
    """Load and disturb `service` for `seconds`."""
    book, stop = Book(), threading.Event()

    def caller(number: int) -> None:
        dice = random.Random(seed * 1000 + number)
        while not stop.is_set():
            one_request(service, book, dice)

    work = [Later(lambda number=number: caller(number)) for number in range(CALLERS)]
    watching = Later(lambda: watch(service, book, stop))
    for fault in itertools.cycle(FAULTS):
        if book.now() + FAULT_EVERY_S > seconds or service.process.poll() is not None:
            break
        time.sleep(FAULT_EVERY_S)
        book.faults.append((book.now(), fault.__name__))
        fault(service)
        done = f"{book.now():5.0f} s of {seconds:.0f}: {fault.__name__}, {book.outcomes.total()} requests so far"
        print(done, file=sys.stderr, flush=True)
    time.sleep(max(0.0, min(FAULT_EVERY_S, seconds - book.now())))
    stop.set()
    for one in [*work, watching]:
        one.get(120)
    return book


def slope_mb_per_hour(book: Book) -> float:
    late = [sample for sample in book.samples if sample[0] > book.samples[-1][0] / 4]
    return statistics.linear_regression([one[0] for one in late], [one[1] for one in late]).slope * 3600


def report(book: Book, leaked: int, crashed: bool, log: str) -> tuple[str, list[str]]:
    """The page, and the promises that were broken."""
    lines = [f"soak: {book.now() / 60:.1f} minutes, {book.outcomes.total()} requests by {CALLERS} callers"]
    lines.append(
        f"{RUNNING} slots and {WAITING} places; a fault every {FAULT_EVERY_S:g} s: "
        + ", ".join(f"{name} x{count}" for name, count in Counter(name for _, name in book.faults).items())
    )
    lines += ["", "outcome         requests", *(f"{name:15} {count:8}" for name, count in book.outcomes.most_common())]
    lines += ["", "kind         p50 s   p95 s   p99 s"]
    for kind in sorted({kind for _, kind, _ in book.answers}):
        times = [seconds for _, one, seconds in book.answers if one == kind]
        cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
        lines.append(f"{kind:10} {cuts[49]:7.2f} {cuts[94]:7.2f} {cuts[98]:7.2f}")
    # while frozen nobody can answer
    frozen = [when for when, name in book.faults if name == freeze.__name__]
    health = [one[5] for one in book.samples if not any(at - 1 < one[0] - one[5] < at + FREEZE_S + 1 for at in frozen)]
    slope = slope_mb_per_hour(book)
    steep = slope > MOST_SLOPE_MB_PER_HOUR
    memory, threads = [one[1] for one in book.samples], [one[2] for one in book.samples]
    slow = statistics.quantiles(health, n=100)[98]
    lines += [
        "",
        f"memory          {memory[0]:.0f} MB at first, {max(memory):.0f} MB at most, {memory[-1]:.0f} MB at last",
        f"memory slope    {slope:+.1f} MB an hour after the first quarter (limit {MOST_SLOPE_MB_PER_HOUR:g})",
        *(
            [f"                steeper than the limit; growth up to {EXCUSED_MB:g} MB is excused: run longer"]
            if steep
            else []
        ),
        f"threads         {max(threads)} at most",
        f"/health         {statistics.median(health) * 1000:.0f} ms median, {slow * 1000:.0f} ms p99",
        f"slots leaked    {leaked}",
    ]
    broken = [f"odd outcome: {one}" for one in book.odd[:10]]
    if leaked:
        broken.append(f"{leaked} slots leaked")
    if crashed:
        broken.append("the process ended")
    if steep and memory[-1] - memory[len(memory) // 4] > EXCUSED_MB:
        broken.append(f"memory grows by {slope:.0f} MB an hour")
    if slow > MOST_HEALTH_S:
        broken.append(f"/health took {slow:.2f} s")
    if '"exception"' in log:
        broken.append("there is a traceback in the service's log")
    lines += ["", *(f"BROKEN: {one}" for one in broken)] if broken else ["", "every promise was kept"]
    return "\n".join(lines) + "\n", broken


def plot(book: Book, path: Path) -> None:
    figure, (upper, middle, lower) = pyplot.subplots(3, 1, figsize=(10, 9), sharex=True, layout="constrained")
    at = [one[0] for one in book.samples]
    upper.plot(at, [one[1] for one in book.samples], color="tab:blue")
    upper.set_ylabel("resident memory, MB")
    middle.plot(at, [one[3] for one in book.samples], label="running")
    middle.plot(at, [one[4] for one in book.samples], label="waiting")
    middle.plot(at, [one[2] for one in book.samples], label="threads")
    middle.legend(loc="upper right", ncols=3)
    lower.scatter([one[0] for one in book.answers], [one[2] for one in book.answers], s=3, label="request")
    lower.plot(at, [one[5] for one in book.samples], color="tab:red", linewidth=1, label="/health")
    lower.set_ylabel("seconds")
    lower.set_xlabel("seconds since the start")
    lower.legend(loc="upper right", ncols=2)
    for axes in (upper, middle, lower):
        for when, name in book.faults:
            axes.axvline(when, color="0.8", linewidth=1, zorder=0)
            if axes is upper and len(book.faults) <= MOST_LABELS:
                axes.text(when, axes.get_ylim()[1], name, rotation=30, fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1, help="of the mix of requests")
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="folder for soak.txt and soak.png")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    log = chosen.out / "service.log"
    log.unlink(missing_ok=True)
    settings = {"max_running": RUNNING, "max_waiting": WAITING, "read_timeout_s": READ_TIMEOUT_S, "hang_s": 2}
    service = ServiceProcess(log, **settings)
    try:
        service.wait_ready()
        book = run(service, chosen.minutes * 60, chosen.seed)
        crashed = service.process.poll() is not None
        leaked = 0
        if not crashed:
            with contextlib.suppress(AssertionError):
                service.wait_idle(READ_TIMEOUT_S * 4)
            now = service.health()
            leaked = now["running"] + now["waiting"]
    finally:
        service.close()
    page, broken = report(book, leaked, crashed, service.log())
    (chosen.out / "soak.txt").write_text(page, encoding="utf-8")
    plot(book, chosen.out / "soak.png")
    print(page)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
