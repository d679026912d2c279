"""The fleet simulation against arithmetic done by hand, an engine played step by step, and queueing theory."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import numpy as np
import pytest

from engine_steps import Arrival, play
from infra.errors import WrongUsage
from infra.fc import fleet
from infra.fc.service_times import Times

#: Steps of a second, whoever runs, nothing else: seconds are tokens.
PLAIN = Times(step_s=1.0, per_running_s=0.0, per_prompt_token_s=0.0, first_s=0.0, wake_s=0.0, cold_start_s=60.0)
T4 = Times(step_s=0.023, per_running_s=0.0007, per_prompt_token_s=0.0005, first_s=0.15, wake_s=2.5, cold_start_s=120.0)


def load(*requests: tuple[float, int, int]) -> dict[str, Any]:
    came, prompt, answer = zip(*requests, strict=True)
    return {"came_s": np.array(came, float), "prompt": np.array(prompt), "answer": np.array(answer)}


def kept(least: int, slots: int = 10, **more: Any) -> fleet.Fleet:
    return fleet.Fleet(slots, fleet.week(least, []), **more)


def test_requests_share_an_engine_as_worked_out_by_hand() -> None:
    """Steps of 1 s and 0.5 s more for each that gets a token; a prompt of 10 tokens takes 1 s."""
    times = Times(1.0, 0.5, 0.1, 0.0, 0.0, 0.0)
    found = fleet.simulate(load((10, 10, 3), (11, 20, 2)), times, kept(1))
    # The first is read from 10 to 12.5; the second in the step after that, 1 + 2 x 0.5 + 2 s; then one of 2 s for both.
    assert found.first_s.tolist() == [2.5, 5.5]
    assert found.total_s.tolist() == [8.5, 7.5]


def test_long_prompts_are_read_in_pieces() -> None:
    times = Times(1.0, 0.0, 0.001, 0.25, 0.0, 0.0)
    found = fleet.simulate(load((0, 5000, 1)), times, kept(1))
    assert found.first_s.tolist() == pytest.approx([3 + 5 + 0.25]), "three steps, 5,000 tokens, and what is beside"


def test_it_does_as_an_engine_that_is_played_step_by_step() -> None:
    chance, now, arrivals = random.Random(4), 0.0, []
    for _ in range(400):
        now += chance.expovariate(0.9)
        arrivals.append(Arrival(now, chance.randint(20, 3000), chance.randint(1, 300)))
    played = play(arrivals, T4, slots=len(arrivals))
    found = fleet.simulate(
        load(*((one.came, one.prompt, one.answer) for one in arrivals)),
        Times(T4.step_s, T4.per_running_s, T4.per_prompt_token_s, T4.first_s, 0.0, 0.0),
        kept(1, slots=len(arrivals)),
    )
    assert found.first_s == pytest.approx([one.first - one.came for one in played], rel=1e-6)
    assert found.total_s == pytest.approx([one.ended - one.came for one in played], rel=1e-6)
    assert max(one.running for one in arrivals) > 10


def test_what_finds_no_slot_and_no_instance_is_refused_as_erlang_says() -> None:
    """One slot, a load of one: half is lost, whatever the lengths."""
    chance = np.random.default_rng(2)
    came = np.cumsum(chance.exponential(10.0, 4000))
    times = Times(0.05, 0.0, 0.0, 0.0, 0.0, 60.0)
    found = fleet.simulate(load(*((at, 1, 200) for at in came)), times, kept(1, slots=1, most=1))
    assert np.isnan(found.total_s).mean() == pytest.approx(0.5, abs=0.02)


def test_a_request_starts_an_instance_waits_for_it_and_the_instance_goes() -> None:
    found = fleet.simulate(load((0, 1, 5), (100, 1, 5), (7200, 1, 5)), PLAIN, kept(0))
    assert found.total_s.tolist() == [65.0, 5.0, 65.0], "the second found the first one's instance"
    assert found.started.tolist() == [1, 0, 1] and found.instances.tolist() == [1, 0, 1]
    assert found.active_s.tolist() == pytest.approx([60 + 10 + 1, 0, 60 + 5 + 0.5]) and found.asleep_s.sum() == 0


def test_no_more_start_by_request_than_the_quota_has() -> None:
    found = fleet.simulate(load(*((0.1 * at, 1, 50) for at in range(60))), PLAIN, kept(1, most=10, on_request=3))
    assert found.started.sum() == 3 and np.isnan(found.total_s).sum() == 20
    found = fleet.simulate(load(*((0.1 * at, 1, 50) for at in range(60))), PLAIN, kept(1, most=2, on_request=3))
    assert found.started.sum() == 1 and np.isnan(found.total_s).sum() == 40


def test_the_minimum_hibernates_wakes_and_is_billed_once() -> None:
    times = Times(1.0, 0.0, 0.0, 0.0, 2.5, 60.0)
    found = fleet.simulate(load((0, 1, 10), (1000, 1, 10), (1002, 1, 10), (3000, 1, 10)), times, kept(2))
    assert found.total_s.tolist() == pytest.approx([12.5, 12.5, 11.5, 12.5], abs=1), "a wake each"
    awake = found.active_s.sum()
    assert awake == pytest.approx(12.5 * 3 + 1 + 3 * fleet.ROUNDED_S, abs=1.5)
    assert found.asleep_s.sum() == pytest.approx(2 * 3000 - awake, abs=15)


def test_what_stands_idle_of_the_minimum_comes_before_what_requests_started() -> None:
    times = Times(1.0, 0.0, 0.0, 0.0, 2.5, 60.0)
    found = fleet.simulate(load((0, 1, 50), (1, 1, 50), (2, 1, 99), (100, 1, 10)), times, kept(1, slots=2))
    assert found.started.sum() == 1 and found.total_s[3] == pytest.approx(12.5), "the minimum's, though it must wake"


def test_a_schedule_holds_from_its_minute_on_until_the_next_one() -> None:
    def rule(when: str, target: int) -> dict[str, Any]:
        return {"scheduleExpression": f"cron({when})", "target": target}

    assert fleet.week(5, []).tolist() == [5] * 7 * 1440, "no schedule: the default"
    week = fleet.week(5, [rule("0 30 8 * * MON-FRI", 2), rule("0 0 19 ? * 1,2,3,4,5", 1)]).reshape(7, 1440)
    assert week[0, [0, 509, 510, 1139, 1140]].tolist() == [1, 1, 2, 2, 1], "Monday's night is Friday's evening"
    assert week[4, 1139] == 2 and set(week[5:].flatten().tolist()) == {1}
    assert fleet.week(5, [rule("0 0/30 6-8 * * *", 3)]).tolist() == [3] * 7 * 1440
    assert set(fleet.week(0, [rule("0 0 0 * * SUN", 1), rule("0 0 0 * * MON", 2)])[: 6 * 1440].tolist()) == {2}
    assert fleet.week(0, [rule("0 0 0 ? * SAT-SUN", 1), rule("0 0 0 * * MON", 2)])[::1440].tolist() == [2] * 5 + [1] * 2


@pytest.mark.parametrize(
    "when",
    ["cron(0 0 8 1 * *)", "cron(0 0 8 * * 5L)", "cron(0 0 8 * * MON#1)", "cron(0 0 25 * * *)", "cron(0 x 8 * * *)"]
    + ["cron(0 0/0 8 * * *)", "cron(0 0 8 * * FRI-MON)", "cron(0 8 * * *)", "at(2027-01-31T08:30:00)", ""],
)
def test_a_time_that_is_none_of_a_week_is_named(when: str) -> None:
    with pytest.raises(WrongUsage, match=re.escape(when) + ".*only times by the day of the week"):
        fleet.week(1, [{"scheduleExpression": when, "target": 2}])


def test_the_clock_adds_instances_that_start_and_takes_them_away() -> None:
    actions = [{"scheduleExpression": f"cron(0 0 {hour} * * *)", "target": n} for hour, n in ((1, 2), (2, 1))]
    config = fleet.Fleet(10, fleet.week(1, actions))
    busy = load(*((60.0 * at, 1, 2) for at in range(240)))
    found = fleet.simulate(busy, PLAIN, config)
    assert found.instances.tolist() == [1, 2, 1, 1] and found.started.sum() == 0
    assert (found.active_s + found.asleep_s).tolist() == pytest.approx([3600, 7200 + 60, 3600, 3600], abs=65)


def test_a_policy_adds_where_slots_are_taken_and_gives_back_slowly() -> None:
    """8 of 10 slots aimed at 40 % want two instances, then the half of that is what is aimed at."""
    lasting = [(1.0 + at / 10, 1, 4000) for at in range(8)]
    looks = [(1200.0 + 60 * at, 1, 1) for at in range(150)]
    config = kept(1, target=0.4, top=4)
    found = fleet.simulate(load(*lasting, *((20.0 * at + 10, 1, 1) for at in range(50)), *looks), PLAIN, config)
    assert found.started.sum() == 0 and found.instances[0] >= 2
    assert found.instances[0] <= 4 and found.instances[-1] == 1
    assert fleet.simulate(load(*lasting), PLAIN, kept(1, target=0.9, top=4)).instances.max() == 1


def test_three_times_the_load_is_the_load_three_times_at_its_times() -> None:
    chance = np.random.default_rng(5)
    came = np.sort(np.concatenate([chance.uniform(0, 3600, 2000), chance.uniform(7200, 10800, 1000)]))
    day = {"came_s": came, "prompt": np.arange(3000), "answer": np.arange(3000)}
    for times in (0.5, 1.0, 3.0, 2.5):
        more = fleet.scaled(day, times)
        assert len(more["came_s"]) == pytest.approx(3000 * times, rel=0.04)
        assert (np.diff(more["came_s"]) >= 0).all()
        hours = np.bincount((more["came_s"] // 3600).astype(int), minlength=3) / times
        assert hours == pytest.approx([2000, 0, 1000], rel=0.1, abs=50)
    assert fleet.scaled(day, 1.0)["came_s"].tolist() == came.tolist()
    assert math.isclose(fleet.scaled(day, 3.0)["prompt"].mean(), 1499.5, rel_tol=0.01)
