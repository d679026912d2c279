"""plan's other half: service times, out of what `make bench` measured (tests/bench/results/*.json)."""

from __future__ import annotations

import bisect
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import InfraError


@dataclass(frozen=True)
class Speed:
    """Measured service times: seconds per prompt token and per answer token, by requests running at once."""

    levels: tuple[int, ...]
    per_prompt_token: tuple[float, ...]
    per_answer_token: tuple[float, ...]

    def seconds(self, running: int, prompt: float, answer: float) -> float:
        """What one request takes while `running` run, straight lines between the measured levels."""
        points = [p * prompt + a * answer for p, a in zip(self.per_prompt_token, self.per_answer_token, strict=True)]
        return between(self.levels, points, running)


def between(levels: Sequence[int], points: Sequence[float], running: int) -> float:
    """The seconds for `running` requests, straight lines between and beyond the measured levels."""
    at = min(max(bisect.bisect_left(levels, running), 1), len(levels) - 1)
    low, high = levels[at - 1], levels[at]
    value = points[at - 1] + (points[at] - points[at - 1]) * (running - low) / (high - low)
    return max(value, points[0] * 0.5)


def measured(path: Path, peer: str = "service") -> tuple[Speed, float]:
    """(service times, cold start in seconds) from the results of `make bench`. Raises InfraError naming what lacks."""
    try:
        results: Mapping[str, Any] = json.loads(path.read_text())
        cells, starts = results["throughput"]["data"], results["start"]["data"]
    except (OSError, ValueError, KeyError) as error:
        raise InfraError(f"{path} holds no measurement ({error!r}): run `make bench` first") from error
    cold = statistics.median(one["first_token_s"] for one in starts if one["peer"] == peer)
    return speed([cell for cell in cells if cell["peer"] == peer]), cold


def speed(cells: Sequence[Mapping[str, Any]]) -> Speed:
    """Solve, at each level, prompt and answer seconds from the latencies of the two shapes of request."""
    found: dict[int, dict[str, list[Mapping[str, Any]]]] = {}
    for cell in cells:
        found.setdefault(cell["concurrency"], {}).setdefault(cell["shape"], []).append(cell)
    levels, prompts, answers = [], [], []
    for level in sorted(level for level, shapes in found.items() if len(shapes) == 2):
        (p1, a1, t1), (p2, a2, t2) = (_point(group) for group in found[level].values())
        determinant = p1 * a2 - p2 * a1
        levels.append(level)
        prompts.append(max(0.0, (t1 * a2 - t2 * a1) / determinant))
        answers.append(max(0.0, (p1 * t2 - p2 * t1) / determinant))
    if len(levels) < 2:
        raise InfraError("at least two levels of concurrency with two shapes each are needed: run `make bench`")
    return Speed(tuple(levels), tuple(prompts), tuple(answers))


def _point(group: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    prompt = statistics.median(cell["prompt_tokens"] for cell in group)
    answer = statistics.median(cell["tokens"] / cell["requests"] for cell in group)
    return prompt, answer, statistics.median(cell["e2el_p50_ms"] for cell in group) / 1000
