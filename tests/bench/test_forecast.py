"""The check of `infra plan` recovers a service that does as the simulation does, and misses one that does not."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bench import forecast, report
from infra.fc import fleet


def section(
    seconds: Callable[[int], float], slowed: float = 1.0, paces: Sequence[float] = (1, 1)
) -> list[dict[str, Any]]:
    """What the section "arrivals" holds for a service that follows `seconds`, `slowed` times slower under arrivals.

    `paces` are what the machine makes of a second when service times are measured, and between two of them their mean.
    """
    cells: list[dict[str, Any]] = []
    for turn, pace in enumerate(paces):
        for level in (1, 4, 10):  # the first and the last wave are not at constant concurrency: they must not count
            edge, steady = [99.0] * level, [pace * seconds(level)] * level
            cells.append({"turn": turn, "concurrency": level, "latencies_s": edge + steady + edge})
    alone = fleet.Fleet(forecast.SLOTS, 1, 1, 0, waiting=99)
    for turn, pace in enumerate(itertools.pairwise(paces)):
        slower = slowed * statistics.mean(pace)
        for at, share in enumerate(forecast.SHARES):
            rate = share * forecast.SLOTS / seconds(forecast.SLOTS)
            starts = [when for when, _ in fleet.poisson([rate], 60 / rate, seed=10 * turn + at, spread=0)]
            starts = [when - starts[0] for when in starts]
            real = fleet.replay(alone, lambda n, by=slower: by * seconds(n), [(when, 1.0) for when in starts])
            cells.append(
                {"turn": turn, "share": share, "rate": rate, "starts_s": starts, "latencies_s": real.latencies()}
            )
    return cells


@pytest.mark.parametrize("paces", [(1, 1), (1, 1.4, 2, 0.9)])
def test_the_check_recovers_a_service_that_shares_as_the_simulation_does(paces: Sequence[float]) -> None:
    """Whatever the machine does. Its service time is a straight line, which the interpolation reproduces."""
    found = forecast.loads(section(lambda running: 1.0 + 0.2 * running, paces=paces))
    turns = range(len(paces) - 1)
    assert [(load.turn, load.share) for load in found] == [(turn, share) for turn in turns for share in forecast.SHARES]
    for load in found:
        assert len(load.measured.latencies) > 30
        assert load.ratio(0.5) == pytest.approx(1.0) and load.ratio(0.95) == pytest.approx(1.0)


def test_the_check_misses_a_service_that_is_slower_under_arrivals_than_in_the_closed_loop() -> None:
    results = {"arrivals": {"data": section(lambda running: 1.0 + 0.2 * running, slowed=1.5)}}
    rows = [row for row in report.rows(results) if row.key == "plan"]
    assert len(rows) == len(forecast.SHARES)
    assert all(len(row.values) == 1 and not row.reached for row in rows)


@pytest.mark.parametrize(
    ("values", "reached"), [([0.85], True), ([1.15, 0.5, 1.3], True), ([0.84, 1.0, 0.8], False), ([1.16], False)]
)
def test_the_check_is_passed_within_both_bounds(values: list[float], reached: bool) -> None:
    row = next(row for row in report.rows({}) if row.key == "plan")
    assert dataclasses.replace(row, values=values).reached is reached
