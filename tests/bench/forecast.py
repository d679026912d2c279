"""The check of `infra plan`: what it predicts for the loads of the section "arrivals", from that section's own times.

One instance is simulated with the very arrivals that were measured, so that their luck is not in the comparison. A
machine's pace changes by a quarter within seconds, so the section goes in turns: each load of a turn is predicted from
the service times just before and just after that turn.
"""

import statistics
from dataclasses import dataclass
from typing import Any

from infra.fc.fleet import Fleet, Hour, between, replay

#: Slots as in production, and loads as shares of the rate at full slots.
SLOTS, SHARES = 10, (0.3, 0.6, 0.8)
#: A closed loop sends this many requests for each that runs at once; the middle third runs at constant concurrency.
WAVES = 3


@dataclass(frozen=True)
class Load:
    """One load of one turn, measured and predicted. `share` is of the rate at full slots, `rate` requests/s."""

    turn: int
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
    """Every load of every turn, in the order they were measured."""
    closed: dict[int, dict[int, float]] = {}
    for cell in cells:
        if "share" not in cell:
            closed.setdefault(cell["turn"], {})[cell["concurrency"]] = steady_s(cell)
    found = []
    for cell in cells:
        if "share" in cell:
            before, after = closed[cell["turn"]], closed[cell["turn"] + 1]
            predicted = _replayed(cell["starts_s"], {level: (before[level] + after[level]) / 2 for level in before})
            found.append(Load(cell["turn"], cell["share"], cell["rate"], Hour(cell["latencies_s"]), Hour(predicted)))
    return found


def _replayed(starts: list[float], took: dict[int, float]) -> list[float]:
    """Latencies, seconds, of requests that come at `starts`, where `took[n]` is what one takes while n run.

    The simulated instance has places for all that wait, as the measured one has.
    """
    fleet = Fleet(SLOTS, least=1, most=1, cold_start_s=0, waiting=len(starts))
    levels, points = list(took), list(took.values())
    arrivals = [(start, 1.0) for start in starts]
    return replay(fleet, lambda running: between(levels, points, running), arrivals, hour_s=starts[-1] + 1).latencies()
