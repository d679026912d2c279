"""What a fleet of instances will do, simulated event by event (simpy) from measured numbers only.

An instance shares its engine among the requests it runs: with n of them each takes T(n) seconds (`Speed`). FC
sends a request to an instance with a free slot, starts another instance for it where the maximum allows, and answers
429 where it does not. Min instances hibernate when idle; an instance started by a request goes after some idle minutes.
One instance is checked against the real service: tests/bench/BENCHMARKS.md.
"""

from __future__ import annotations

import bisect
import heapq
import json
import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import simpy

from infra.errors import InfraError
from infra.fc.prices import HOURS_PER_MONTH, Size, price

#: Idle seconds after which FC takes an instance away that a request had started (fc-docs 04/045: 3 to 5 minutes).
IDLE_S = 240
#: Waking a hibernated instance, seconds (fc-docs 04/045: 2 to 3 s).
WAKE_S = 2.5
#: Most requests simulated in one run: a longer day is simulated as a part of each of its hours.
MOST_REQUESTS = 200_000
#: An hour is simulated for at least this long, or cold starts would seem longer than they are, seconds.
SHORTEST_HOUR_S = 120.0
#: A working day's load by the hour, share of the busiest; the same for every day.
OFFICE_DAY = (5, 4, 3, 3, 3, 5, 10, 25, 55, 85, 100, 95, 75, 85, 100, 95, 85, 70, 45, 30, 22, 16, 11, 8)


@dataclass(frozen=True)
class Fleet:
    """How FC is configured. `waiting` are places inside an instance, for a service without FC in front."""

    slots: int
    least: int
    most: int
    cold_start_s: float
    waiting: int = 0
    wake_s: float = 0.0


@dataclass
class Hour:
    """What happened to the requests that came in one hour."""

    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    most_instances: int = 0

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


@dataclass
class Outcome:
    """`active_s` and `hibernated_s` are instance-seconds that are billed, of the simulated time."""

    hours: list[Hour]
    active_s: float
    hibernated_s: float
    started: int
    simulated_s: float

    def latencies(self) -> list[float]:
        return [value for hour in self.hours for value in hour.latencies]


class _Instance:
    """One engine, shared equally: virtual time runs at 1/T(n); a request of size w ends w later on that clock."""

    def __init__(self, world: _World, ready_at: float, permanent: bool) -> None:
        self.world, self.permanent, self.ready_at = world, permanent, ready_at
        self.running: list[tuple[float, int, _Request]] = []
        self.queue: list[_Request] = []
        self.clock, self.since, self.turn = 0.0, ready_at, 0
        self.busy_s, self.idle_since = 0.0, ready_at

    @property
    def held(self) -> int:
        return len(self.running) + len(self.queue)

    def take(self, request: _Request) -> None:
        now, held = self.world.env.now, self.held
        if held == 0 and now > self.ready_at and self.permanent:
            self.ready_at = now + self.world.fleet.wake_s  # hibernated until now
        self.queue.append(request)
        self.world.moved(self, held)
        if now < self.ready_at:
            self._wake_at(self.ready_at)
        else:
            self._settle()

    def _wake_at(self, when: float) -> None:
        event = self.world.env.timeout(max(0.0, when - self.world.env.now))
        event.callbacks.append(lambda _: self._settle())

    def _settle(self) -> None:
        """Move the clock to now, let finished requests out and waiting ones in, and sleep until the next end."""
        now, world = self.world.env.now, self.world
        if now < self.ready_at:
            return
        held = self.held
        if self.running:
            spent = now - max(self.since, self.ready_at)
            self.clock += spent / world.seconds(len(self.running))
            self.busy_s += spent
        self.since = now
        while self.running and self.running[0][0] <= self.clock + 1e-9:
            request = heapq.heappop(self.running)[2]
            request.hour.latencies.append(now - request.came)
            self.idle_since = now
        while self.queue and len(self.running) < world.fleet.slots:
            request = self.queue.pop(0)
            world.count += 1
            heapq.heappush(self.running, (self.clock + request.size, world.count, request))
        world.moved(self, held)
        self.turn += 1
        if self.running:
            left = (self.running[0][0] - self.clock) * world.seconds(len(self.running))
            turn = self.turn
            event = world.env.timeout(max(left, 0.0))
            event.callbacks.append(lambda _: self._settle() if turn == self.turn else None)
        elif not self.permanent:
            event = world.env.timeout(IDLE_S)
            event.callbacks.append(lambda _: world.retire(self))


@dataclass
class _Request:
    came: float
    size: float
    hour: Hour


