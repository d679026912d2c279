"""Service times come out of a log: known ones of a played T4, and those that predict the second half of a real run."""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import random
import re
from pathlib import Path

import numpy as np
import pytest
from record_loads import FILE, SHARES

from engine_steps import Arrival, play
from infra.commands import plan
from infra.errors import InfraError
from infra.fc import fleet
from infra.fc.service_times import WAKE_S, Times
from log_lines import line

T4 = Times(step_s=0.023, per_running_s=0.0007, per_prompt_token_s=0.0005, first_s=0.15, wake_s=2.5, cold_start_s=90.0)


def read(log: Path, *words: str) -> tuple[plan.Load, Times]:
    parser = argparse.ArgumentParser()
    plan.arguments(parser)
    return plan.read(parser.parse_args([str(log), *words]))


def written(folder: Path, *lines: str) -> Path:
    log = folder / "log"
    log.write_text("".join(f"{one}\n" for one in lines))
    return log


def arrivals(rate: float, count: int, seed: int = 6) -> list[Arrival]:
    chance, now, found = random.Random(seed), 0.0, []
    for _ in range(count):
        now += chance.expovariate(rate)
        found.append(Arrival(now, int(chance.lognormvariate(6.2, 0.8)), int(chance.lognormvariate(4.6, 0.7)) + 1))
    return found


@pytest.mark.parametrize("rate", [0.15, 0.5, 1.0])
def test_the_times_of_a_known_engine_are_found_again(tmp_path: Path, rate: float) -> None:
    """Its steps vary by a tenth, and its log has tenths of a millisecond, as the service's has."""
    lines = [one.line() for one in play(arrivals(rate, 600), T4, noise=0.1)]
    ready = [line(msg="ready", start_s=seconds) for seconds in (80.0, 90.0, 300.0)]
    _, found = read(written(tmp_path, *ready, *lines))
    for running in (1, 4, 10):
        step = T4.step_s + running * T4.per_running_s
        assert found.step_s + running * found.per_running_s == pytest.approx(step, rel=0.04), running
    assert found.per_prompt_token_s == pytest.approx(T4.per_prompt_token_s, rel=0.08)
    assert found.first_s == pytest.approx(T4.first_s, abs=0.015)
    assert found.cold_start_s == 90.0 and found.wake_s == pytest.approx(WAKE_S, abs=0.05)
    assert found.error < 0.1


def test_instances_have_engines_of_their_own(tmp_path: Path) -> None:
    both = [play(arrivals(0.5, 300, seed), T4) for seed in (1, 2)]
    for one in both[1]:
        one.instance = "c-2"
    _, found = read(written(tmp_path, *(one.line() for some in both for one in some)), "--cold-start", "1")
    assert found.step_s == pytest.approx(T4.step_s, rel=0.04)
    assert found.per_prompt_token_s == pytest.approx(T4.per_prompt_token_s, rel=0.04)


def test_what_a_wake_takes_in_the_service_is_seen_and_added_to_what_it_cannot_see(tmp_path: Path) -> None:
    some = arrivals(0.5, 300)
    for at, one in enumerate(some[10:], 10):
        one.came += 100 * (at // 10)  # in groups, with quiet minutes in between
    played = play(some, T4)
    for one in played[::10]:
        if one.running == 1:
            one.first, one.ended = one.first + 0.8, one.ended + 0.8
    _, found = read(written(tmp_path, *(one.line() for one in played)), "--cold-start", "1")
    assert found.wake_s == pytest.approx(WAKE_S + 0.8, abs=0.1)


def test_seconds_in_which_the_machine_did_something_else_do_not_count_for_more(tmp_path: Path) -> None:
    lines = play(arrivals(0.5, 400), T4)
    for one in lines[100:120]:
        one.ended += 9 * (one.ended - one.first)
    _, found = read(written(tmp_path, *(one.line() for one in lines)), "--cold-start", "1")
    assert found.step_s + 4 * found.per_running_s == pytest.approx(T4.step_s + 4 * T4.per_running_s, rel=0.06)


@pytest.mark.parametrize("rate", [0.5, 0.01])
def test_a_log_without_load_says_so(tmp_path: Path, rate: float) -> None:
    lines = [one.line() for one in play(arrivals(rate, 20 if rate > 0.1 else 60), T4)]
    with pytest.raises(InfraError, match="too little to know how fast it is; give a log with more load"):
        read(written(tmp_path, *lines))


@pytest.mark.parametrize(("name", "first_token"), [("loads.log.gz", 0.15), ("loads-stalls.log.gz", 0.25)])
def test_the_first_half_of_a_real_run_predicts_the_p95_of_the_second_at_three_loads(
    tmp_path: Path, name: str, first_token: float
) -> None:
    """Of the real service and engine on a small machine, as record_loads.py has written it down, twice.

    The second time the machine stood still now and then, for up to half a second, which no fit can foresee: a first
    token was late by that.
    """
    text = gzip.decompress(FILE.with_name(name).read_bytes()).decode().splitlines()

    def part(share: str, turns: range) -> list[str]:
        named = re.compile(rf'"load-{share}-turn-({"|".join(map(str, turns))})-')
        return [one for one in text if named.search(one)]

    turns = 1 + max(int(number) for number in re.findall(r"-turn-(\d+)-", "\n".join(text)))
    first, second = range(turns // 2), range(turns // 2, turns)
    _, times = read(written(tmp_path, *part(r"[\d.]+", first)), "--cold-start", "1")
    times = dataclasses.replace(times, wake_s=0.0)  # nothing hibernates on a machine of its own
    for share in SHARES:
        lines = part(f"{share:g}", second)
        load, _ = read(written(tmp_path, *lines), "--assume", "t4")
        config = fleet.Fleet(len(lines), fleet.week(1, []))
        predicted = fleet.simulate(load.columns, times, config)
        measured = [
            [float(ms) / 1000 for ms in re.findall(rf'"{name}_ms": ([\d.]+)', "\n".join(lines))]
            for name in ("total", "queue", "ttft")
        ]
        for what, got, wanted, within in (
            ("total", predicted.total_s, measured[0], 0.15),
            ("TTFT", predicted.first_s, np.add(measured[1], measured[2]), first_token),
        ):
            ratio = np.quantile(got, 0.95) / np.quantile(wanted, 0.95)
            print(f"{share:.0%} load, {len(lines)} requests: {what} p95 predicted over measured {ratio:.2f}")
            assert abs(ratio - 1) <= within, (share, what, ratio)
