"""BENCHMARKS.md is what its generator makes of the results, and the arithmetic of its claims."""

import json
from pathlib import Path

import pytest

from bench import report

RESULTS = Path(__file__).with_name("results") / "cpu.json"


def cell(peer: str, value: float, turn: int = 0, level: int = 1) -> dict[str, object]:
    return {"peer": peer, "round": turn, "shape": "s", "concurrency": level, "tokens_per_s": value}


def test_benchmarks_md_is_what_the_results_say() -> None:
    results = json.loads(RESULTS.read_text())
    assert report.FILE.read_text() == report.render(results), "run `make bench-report`"


def test_a_ratio_pairs_only_what_ran_in_the_same_round_at_the_same_concurrency() -> None:
    cells = [cell("service", 30, 0), cell("vllm", 20, 0), cell("service", 10, 1), cell("vllm", 20, 1)]
    cells += [cell("service", 99, 2), cell("vllm", 50, 0, level=4)]
    assert report.ratios(cells, "tokens_per_s") == [1.5, 0.5]
    assert report.ratios(cells, "tokens_per_s", concurrency=4) == []


@pytest.mark.parametrize(("value", "words"), [(0.99, "**missed**"), (1.0, "met")])
def test_a_goal_is_met_only_when_the_median_reaches_it(value: float, words: str) -> None:
    row = report.Row("k", "m", ">= 1", report.at_least(1.0), [value, value, 5.0])
    assert row.line().endswith(f"| {words} |")


def test_every_missed_goal_says_what_bounds_it() -> None:
    results = json.loads(RESULTS.read_text())
    assert report.UNEXPLAINED not in report.render(results)


def test_a_goal_without_a_measurement_is_shown_as_such() -> None:
    rows = [line for line in report.render({}).splitlines() if line.startswith("| ") and "goal |" not in line]
    assert all("not measured" in line for line in rows[:-1]) and len(rows) > 10