class _World:
    def __init__(self, fleet: Fleet, seconds: Callable[[int], float]) -> None:
        self.env = simpy.Environment()
        self.fleet = fleet
        self.seconds = seconds
        self.count = 0
        self.started = 0
        self.gone_busy_s = 0.0
        places = range(fleet.slots + fleet.waiting + 1)
        self.ready: list[dict[_Instance, None]] = [{} for _ in places]
        self.coming: list[dict[_Instance, None]] = [{} for _ in places]
        self.instances = {_Instance(self, 0.0, permanent=True): None for _ in range(fleet.least)}
        self.ready[0].update(self.instances)

    def arrive(self, request: _Request) -> None:
        """The fullest instance with a free slot first: the others may hibernate or go."""
        fleet = self.fleet
        one = self._free(fleet.slots, self.ready) or self._free(fleet.slots, self.coming)
        if one is None and len(self.instances) < fleet.most:
            self.started += 1
            one = _Instance(self, self.env.now + fleet.cold_start_s, permanent=False)
            self.instances[one] = None
            self.coming[0][one] = None
        one = one or self._free(fleet.slots + fleet.waiting, self.ready)
        if one is None:
            request.hour.refused += 1
        else:
            one.take(request)
        request.hour.most_instances = max(request.hour.most_instances, len(self.instances))

    def _free(self, places: int, among: list[dict[_Instance, None]]) -> _Instance | None:
        return next((next(iter(among[held])) for held in range(places - 1, -1, -1) if among[held]), None)

    def moved(self, instance: _Instance, held: int) -> None:
        """Keep the books by how many requests an instance holds, so that a thousand need not be searched."""
        for books in (self.ready, self.coming):
            books[held].pop(instance, None)
        now_ready = instance.ready_at <= self.env.now
        (self.ready if now_ready else self.coming)[instance.held][instance] = None

    def retire(self, instance: _Instance) -> None:
        idle = self.env.now - instance.idle_since
        if instance in self.instances and not instance.held and idle >= IDLE_S - 1e-6:
            del self.instances[instance]
            self.ready[0].pop(instance, None)
            self.gone_busy_s += instance.busy_s


def poisson(rates: Sequence[float], hour_s: float, seed: int, spread: float) -> Iterator[tuple[float, float]]:
    """(when, size) of each request, at `rates` requests/s, one rate for each `hour_s` seconds.

    `spread` is the standard deviation of the logarithm of request sizes, whose mean is 1; 0: all alike.
    """
    chance = random.Random(seed)
    for at, rate in enumerate(rates):
        now, end = at * hour_s, (at + 1) * hour_s
        while rate > 0 and (now := now + chance.expovariate(rate)) < end:
            yield now, chance.lognormvariate(-spread * spread / 2, spread) if spread else 1.0


def simulate(
    fleet: Fleet,
    seconds: Callable[[int], float],
    rates: Sequence[float],
    hour_s: float = 3600,
    seed: int = 1,
    spread: float = 0.0,
) -> Outcome:
    """What becomes of Poisson arrivals; see `poisson` and `replay`."""
    return replay(fleet, seconds, poisson(rates, hour_s, seed, spread), len(rates), hour_s)


def replay(
    fleet: Fleet,
    seconds: Callable[[int], float],
    requests: Iterable[tuple[float, float]],
    hours: int = 1,
    hour_s: float = 3600,
) -> Outcome:
    """What becomes of `requests`, each (when, size) in order of time, within `hours` of `hour_s` seconds each.

    `seconds(n)` is what a request of size 1 takes while n run.
    """
    world = _World(fleet, seconds)
    counted = [Hour() for _ in range(hours)]

    def arrivals() -> Any:
        for when, size in requests:
            yield world.env.timeout(max(0.0, when - world.env.now))
            world.arrive(_Request(world.env.now, size, counted[int(when / hour_s)]))

    world.env.process(arrivals())
    world.env.run()
    whole = hour_s * hours
    busy = world.gone_busy_s + sum(one.busy_s for one in world.instances)
    resident = sum(max(0.0, whole - one.busy_s) for one in world.instances if one.permanent)
    return Outcome(counted, busy + world.started * fleet.cold_start_s, resident, world.started, whole)


def day(busiest: float, shares: Sequence[float] = OFFICE_DAY) -> list[float]:
    """Requests/s for each hour when the busiest hour has `busiest`."""
    return [busiest * share / max(shares) for share in shares]


def hour_seconds(rates: Sequence[float], most: int = MOST_REQUESTS) -> float:
    """How much of each hour to simulate so that about `most` requests are enough."""
    return min(3600.0, max(SHORTEST_HOUR_S, most / max(1e-9, sum(rates))))


def monthly(outcome: Outcome, size: Size, rates: Sequence[float], currency: str) -> float:
    """Price of 30 such days."""
    scale = HOURS_PER_MONTH * 3600 / outcome.simulated_s
    requests = sum(rates) * 3600 * HOURS_PER_MONTH / len(rates)
    cu = size.cu(outcome.active_s * scale / 3600, outcome.hibernated_s * scale / 3600, requests)
    return float(price(cu, currency))


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
