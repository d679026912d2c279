"""The fleet simulation against what queueing theory and arithmetic know."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bench import forecast, report
from infra import plan, plan_speed
from infra.cost import Size
from infra.errors import InfraError

ALONE = plan.Fleet(slots=1000, least=1, most=1, cold_start_s=0)


def test_without_contention_every_request_takes_its_service_time() -> None:
    outcome = plan.simulate(ALONE, lambda running: 2.0, [1.0])
    assert {round(value, 6) for value in outcome.latencies()} == {2.0}


def test_a_shared_engine_follows_the_law_of_processor_sharing() -> None:
    """M/G/1-PS: the mean stay is S / (1 - rho), whatever the distribution of sizes."""
    for spread in (0.0, 0.8):
        outcome = plan.simulate(ALONE, lambda running: 0.5 * running, [1.0] * 5, spread=spread)
        assert statistics.mean(outcome.latencies()) == pytest.approx(1.0, rel=0.08)


def test_what_finds_no_slot_and_no_instance_is_refused() -> None:
    fleet = plan.Fleet(slots=1, least=1, most=1, cold_start_s=0)
    outcome = plan.simulate(fleet, lambda running: 1.0, [1.0] * 5)
    refused = sum(hour.refused for hour in outcome.hours)
    # Erlang's loss formula with one server and a load of one: half is lost.
    assert refused / (refused + len(outcome.latencies())) == pytest.approx(0.5, abs=0.02)


def test_a_full_fleet_grows_to_its_maximum_and_shrinks_again() -> None:
    fleet = plan.Fleet(slots=10, least=1, most=5, cold_start_s=30)
    outcome = plan.simulate(fleet, lambda running: 10.0, [0.01, 3.0, 0.01, 0.01])
    assert [hour.most_instances for hour in outcome.hours][0] == 1
    assert outcome.hours[1].most_instances == 5
    assert outcome.hours[3].most_instances == 1


def test_a_request_that_starts_an_instance_waits_for_it() -> None:
    fleet = plan.Fleet(slots=10, least=0, most=1, cold_start_s=60)
    outcome = plan.simulate(fleet, lambda running: 1.0, [0.0005] * 10)
    assert statistics.median(outcome.latencies()) == pytest.approx(61.0)


def test_billing_counts_busy_time_and_hibernation_once() -> None:
    outcome = plan.simulate(ALONE, lambda running: 2.0, [0.2])
    assert outcome.active_s + outcome.hibernated_s == pytest.approx(3600, abs=5)
    size = Size(4, 16384, 16384, 10240)
    idle = plan.simulate(ALONE, lambda running: 2.0, [1e-9])
    assert plan.monthly(outcome, size, [0.2], "CNY") > plan.monthly(idle, size, [1e-9], "CNY") > 0


def test_a_thousand_instances_are_simulated() -> None:
    fleet = plan.Fleet(slots=10, least=0, most=1000, cold_start_s=5)
    outcome = plan.simulate(fleet, lambda running: 30.0, [100.0], hour_s=90)
    assert outcome.hours[0].most_instances == pytest.approx(400, abs=250)


def test_service_times_come_out_of_two_shapes_of_request() -> None:
    def cell(level: int, prompt: int, answer: int, shape: str) -> dict[str, object]:
        took = 1000 * (0.001 * level * prompt + 0.01 * level * answer)
        tokens = {"prompt_tokens": prompt, "tokens": answer, "requests": 1}
        return {"concurrency": level, "shape": shape, "e2el_p50_ms": took, **tokens}

    speed = plan_speed.speed([cell(n, p, a, s) for n in (1, 10) for p, a, s in ((512, 24, "a"), (32, 96, "b"))])
    assert speed.per_prompt_token == pytest.approx((0.001, 0.01))
    assert speed.seconds(1, 100, 10) == pytest.approx(0.2)
    assert speed.seconds(5, 100, 10) == pytest.approx(1.0)


def test_a_missing_measurement_names_what_to_run(tmp_path: object) -> None:
    from pathlib import Path

    with pytest.raises(InfraError, match="make bench"):
        plan_speed.measured(Path(str(tmp_path)) / "none.json")


def test_replayed_requests_share_the_engine_as_worked_out_by_hand() -> None:
    """Two seconds of work each, halved speed for two: the first ends at 3, the second, then alone, at 4."""
    outcome = plan.replay(ALONE, lambda running: 2.0 * running, [(0.0, 1.0), (1.0, 1.0)])
    assert outcome.latencies() == pytest.approx([3.0, 3.0])


def test_replayed_requests_wait_for_a_slot_in_the_order_they_came() -> None:
    """Two slots, two seconds whatever the company: the third starts at 2 and the fourth at 2.5."""
    fleet = plan.Fleet(slots=2, least=1, most=1, cold_start_s=0, waiting=9)
    outcome = plan.replay(fleet, lambda running: 2.0, [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (1.0, 1.0)])
    assert outcome.latencies() == pytest.approx([2.0, 2.0, 3.0, 3.5])


def test_a_request_of_half_the_size_takes_half_as_long_and_belongs_to_the_hour_it_came_in() -> None:
    outcome = plan.replay(ALONE, lambda running: 2.0, [(1.0, 0.5), (15.0, 1.0)], hours=2, hour_s=10)
    assert [hour.latencies for hour in outcome.hours] == [pytest.approx([1.0]), pytest.approx([2.0])]


def test_poisson_arrivals_keep_the_rate_of_each_hour_and_a_mean_size_of_one() -> None:
    came = list(plan.poisson([2.0, 0.0, 4.0], 1000, seed=3, spread=0.5))
    assert [sum(int(when / 1000) == hour for when, _ in came) for hour in range(3)] == pytest.approx(
        [2000, 0, 4000], rel=0.06
    )
    assert statistics.mean(size for _, size in came) == pytest.approx(1.0, rel=0.03)


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
    fleet = plan.Fleet(forecast.SLOTS, 1, 1, 0, waiting=99)
    for turn, pace in enumerate(itertools.pairwise(paces)):
        slower = slowed * statistics.mean(pace)
        for at, share in enumerate(forecast.SHARES):
            rate = share * forecast.SLOTS / seconds(forecast.SLOTS)
            starts = [when for when, _ in plan.poisson([rate], 60 / rate, seed=10 * turn + at, spread=0)]
            starts = [when - starts[0] for when in starts]
            real = plan.replay(fleet, lambda n, by=slower: by * seconds(n), [(when, 1.0) for when in starts])
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
