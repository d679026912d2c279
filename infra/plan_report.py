"""`python -m infra plan`: its arguments, its table and its plot. The simulation is in plan.py."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from infra.cost import Size
from infra.errors import InfraError

if TYPE_CHECKING:
    from infra.plan import Outcome

#: Written by `make bench`.
RESULTS = Path(__file__).resolve().parents[1] / "tests" / "bench" / "results" / "cpu.json"


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rps", type=float, default=1.0, metavar="R", help="requests/s in the busiest hour (1)")
    command.add_argument("--prompt", type=int, default=1500, metavar="N", help="prompt tokens (%(default)s)")
    command.add_argument("--answer", type=int, default=200, metavar="N", help="answer tokens (%(default)s)")
    command.add_argument("--flat", action="store_true", help="the same load day and night, not an office's day")
    command.add_argument("--min", type=int, metavar="N", help="min instances (default: s.yaml)")
    command.add_argument("--max", type=int, default=3, metavar="N", help="instances at most (%(default)s)")
    command.add_argument("--cold-start", type=float, metavar="S", help="s of a start (default: measured)")
    command.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="of `make bench` (CPU's)")
    command.add_argument("--plot", type=Path, metavar="FILE", help="draw the day as SVG or PNG")
    command.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)


def sizes(props: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the deployed instance is configured with, in the order of `cost.Size`."""
    return props["cpu"], props["memorySize"], props.get("gpuConfig", {}).get("gpuMemorySize", 0), props["diskSize"]


def run(args: argparse.Namespace, console: Console, props: Mapping[str, Any]) -> None:
    """Simulate a day and print it. Raises InfraError for an impossible fleet."""
    from infra import plan, plan_speed

    least = props["provisionConfig"]["defaultTarget"] if args.min is None else args.min
    if not 0 <= least <= args.max or args.max < 1 or args.rps <= 0 or min(args.prompt, args.answer) < 1:
        raise InfraError("give --rps, --prompt and --answer above 0, and --min no larger than --max")
    speed, cold = plan_speed.measured(args.results)
    fleet = plan.Fleet(props["instanceConcurrency"], least, args.max, args.cold_start or cold, wake_s=plan.WAKE_S)
    rates = [args.rps] * 24 if args.flat else plan.day(args.rps)
    hour_s = plan.hour_seconds(rates)
    outcome = plan.simulate(
        fleet, lambda running: speed.seconds(running, args.prompt, args.answer), rates, hour_s, args.seed, spread=0.5
    )
    console.print(table(outcome, rates, Size(*sizes(props)), args.currency))
    console.print(f"service times and cold start measured in {args.results}; {hour_s:.0f} s of each hour simulated")
    if args.plot:
        plot(outcome, rates, args.plot)


def table(outcome: Outcome, rates: Sequence[float], size: Size, currency: str) -> Table:
    from infra.plan import monthly

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
    cost = monthly(outcome, size, rates, currency)
    days = outcome.simulated_s / 86_400
    shown.caption = (
        f"median {statistics.median(everything) if everything else float('nan'):.1f} s; "
        f"{100 * refused / max(1, refused + len(everything)):.2f} % refused; "
        f"{outcome.started / days:.0f} cold starts a day; {cost:,.0f} {currency} a month of 30 such days"
    )
    return shown


def plot(outcome: Outcome, rates: Sequence[float], path: Path) -> None:
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
