"""Records loads.log.gz, the request log of the real service on this machine under three loads: test_service_times.py.

    PYTHONPATH=code:.:tests/support python tests/infra/fc/record_loads.py      (8 minutes, a quiet machine)

Poisson arrivals at shares of the rate at full slots, prompts and answers of many lengths; a request's id says load and
turn. A machine's pace changes within a minute, so the loads come in turns, and the engine has one thread: what sends
the load then has a core of its own. While other processes, or the machine's other guests, take a core's time, nothing
is measured but them: such a load is sent again.
"""

from __future__ import annotations

import gzip
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from callers import call
from infra.commands.replay import WORDS
from launcher import ServiceProcess

FILE = Path(__file__).with_name("loads.log.gz")
#: Slots as in production; loads as shares of the rate at full slots, in the order of a turn.
SLOTS, SHARES = 10, (0.3, 0.6, 0.8)
#: Seconds that a load lasts in a turn; turns; the share of a core that others may take meanwhile.
LOAD_S, TURNS, OTHERS = 20.0, 4, 0.1
#: After so many seconds what is whole of the turns is kept, and two of them must be.
LIMIT_S = 420.0
#: Tokens of prompts beside the chat template's, and of answers: least and most, all alike likely.
PROMPT, ANSWER = (4, 60), (4, 32)


def body(chance: random.Random) -> dict[str, Any]:
    words = " ".join(chance.choices(WORDS, k=chance.randint(*PROMPT)))
    tokens = chance.randint(*ANSWER)
    exactly = {"max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}
    return {"messages": [{"role": "user", "content": words}], "stream": True, **exactly}


def full_rate(service: ServiceProcess, callers: ThreadPoolExecutor, chance: random.Random) -> float:
    """Requests/s while all slots are taken."""
    posted = [body(chance) for _ in range(5 * SLOTS)]
    began = time.monotonic()
    ends = sorted(callers.map(lambda what: (ask(service, what, ""), time.monotonic())[1], posted))
    return (len(posted) - SLOTS) / (ends[-SLOTS] - began)  # the last ones run with fewer beside them


def ask(service: ServiceProcess, what: dict[str, Any], name: str) -> None:
    answer = call(service.port, "POST", "/chat", what, headers={"x-request-id": name})
    assert answer.status in (200, 429), answer.body


def load(service: ServiceProcess, callers: ThreadPoolExecutor, rate: float, chance: random.Random, name: str) -> None:
    """Poisson arrivals for LOAD_S seconds; returns when all are answered."""
    began, due, sent = time.monotonic(), chance.expovariate(rate), []
    while due < LOAD_S:
        time.sleep(max(0.0, began + due - time.monotonic()))
        sent.append(callers.submit(ask, service, body(chance), name))
        due += chance.expovariate(rate)
    for one in sent:
        one.result()


def others_s(service: ServiceProcess) -> float:
    """CPU seconds, stolen ones included, of all that is neither the service nor this, since the machine started."""
    machine = psutil.cpu_times()
    ours = [process.cpu_times() for process in (*service.tree(), psutil.Process())]
    return float(sum(machine) - machine.idle - machine.iowait - sum(one.user + one.system for one in ours))


def quiet_s(service: ServiceProcess) -> float:
    """What others take of a second."""
    before = others_s(service)
    time.sleep(1)
    return others_s(service) - before


def main() -> None:
    chance = random.Random(17)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(64) as callers:
        log = Path(folder) / "log"
        service = ServiceProcess(log, engine="vllm", max_running=SLOTS, env={"OMP_NUM_THREADS": "1"})
        try:
            service.wait_ready(300)
            with ThreadPoolExecutor(SLOTS) as few:
                full_rate(service, few, chance)  # nobody's first requests are measured
                rate = full_rate(service, few, chance)
            print(f"{rate:.2f} requests/s at full slots", file=sys.stderr)
            kept, again, end = [], 0, time.monotonic() + LIMIT_S
            while len(kept) < TURNS * len(SHARES) and time.monotonic() < end:
                if quiet_s(service) > OTHERS:
                    continue
                again, turn, share = again + 1, len(kept) // len(SHARES), SHARES[len(kept) % len(SHARES)]
                name, since, before = f"load-{share:g}-turn-{turn}-try-{again}", time.monotonic(), others_s(service)
                load(service, callers, share * rate, chance, name)
                taken = (others_s(service) - before) / (time.monotonic() - since)
                print(f"{name}: others took {taken:.2f} of a core", file=sys.stderr)
                if taken <= OTHERS:
                    kept.append(f'"request_id": "{name}"')
            whole = len(kept) - len(kept) % len(SHARES)
            assert whole >= 2 * len(SHARES), "this machine is not quiet"
            service.terminate()
            service.wait_exit()
            lines = log.read_text().splitlines(keepends=True)
        finally:
            service.close()
    wanted = [one for one in lines if any(name in one for name in kept[:whole])]
    FILE.write_bytes(gzip.compress("".join(wanted).encode(), mtime=0))
    print(f"{len(wanted)} lines: {FILE}", file=sys.stderr)


if __name__ == "__main__":
    main()
