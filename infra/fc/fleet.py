"""What a fleet of instances does with a load, simulated by its engines' steps (service_times.py: how long one is).

Function Compute sends a request to an instance with a free slot, to one of the minimum first; starts another for it
where all slots are taken, and it waits for that start; answers 429 where no more may start. Instances of the minimum
hibernate when nothing runs, at once, as FC does not say when, and the request that wakes one waits for that; those that
requests started go after some idle minutes. Schedules set the minimum by the clock; a policy looks every minute at how
many slots of the minimum are taken (fc-docs 04/063).
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from cronsim import CronSim, CronSimError

from infra.errors import WrongUsage
from infra.fc import quotas
from infra.fc.prices import ROUNDED_S
from infra.fc.service_times import Columns, Times

#: Idle seconds after which FC takes an instance away that a request had started (fc-docs 04/045: 3 to 5 minutes).
IDLE_S = 240.0
#: Prompt tokens that one step reads at most: --max-num-batched-tokens of code/chatbot_llm/engine/profiles.py.
PROMPT_STEP = 2048
#: FC's factor for taking away what a policy added is in (0, 1], and not documented (04/063): assumed.
SHRINK = 0.5
DAY, WEEK = 1440, 7 * 1440  # minutes
DAYS = "MON TUE WED THU FRI SAT SUN".split()
MONDAY, MINUTE = datetime(2027, 2, 1), timedelta(minutes=1)
#: A time by the day of the week; FC's cron has seconds in front.
_WEEKLY = re.compile(r"cron\(\S+ (\S+ \S+) [*?] [*?] ([^\sL#]+)\)")


def week(default: int, actions: Sequence[Mapping[str, Any]]) -> Any:
    """The minimum in each minute of a week, from Monday on: what the action says that came last (04/063, 04/045).

    Raises WrongUsage for a time that is not one of days of the week.
    """
    least, fired = np.full(WEEK, default), list[tuple[int, int]]()
    for action in actions:
        when, target = action["scheduleExpression"], action["target"]
        try:
            times = CronSim(_WEEKLY.sub(r"\1 * * \2", when).replace("?", "*").replace("SUN", "7"), MONDAY - MINUTE)
        except CronSimError:
            raise WrongUsage(f"{when}: only times by the day of the week can be planned with") from None
        minutes = itertools.takewhile(WEEK.__gt__, ((time - MONDAY) // MINUTE for time in times))
        fired += [(minute, target) for minute in minutes]
    for minute, target in sorted([(-1, max(fired)[1]), *fired] if fired else []):
        least[max(0, minute) :] = target
    return least


@dataclass(frozen=True)
class Fleet:
    """How FC is configured: `week` is the minimum by the minute, `most` instances in all. A policy adds, up to `top`,
    where more than `target` of the slots are taken.
    """

    slots: int
    week: Any
    most: int = quotas.T4_CARDS_PER_REGION
    on_request: int = quotas.T4_ON_REQUEST_CARDS
    target: float = math.inf
    top: int = 0


@dataclass
class Outcome:
    """Of each request `first_s` and `total_s`, NaN where it was refused. Of each hour instance-seconds as they are
    billed between the first request and the last, most instances at once, and starts by requests.
    """

    first_s: Any
    total_s: Any
    active_s: Any
    asleep_s: Any
    instances: Any
    started: Any


@dataclass(eq=False)
class _Instance:
    """One engine at `now`, the end of its last step; `steps` is how many it has made."""

    ready: float
    kept: bool
    now: float
    steps: int = 0
    since: float = math.inf  # it was last billed as active
    prompts: deque[list[int]] = field(default_factory=deque)  # [request, tokens still to read]
    running: list[tuple[int, int]] = field(default_factory=list)  # (step after which it ends, request)

    @property
    def held(self) -> int:
        return len(self.prompts) + len(self.running)


class _World:
    def __init__(self, load: Columns, times: Times, fleet: Fleet, minute: int) -> None:
        self.load, self.times, self.fleet, self.minute = load, times, fleet, minute
        self.prompt, self.answer = (np.maximum(1, load[name]).astype(int).tolist() for name in ("prompt", "answer"))
        self.came = load["came_s"].tolist()
        hours = int(self.came[-1] // 3600) + 1
        self.active_s, self.asleep_s, self.most, self.started = ([0.0] * hours for _ in range(4))
        self.first, self.total = ([math.nan] * len(self.came) for _ in range(2))
        self.wanted = int(fleet.week[minute % WEEK])
        self.instances = [_Instance(0.0, True, 0.0) for _ in range(self.wanted)]
        self.taken: list[int] = []

    def advance(self, one: _Instance, until: float) -> None:
        """Make the steps that begin before `until`."""
        times, running, prompts = self.times, one.running, one.prompts
        while (running or prompts) and one.now < until:
            if prompts:
                left, read = PROMPT_STEP, []
                while prompts and left:
                    part = min(left, prompts[0][1])
                    prompts[0][1] -= part
                    left -= part
                    if not prompts[0][1]:
                        read.append(prompts.popleft()[0])
                one.now += times.step_s + times.per_running_s * (len(running) + len(read))
                one.now += times.per_prompt_token_s * (PROMPT_STEP - left)
                one.steps += 1
                for request in read:
                    self.first[request] = one.now - self.came[request] + times.first_s
                    heapq.heappush(running, (one.steps + self.answer[request] - 1, request))
            else:
                span = times.step_s + times.per_running_s * len(running)
                steps = min(running[0][0] - one.steps, math.ceil((until - one.now) / span))
                one.now += steps * span
                one.steps += steps
            while running and running[0][0] <= one.steps:
                request = heapq.heappop(running)[1]
                self.total[request] = one.now - self.came[request] + times.first_s
        if not one.held and one.since < math.inf:
            self.bill(one, one.now, ROUNDED_S)
            one.since = math.inf

    def bill(self, one: _Instance, until: float, more: float = 0.0) -> None:
        """Active from when it was billed last; what is kept is asleep otherwise."""
        if (spent := until - one.since) > 0:
            hour = min(int(one.since // 3600), len(self.active_s) - 1)
            self.active_s[hour] += spent + more
            self.asleep_s[hour] -= (spent + more) * one.kept

    def arrive(self, request: int, now: float) -> None:
        fleet = self.fleet
        free = [one for one in self.instances if one.held < fleet.slots]
        # What stands, of the minimum, the fullest: the others may hibernate or go.
        one = max(free, key=lambda one: (one.ready <= now, one.kept, one.held), default=None)
        started = sum(not other.kept for other in self.instances)
        if one is None and started < fleet.on_request and len(self.instances) < fleet.most:
            one = self.start(now, kept=False)
            self.started[int(now // 3600)] += 1
            self.active_s[int(now // 3600)] += self.times.cold_start_s  # a start is active (03/01)
        if one is None:
            return
        if not one.held:
            wake = self.times.wake_s if one.kept and one.ready <= now else 0.0
            one.now = max(one.ready, one.now, now + wake)
            one.since = max(one.ready, now)
        one.prompts.append([request, self.prompt[request]])
        if self.fleet.top:
            self.taken.append(sum(other.held for other in self.instances if other.kept))

    def start(self, now: float, kept: bool) -> _Instance:
        ready = now + self.times.cold_start_s
        self.instances.append(_Instance(ready, kept, ready))
        return self.instances[-1]

    def tick(self, minute: int) -> None:
        """Once a minute: the bill, the clock and the policy, and what goes."""
        now, fleet = minute * 60.0, self.fleet
        hour = min(minute // 60, len(self.most) - 1)
        for one in self.instances:
            self.advance(one, now)
            if one.held:
                self.bill(one, now)
                one.since = max(one.since, now)
        least = int(fleet.week[(self.minute + minute) % WEEK])
        if fleet.top:
            slots = fleet.slots * max(1, self.wanted)
            level = sum(self.taken) / len(self.taken) / slots / fleet.target if self.taken else 0.0
            less = self.wanted - round(self.wanted * SHRINK * (1 - level))
            least = min(fleet.top, max(least, math.ceil(self.wanted * level) if level > 1 else less))
            self.taken.clear()
        kept = sorted((one for one in self.instances if one.kept), key=lambda one: one.held)
        for one in kept[: max(0, len(kept) - least)]:
            one.kept, one.now = False, one.now if one.held else now - IDLE_S
        for _ in range(least - len(kept)):
            self.active_s[hour] += self.times.cold_start_s
            self.start(now, kept=True)
        self.wanted = least
        self.asleep_s[hour] += max(0.0, min(now + 60, self.came[-1]) - max(now, self.came[0])) * least
        self.instances = [one for one in self.instances if one.kept or one.held or now - one.now < IDLE_S]
        self.most[hour] = max(self.most[hour], len(self.instances))


def simulate(load: Columns, times: Times, fleet: Fleet, minute: int = 0) -> Outcome:
    """What becomes of requests: `came_s` in order, seconds from a whole hour on, tokens of `prompt` and `answer`.

    `minute` of the week is when that hour begins.
    """
    world = _World(load, times, fleet, minute)
    ticked = 0
    for request, now in enumerate(world.came):
        while ticked * 60 <= now:
            world.tick(ticked)
            ticked += 1
        for one in world.instances:
            world.advance(one, now)
        world.arrive(request, now)
        world.most[int(now // 3600)] = max(world.most[int(now // 3600)], len(world.instances))
    for later in range(ticked, 60 * len(world.most)):
        world.tick(later)
    for one in world.instances:
        world.advance(one, world.came[-1] + 1e6)
    found = (world.first, world.total, world.active_s, np.maximum(0.0, world.asleep_s), world.most, world.started)
    return Outcome(*map(np.asarray, found))


def scaled(load: Columns, times: float, seed: int = 1) -> Columns:
    """`times` as many requests: each so often, within two and a half minutes of its time (by chance for a fraction)."""
    chance, came = np.random.default_rng(seed), load["came_s"]
    again = np.floor(chance.random(len(came)) + times).astype(int)
    which = np.repeat(np.arange(len(came)), again)
    moved = np.where(np.diff(which, prepend=-1) > 0, 0.0, chance.uniform(-150, 150, len(which)))
    found = {name: values[which] for name, values in load.items()}
    found["came_s"] = np.clip(found["came_s"] + moved, came[0], came[-1])
    order = np.argsort(found["came_s"], kind="stable")
    return {name: values[order] for name, values in found.items()}
