"""`python -m bench`: run the instrument, write results/cpu.json, draw the plots, generate BENCHMARKS.md.

Sections can be named to run only those; their part of the results file is replaced, the rest is kept.
"""

import argparse
import datetime
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from bench import plots, report
from support.machine import machine

#: Left out unless they are named or everything is asked for: with them a run takes over a quarter of an hour.
LONG = ("defaults", "drafts", "speculation")
RESULTS = Path(__file__).with_name("results")
FILE = RESULTS / "cpu.json"


def sections(
    rounds: int, say: Callable[[str], None], kept: dict[str, list[dict[str, Any]]]
) -> dict[str, Callable[[], Any]]:
    """name -> what measures it, cheapest to lose last. Sections in `kept` go on after the rounds that are there."""
    from bench import cold, speculation, start, throughput, transport
    from bench.servers import running

    def loaded() -> dict[str, Any]:
        found: dict[str, Any] = {}
        with running("vllm") as theirs, running("service") as ours:
            found["service"] = transport.health(ours, 15, say)
            found["vllm"] = transport.health(theirs, 15, say)
        return found

    def wake() -> list[dict[str, float]]:
        with running("service") as ours:
            start.first_token_ms(ours, "Is this the first question?")
            return start.wake(ours, max(3, rounds), say)  # one pair is some hundred milliseconds: too little alone

    def more(
        name: str, measure: Callable[[range, Callable[[str], None]], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        before = kept.get(name, [])
        first = 1 + max((cell.get("turn", cell["round"]) for cell in before), default=-1)
        return before + measure(range(first, first + rounds), say)

    return {
        "start": lambda: start.measure(max(2, rounds - 1), say),
        "cold": lambda: cold.measure(max(2, rounds - 1), say),
        "throughput": lambda: throughput.measure(rounds, say),
        "transport": lambda: transport.cpu(rounds, say),
        "ceiling": lambda: transport.ceiling(rounds, say),
        "health": loaded,
        "wake": wake,
        "prefix": lambda: throughput.prefix(say),
        "others": lambda: throughput.others(rounds, say),
        "defaults": lambda: throughput.defaults(rounds, say),
        "drafts": lambda: more("drafts", speculation.drafts),
        "speculation": lambda: more("speculation", speculation.served),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "section",
        nargs="*",
        help="start cold throughput transport ceiling health wake prefix others defaults drafts speculation",
    )
    parser.add_argument("--rounds", type=int, default=1, help="paired repetitions of a cell (%(default)s)")
    parser.add_argument("--all", action="store_true", help=f"every section, {', '.join(LONG)} as well")
    parser.add_argument("--more", action="store_true", help="drafts, speculation: rounds beside those that are there")
    parser.add_argument("--report", action="store_true", help="only generate BENCHMARKS.md and the plots")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an ended run takes its servers with it
    results: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    if not args.report:
        begun = time.monotonic()

        def say(text: str) -> None:
            print(f"[{time.monotonic() - begun:5.0f} s] {text}", flush=True)

        had = {name: results[name]["data"] for name in ("drafts", "speculation") if args.more and name in results}
        known = sections(args.rounds, say, had)
        if wrong := set(args.section) - set(known):
            parser.error(f"no section {', '.join(sorted(wrong))}: there are {', '.join(known)}")
        for name in args.section or [one for one in known if args.all or one not in LONG]:
            say(f"{name} ...")
            stamp = {
                "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "load_before": round(psutil.getloadavg()[0], 2),
                "machine": machine(),
            }
            since = time.monotonic()
            results[name] = {"data": known[name](), **stamp, "took_s": round(time.monotonic() - since)}
            FILE.write_text(json.dumps(results, indent=1, default=float) + "\n")
    plots.draw(results, RESULTS)
    report.FILE.write_text(report.render(results))
    print(f"written: {FILE}, {report.FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
