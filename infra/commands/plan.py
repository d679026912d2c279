"""A day of a fleet as a table and a plot. The simulation is infra/fc/fleet.py; its numbers come from `make bench`."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from infra import ROOT
from infra.commands import options
from infra.commands.screen import console
from infra.errors import WrongUsage
from infra.fc import fleet, template
from infra.fc.prices import Size

#: Written by `make bench`.
RESULTS = ROOT / "tests" / "bench" / "results" / "cpu.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.currency(parser)
    parser.add_argument("--rps", type=float, default=1.0, metavar="R", help="requests/s in the busiest hour (1)")
    parser.add_argument("--prompt", type=int, default=1500, metavar="N", help="prompt tokens (%(default)s)")
    parser.add_argument("--answer", type=int, default=200, metavar="N", help="answer tokens (%(default)s)")
    parser.add_argument("--flat", action="store_true", help="the same load day and night, not an office's day")
    parser.add_argument("--min", type=int, metavar="N", help="min instances (default: s.yaml)")
    parser.add_argument("--max", type=int, default=3, metavar="N", help="instances at most (%(default)s)")
    parser.add_argument("--cold-start", type=float, metavar="S", help="s of a start (default: measured)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="of `make bench` (CPU's)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the day as SVG or PNG")
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    """Simulate a day and print it. Raises WrongUsage for an impossible fleet."""
    props, screen = template.render_any(), console()
    least = props["provisionConfig"]["defaultTarget"] if args.min is None else args.min
    if not 0 <= least <= args.max or args.max < 1 or args.rps <= 0 or min(args.prompt, args.answer) < 1:
        raise WrongUsage("give --rps, --prompt and --answer above 0, and --min no larger than --max")
    speed, cold = fleet.measured(args.results)
    planned = fleet.Fleet(props["instanceConcurrency"], least, args.max, args.cold_start or cold, wake_s=fleet.WAKE_S)
    rates = [args.rps] * 24 if args.flat else fleet.day(args.rps)
    hour_s = fleet.hour_seconds(rates)
    outcome = fleet.simulate(
        planned, lambda running: speed.seconds(running, args.prompt, args.answer), rates, hour_s, args.seed, spread=0.5
    )
    screen.print(table(outcome, rates, Size.of(props), args.currency))
    screen.print(f"service times and cold start measured in {args.results}; {hour_s:.0f} s of each hour simulated")
    if args.plot:
        plot(outcome, rates, args.plot)


def table(outcome: fleet.Outcome, rates: Sequence[float], size: Size, currency: str) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, title="a day")
    for heading in ("hour", "requests/s", "p50 s", "p95 s", "429 %", "instances"):
        shown.add_column(heading, justify="right")
    for at, (rate, hour) in enumerate(zip(rates, outcome.hours, strict=True)):
        came = len(hour.latencies) + hour.refused
        shown.add_row(
            f"{at:02d}",
            f"{rate:.2f}",
            f"{hour.quantile(0.5):.1f}",
            f"{hour.quantile(0.95):.1f}",
            f"{100 * hour.refused / came:.1f}" if came else "-",
            str(hour.most_instances),
        )
    everything = outcome.latencies()
    refused = sum(hour.refused for hour in outcome.hours)
    cost = fleet.monthly(outcome, size, rates, currency)
    days = outcome.simulated_s / 86_400
    shown.caption = (
        f"median {statistics.median(everything) if everything else float('nan'):.1f} s; "
        f"{100 * refused / max(1, refused + len(everything)):.2f} % refused; "
        f"{outcome.started / days:.0f} cold starts a day; {cost:,.0f} {currency} a month of 30 such days"
    )
    return shown


def plot(outcome: fleet.Outcome, rates: Sequence[float], path: Path) -> None:
    """Latency and instances over the day."""
    import matplotlib  # slow to import, and only a plot needs it

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 6))
    hours = range(len(rates))
    for share in (0.5, 0.95):
        above.plot(hours, [hour.quantile(share) for hour in outcome.hours], marker="o", label=f"p{100 * share:.0f}")
    above.set_ylabel("latency, s")
    above.legend()
    below.step(hours, [hour.most_instances for hour in outcome.hours], where="mid")
    below.set_ylabel("instances")
    below.set_xlabel("hour")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
