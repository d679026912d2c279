"""The check of `infra plan`: what it predicts for the loads of the section "arrivals", from that section's own times.

One instance is simulated with the very arrivals that were measured, so that their luck is not in the comparison.
"""

import statistics
from dataclasses import dataclass
from typing import Any

from infra.plan import Fleet, Hour, replay
from infra.plan_speed import between

#: Slots as in production, and loads as shares of the rate at full slots.
SLOTS, SHARES = 10, (0.3, 0.6, 0.8)
#: A closed loop sends this many requests for each that runs at once; the middle third runs at constant concurrency.
WAVES = 3


@dataclass(frozen=True)
class Load:
    """One load, measured and predicted. `share` is of the rate at full slots, `rate` requests/s, the rest seconds."""

    share: float
    rate: float
    measured: Hour
    predicted: Hour

    def ratio(self, quantile: float) -> float:
        """Predicted over measured."""
        return self.predicted.quantile(quantile) / self.measured.quantile(quantile)


def steady_s(cell: dict[str, Any]) -> float:
    """Seconds a request takes while `concurrency` run: the median of those that began neither first nor last."""
    level = cell["concurrency"]
    return statistics.median(cell["latencies_s"][level : (WAVES - 1) * level])


def loads(cells: list[dict[str, Any]]) -> list[Load]:
    """Every load of the section. The simulated instance has places for all that wait, as measured.

    A level that was measured twice, before the loads and after them, counts with its mean.
    """
    closed: dict[int, list[float]] = {}
    for cell in cells:
        if "share" not in cell:
            closed.setdefault(cell["concurrency"], []).append(steady_s(cell))
    levels, points = list(closed), [statistics.mean(seconds) for seconds in closed.values()]
    found = []
    for cell in cells:
        if "share" in cell:
            starts = cell["starts_s"]
            fleet = Fleet(SLOTS, least=1, most=1, cold_start_s=0, waiting=len(starts))
            arrivals = [(start, 1.0) for start in starts]
            outcome = replay(fleet, lambda running: between(levels, points, running), arrivals, hour_s=starts[-1] + 1)
            found.append(Load(cell["share"], cell["rate"], Hour(cell["latencies_s"]), outcome.hours[0]))
    return found
