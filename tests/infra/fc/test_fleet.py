"""The fleet simulation against what queueing theory and arithmetic know."""

import statistics

import pytest

from infra.errors import InfraError
from infra.fc import fleet
from infra.fc.prices import Size

ALONE = fleet.Fleet(slots=1000, least=1, most=1, cold_start_s=0)


def test_without_contention_every_request_takes_its_service_time() -> None:
    outcome = fleet.simulate(ALONE, lambda running: 2.0, [1.0])
    assert {round(value, 6) for value in outcome.latencies()} == {2.0}


def test_a_shared_engine_follows_the_law_of_processor_sharing() -> None:
    """M/G/1-PS: the mean stay is S / (1 - rho), whatever the distribution of sizes."""
    for spread in (0.0, 0.8):
        outcome = fleet.simulate(ALONE, lambda running: 0.5 * running, [1.0] * 5, spread=spread)
        assert statistics.mean(outcome.latencies()) == pytest.approx(1.0, rel=0.08)


def test_what_finds_no_slot_and_no_instance_is_refused() -> None:
    planned = fleet.Fleet(slots=1, least=1, most=1, cold_start_s=0)
    outcome = fleet.simulate(planned, lambda running: 1.0, [1.0] * 5)
    refused = sum(hour.refused for hour in outcome.hours)
    # Erlang's loss formula with one server and a load of one: half is lost.
    assert refused / (refused + len(outcome.latencies())) == pytest.approx(0.5, abs=0.02)


def test_a_full_fleet_grows_to_its_maximum_and_shrinks_again() -> None:
    planned = fleet.Fleet(slots=10, least=1, most=5, cold_start_s=30)
    outcome = fleet.simulate(planned, lambda running: 10.0, [0.01, 3.0, 0.01, 0.01])
    assert [hour.most_instances for hour in outcome.hours][0] == 1
    assert outcome.hours[1].most_instances == 5
    assert outcome.hours[3].most_instances == 1


def test_a_request_that_starts_an_instance_waits_for_it() -> None:
    planned = fleet.Fleet(slots=10, least=0, most=1, cold_start_s=60)
    outcome = fleet.simulate(planned, lambda running: 1.0, [0.0005] * 10)
    assert statistics.median(outcome.latencies()) == pytest.approx(61.0)


def test_billing_counts_busy_time_and_hibernation_once() -> None:
    outcome = fleet.simulate(ALONE, lambda running: 2.0, [0.2])
    assert outcome.active_s + outcome.hibernated_s == pytest.approx(3600, abs=5)
    size = Size(4, 16384, 16384, 10240)
    idle = fleet.simulate(ALONE, lambda running: 2.0, [1e-9])
    assert fleet.monthly(outcome, size, [0.2], "CNY") > fleet.monthly(idle, size, [1e-9], "CNY") > 0


def test_a_thousand_instances_are_simulated() -> None:
    planned = fleet.Fleet(slots=10, least=0, most=1000, cold_start_s=5)
    outcome = fleet.simulate(planned, lambda running: 30.0, [100.0], hour_s=90)
    assert outcome.hours[0].most_instances == pytest.approx(400, abs=250)


def test_service_times_come_out_of_two_shapes_of_request() -> None:
    def cell(level: int, prompt: int, answer: int, shape: str) -> dict[str, object]:
        took = 1000 * (0.001 * level * prompt + 0.01 * level * answer)
        tokens = {"prompt_tokens": prompt, "tokens": answer, "requests": 1}
        return {"concurrency": level, "shape": shape, "e2el_p50_ms": took, **tokens}

    speed = fleet.speed([cell(n, p, a, s) for n in (1, 10) for p, a, s in ((512, 24, "a"), (32, 96, "b"))])
    assert speed.per_prompt_token == pytest.approx((0.001, 0.01))
    assert speed.seconds(1, 100, 10) == pytest.approx(0.2)
    assert speed.seconds(5, 100, 10) == pytest.approx(1.0)


def test_a_missing_measurement_names_what_to_run(tmp_path: object) -> None:
    from pathlib import Path

    with pytest.raises(InfraError, match="make bench"):
        fleet.measured(Path(str(tmp_path)) / "none.json")


def test_replayed_requests_share_the_engine_as_worked_out_by_hand() -> None:
    """Two seconds of work each, halved speed for two: the first ends at 3, the second, then alone, at 4."""
    outcome = fleet.replay(ALONE, lambda running: 2.0 * running, [(0.0, 1.0), (1.0, 1.0)])
    assert outcome.latencies() == pytest.approx([3.0, 3.0])


def test_replayed_requests_wait_for_a_slot_in_the_order_they_came() -> None:
    """Two slots, two seconds whatever the company: the third starts at 2 and the fourth at 2.5."""
    planned = fleet.Fleet(slots=2, least=1, most=1, cold_start_s=0, waiting=9)
    outcome = fleet.replay(planned, lambda running: 2.0, [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (1.0, 1.0)])
    assert outcome.latencies() == pytest.approx([2.0, 2.0, 3.0, 3.5])


def test_a_request_of_half_the_size_takes_half_as_long_and_belongs_to_the_hour_it_came_in() -> None:
    outcome = fleet.replay(ALONE, lambda running: 2.0, [(1.0, 0.5), (15.0, 1.0)], hours=2, hour_s=10)
    assert [hour.latencies for hour in outcome.hours] == [pytest.approx([1.0]), pytest.approx([2.0])]


def test_poisson_arrivals_keep_the_rate_of_each_hour_and_a_mean_size_of_one() -> None:
    came = list(fleet.poisson([2.0, 0.0, 4.0], 1000, seed=3, spread=0.5))
    assert [sum(int(when / 1000) == hour for when, _ in came) for hour in range(3)] == pytest.approx(
        [2000, 0, 4000], rel=0.06
    )
    assert statistics.mean(size for _, size in came) == pytest.approx(1.0, rel=0.03)
