"""plan: what a fleet will do with the load of a request log, and the cheapest minimum, schedule or policy for a target.

Service times are fitted from the log (fc/service_times.py), its arrivals are replayed against the simulated fleet
(fc/fleet.py), as they were or `--times` as many. A week of the plan is made of the log's hours of the day, of working
days and weekends apart where the log has both in full; to hours that it does not cover nobody comes.

Tried for a target: every constant minimum; every schedule of two (one minimum, another in a span of hours, on all days
or on working days), first from the hours of constant ones, then the cheapest by themselves; policies by slots taken.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
from rich.table import Table

from infra.commands import options, request_log, scale
from infra.commands.scale import Rule
from infra.commands.screen import Progress, console, progress, table
from infra.doctor import rules as doctor
from infra.errors import CheckFailed, WrongUsage
from infra.fc import fleet, quotas, template
from infra.fc.prices import CU_PER_REQUEST, HOURS_PER_MONTH, Size, price
from infra.fc.service_times import ASSUMED, Columns, Times, fit

#: Requests that are simulated: of a longer log the last ones.
MOST_REQUESTS = 200_000
#: Shares of the slots that a policy may aim at.
TARGETS = (0.4, 0.6, 0.8)
#: A working day's load by the hour, share of the busiest, for those without a log.
OFFICE_DAY = (5, 4, 3, 3, 3, 5, 10, 25, 55, 85, 100, 95, 75, 85, 100, 95, 85, 70, 45, 30, 22, 16, 11, 8)
# What was refused had no tokens: it gets those of the request before it.
QUERY = f"""
    , known AS (SELECT *, epoch(ended) AS ended_s, epoch(ended) - total_ms / 1000 AS came_s,
        coalesce(queue_ms, 0) / 1000 AS queue_s, completion_tokens > 0 AS answered FROM entries
        WHERE msg = 'request' AND (completion_tokens > 0 OR outcome = 'overloaded'))
    SELECT * FROM (SELECT ended_s, came_s, came_s + queue_s AS granted_s, coalesce(decode_ms / 1000, 0) AS decode_s,
        coalesce(CASE WHEN answered THEN queue_s + ttft_ms / 1000 END, 'nan'::DOUBLE) AS first_s,
        last_value(prompt_tokens - coalesce(cached_tokens, 0) IGNORE NULLS) OVER come AS prompt,
        last_value(completion_tokens IGNORE NULLS) OVER come AS answer,
        coalesce(instance, '') AS instance, running = 1 AS alone, outcome = 'ok' AS ok
        FROM known WINDOW come AS (ORDER BY came_s) ORDER BY came_s DESC LIMIT {MOST_REQUESTS})
    WHERE prompt IS NOT NULL ORDER BY came_s
"""
_STARTS = "SELECT coalesce(median(start_s), 'nan'::DOUBLE) AS cold FROM entries WHERE msg = 'ready'"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.currency(parser)
    options.span(parser)
    parser.add_argument("log", nargs="*", metavar="LOG", help="files, .gz too; none: an office's day, see --rps")
    parser.add_argument("--assume", choices=sorted(ASSUMED), help="a forecast in place of the log's service times")
    number, seconds = partial(options.number, parser), (0.001, 1e6)
    number("--times", 0.001, 100, "as many requests as in the log (%(default)s)", 1.0)
    number("--p95", *seconds, "the cheapest with 95 %% of answers whole in X s", math.inf)
    number("--ttft", *seconds, "... and 95 %% begun in X s", math.inf)
    parser.add_argument(
        "--refused", type=share, default=1.0, metavar="X", help="... and at most so many 429: 0.001 or 0.1%%"
    )
    number("--min", 0, quotas.MAX_MIN_INSTANCES, "min instances (default: s.yaml, with its schedules)")
    number("--max", 1, quotas.MAX_MIN_INSTANCES, "in all (%(default)s)", quotas.T4_CARDS_PER_REGION)
    number("--cold-start", *seconds, "s of a start (default: the log's lines `ready`)")
    parser.add_argument("--time-zone", default=scale.TIME_ZONE, metavar="Z", help="of hours and schedules")
    number("--rps", 0.001, 100, "without LOG: requests/s in the busiest hour (1)", 1.0)
    number("--prompt", 1, 1e6, "... and prompt tokens (%(default)s)", 1500)
    number("--answer", 1, 1e6, "... and answer tokens (%(default)s)", 200)


def share(text: str) -> float:
    """0.1% or 0.001. Raises ValueError."""
    if not 0 <= (value := float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)) <= 1:
        raise ValueError
    return value


def run(args: argparse.Namespace) -> None:
    """Simulate, print. Raises InfraError for a log that holds too little, CheckFailed if nothing meets the target."""
    if (args.min or 0) > args.max:
        raise WrongUsage("give --min no larger than --max")
    if args.time_zone not in available_timezones():
        raise WrongUsage(f"{args.time_zone!r} is no time zone: write one like {scale.TIME_ZONE}")
    if not args.log and not args.assume:
        raise WrongUsage("give a LOG to learn from, or --assume t4 for a forecast")
    target = Target(args.p95, args.ttft, args.refused)
    props = template.render_any()
    if wrong := [finding for finding in doctor.instances(props) if finding.level == "error"]:
        raise WrongUsage(f"s.yaml cannot be planned with: {wrong[0].path} {wrong[0].sentence}")
    load, times = read(args)
    plan = Plan(load, times, Size.of(props), props["instanceConcurrency"], args.max, args.currency)
    screen = console()
    screen.print(service_times(times))
    if target == Target():
        now = props["provisionConfig"]
        kept = (now["defaultTarget"], now["scheduledActions"], now["targetTrackingPolicies"][:1])
        screen.print(page(plan, plan.tried(*(kept if args.min is None else (args.min,)))))
        return
    with progress() as shown:
        best, others = search(plan, target, shown)
    screen.print(page(plan, best))
    screen.print(compared(plan, others))
    print(f"{target}: for s.yaml ({times.source}), to be set before the next `make deploy`:\n{best.exports()}")


@dataclass(frozen=True)
class Target:
    """Seconds within which 95 % are answered, and begun; the share that may be refused."""

    p95: float = math.inf
    ttft: float = math.inf
    refused: float = 1.0

    def __str__(self) -> str:
        parts = [f"p95 {self.p95:g} s"] * (self.p95 < math.inf) + [f"TTFT p95 {self.ttft:g} s"] * (self.ttft < math.inf)
        return ", ".join(parts + [f"refused {self.refused:.2%}"] * (self.refused < 1))


@dataclass(frozen=True)
class Load:
    """Requests by when they came, `came_s` from a whole hour of `zone` on, which is minute `minute` of the week."""

    columns: Columns
    minute: int
    zone: str


def read(args: argparse.Namespace) -> tuple[Load, Times]:
    """The load, scaled, and the times: fitted, assumed, or given."""
    log, zone = office_day(args.rps, args.prompt, args.answer), ZoneInfo(args.time_zone)
    cold = math.nan
    if args.log:
        span = args.since, args.until
        cold = request_log.query(args.log, _STARTS, span)[0]["cold"]
        log = request_log.query(args.log, QUERY, span, fetch=lambda answer: answer.fetchnumpy())
        if not len(log["came_s"]):
            raise WrongUsage(f"{', '.join(args.log)} has no request with an answer in this span: nothing to plan")
    times = ASSUMED.get(args.assume) or fit(log, cold)
    if args.cold_start is not None:
        times = dataclasses.replace(times, cold_start_s=args.cold_start)
    if not math.isfinite(times.cold_start_s):
        raise WrongUsage("no start stands in this log: give the seconds of one with --cold-start")
    local = datetime.fromtimestamp(log["came_s"][0], UTC).astimezone(zone)
    hour = local.replace(minute=0, second=0, microsecond=0)
    log["came_s"] = log["came_s"] - hour.timestamp()
    wanted = {name: log[name] for name in ("came_s", "prompt", "answer")}
    return Load(fleet.scaled(wanted, args.times), hour.weekday() * fleet.DAY + hour.hour * 60, args.time_zone), times


def office_day(rps: float, prompt: int, answer: int) -> Columns:
    """A Monday's Poisson arrivals, `rps` a second in the busiest hour; lengths vary by half (lognormal)."""
    chance = np.random.default_rng(1)
    counts = chance.poisson(3600 * rps * np.array(OFFICE_DAY) / max(OFFICE_DAY))
    came = np.sort(np.concatenate([3600 * (hour + chance.random(n)) for hour, n in enumerate(counts)]))
    monday = fleet.MONDAY.replace(tzinfo=ZoneInfo(scale.TIME_ZONE)).timestamp()
    sizes = [tokens * chance.lognormal(-0.125, 0.5, len(came)) for tokens in (prompt, answer)]
    return {"came_s": monday + came, "prompt": np.ceil(sizes[0]), "answer": np.ceil(sizes[1])}


@dataclass(frozen=True)
class Tried:
    """A configuration, what became of the load under it, and its price a month."""

    least: int
    schedules: list[Rule]
    policies: list[Rule]
    outcome: fleet.Outcome
    paid: float

    def __str__(self) -> str:
        rules = [f"{rule['target']} from {rule['scheduleExpression']}" for rule in self.schedules]
        rules += [f"{one['minCapacity']} to {one['maxCapacity']} at {one['metricTarget']:.0%}" for one in self.policies]
        return ", ".join(rules) or f"{self.least}"

    def exports(self) -> str:
        return scale.exports(self.least, self.schedules, self.policies)

    def misses(self, target: Target) -> Any:
        """Of each request, in rows: whole too late, begun too late, refused."""
        total, first = self.outcome.total_s, self.outcome.first_s
        return np.array([total > target.p95, first > target.ttft, np.isnan(total)])

    def meets(self, target: Target) -> bool:
        return bool(fits(self.misses(target).sum(axis=1), len(self.outcome.total_s), target))


def fits(missed: Any, count: int, target: Target) -> Any:
    """Whether so many, in the rows of `misses`, are few enough: of what is answered 5 % may be late."""
    return (np.maximum(missed[0], missed[1]) <= 0.05 * (count - missed[2])) & (missed[2] <= target.refused * count)


class Plan:
    """The load, how fast an instance is, and what is paid for one: makes `Tried` of configurations."""

    def __init__(self, load: Load, times: Times, size: Size, slots: int, most: int, currency: str) -> None:
        self.load, self.times, self.size = load, times, size
        self.slots, self.most, self.currency = slots, most, currency
        came = load.columns["came_s"]
        self.hour = (came // 3600).astype(int)  # of each request
        begins = 3600.0 * np.arange(self.hour[-1] + 1)
        self.covered = np.maximum(60.0, np.minimum(begins + 3600, came[-1]) - np.maximum(begins, came[0]))  # s
        day, self.bin = np.divmod((load.minute // 60 + np.arange(len(begins))) % 168, 24)
        self.weekends = all(len(np.unique(self.bin[(day >= 5) == kind])) == 24 for kind in (False, True))
        self.bin += 24 * (day >= 5) * self.weekends
        self.weight = np.repeat([5.0, 2.0] if self.weekends else [7.0], 24)  # days of a week that a bin stands for

    def folded(self, values: Any) -> Any:
        """Of something that each hour of the log has, what one hour of each bin has."""
        bins = len(self.weight)
        seconds = np.bincount(self.bin, self.covered, bins)
        return np.bincount(self.bin, values, bins) * 3600 / np.where(seconds, seconds, np.inf)

    def cu(self, outcome: fleet.Outcome, week: Any) -> Any:
        """CU of an hour of each bin: where the log does not cover it, the minimum sleeps."""
        kinds = np.split(week.reshape(7, 24, 60).mean(axis=2), [5] if self.weekends else [])
        kept = np.concatenate([days.mean(axis=0) for days in kinds])
        quiet = 3600 * kept * (np.bincount(self.bin, minlength=len(self.weight)) == 0)
        active, asleep = self.folded(outcome.active_s), self.folded(outcome.asleep_s) + quiet
        requests = self.folded(np.bincount(self.hour, minlength=len(self.covered)))
        rates = [self.size.cu_per_second(state) for state in ("active", "hibernated")]
        return active * rates[0] + asleep * rates[1] + requests * CU_PER_REQUEST

    def monthly(self, cu: float) -> float:
        """The price of a month of such weeks."""
        return float(price(cu * HOURS_PER_MONTH / 168, self.currency))

    def tried(self, least: int, schedules: Sequence[Rule] = (), policies: Sequence[Rule] = ()) -> Tried:
        """With at most one policy."""
        by_week, more = fleet.week(least, schedules), dict[str, Any]()
        for policy in policies:  # of all rules in force the largest counts, and not the default (04/063)
            by_week = np.maximum(by_week * bool(schedules), policy["minCapacity"])
            more = {"target": policy["metricTarget"], "top": policy["maxCapacity"]}
        config = fleet.Fleet(self.slots, by_week, self.most, **more)
        outcome = fleet.simulate(self.load.columns, self.times, config, self.load.minute)
        paid = self.monthly(float(self.weight @ self.cu(outcome, by_week)))
        return Tried(least, list(schedules), list(policies), outcome, paid)


def search(plan: Plan, target: Target, shown: Progress) -> tuple[Tried, list[Tried]]:
    """The cheapest that meets the target, and the best of each kind. Raises CheckFailed if nothing does."""
    constant: list[Tried] = []
    for least in range(plan.most + 1):
        shown.report(f"simulating {least} instances kept")
        constant.append(plan.tried(least))
        if constant[-1].meets(target) and not constant[-1].outcome.started.sum():
            break
    found, most = cheapest(constant, target), len(constant) - 1
    shown.report("simulating schedules")
    promising = itertools.islice(schedules(plan, constant, target), 12)
    cheaper = itertools.takewhile(lambda one: not found or one[0] < found[0].paid, promising)
    tried = (plan.tried(actions[-1]["target"], actions) for _, actions in cheaper)
    scheduled = list(itertools.islice((one for one in tried if one.meets(target)), 1))
    shown.report("simulating policies")
    rules = (policy(aim, least, most) for least, aim in itertools.product(range(1, most), TARGETS))
    policies = [plan.tried(rule["minCapacity"], policies=[rule]) for rule in rules]
    found += scheduled + cheapest(policies, target)
    if not found:
        raise CheckFailed(f"{target}: not with {plan.most} instances; raise --max, or relax the target")
    return cheapest(found, target)[0], found


def cheapest(some: list[Tried], target: Target) -> list[Tried]:
    """The one, or none."""
    return sorted((one for one in some if one.meets(target)), key=lambda one: one.paid)[:1]


def schedules(plan: Plan, constant: list[Tried], target: Target) -> Iterator[tuple[float, list[Rule]]]:
    """(price a month, actions) of all that should meet the target, by the hours of constant minima; cheapest first."""
    bins, at = np.arange(len(plan.weight)), plan.bin[plan.hour]
    cu = [plan.cu(one.outcome, np.full(fleet.WEEK, one.least)) * plan.weight for one in constant]
    missed = [[np.bincount(at, row, len(bins)) for row in one.misses(target)] for one in constant]
    rows = np.array([[*some, cost] for some, cost in zip(missed, cu, strict=True)])  # minimum, what, bin
    spans = [(start, hours, apart) for start in range(24) for hours in range(1, 24) for apart in {False, plan.weekends}]
    inside = np.array([((bins - start) % 24 < hours) & ((bins < 24) | (not apart)) for start, hours, apart in spans])
    found = list[tuple[float, tuple[int, int, bool], int, int]]()
    for low, high in itertools.combinations(range(len(constant)), 2):
        sums = (rows[high] - rows[low]) @ inside.T + rows[low].sum(axis=1)[:, None]
        found += [(sums[3, at_], spans[at_], low, high) for at_ in np.flatnonzero(fits(sums, len(at), target))]
    for cost, (start, hours, weekdays), low, high in sorted(found):
        lead = math.ceil(plan.times.cold_start_s / 60) + 1  # minutes: standing when its hour begins
        rules = (("busy", start * 60 - lead, high), ("quiet", (start + hours) * 60, low))
        yield plan.monthly(cost), [action(*rule, weekdays, plan.load.zone) for rule in rules]


def action(name: str, minute: int, least: int, weekdays: bool, zone: str) -> Rule:
    """A scheduled action at a minute counted from midnight, which may lie before it or on the next day."""
    days, clock = divmod(minute, fleet.DAY)
    named = ",".join(fleet.DAYS[(day + days) % 7] for day in range(5)) if weekdays else "*"
    when = f"cron(0 {clock % 60} {clock // 60} * * {named})"
    return scale.schedule(name, when, least, zone)


def policy(aim: float, least: int, most: int) -> Rule:
    """A policy by slots taken: not by GPU memory, which vLLM fills at its start and keeps."""
    what = {"metricType": "ProvisionedConcurrencyUtilization", "metricTarget": aim}
    return {"name": "by-slots", **what, "minCapacity": least, "maxCapacity": most, **scale.SPAN, "timeZone": ""}


def service_times(times: Times) -> Table:
    facts = {
        "a step of decoding": times.step_s,
        "... more for each request in it": times.per_running_s,
        "1,000 prompt tokens": 1000 * times.per_prompt_token_s,
        "beside that, until the first token": times.first_s,
        "waking": times.wake_s,
        "a cold start": times.cold_start_s,
    }
    rows = ((name, f"{seconds:.{4 if seconds < 0.1 else 2}f}") for name, seconds in facts.items())
    shown = table(times.source, "service times", ">s", rows=rows)
    if times.error:
        shown.caption = f"of the log's times, half are within {times.error:.0%} of these"
    return shown


def quantile(values: Any, share: float = 0.95) -> str:
    known = values[~np.isnan(values)]
    return f"{np.quantile(known, share):.2f}" if len(known) else "-"


def latencies(outcome: fleet.Outcome, these: Any = slice(None)) -> tuple[str, str, str]:
    """TTFT p95 and total p95, seconds, and the share of 429, %, of these requests."""
    total = outcome.total_s[these]
    refused = np.isnan(total).mean() if len(total) else 0.0
    return quantile(outcome.first_s[these]), quantile(total), f"{100 * refused:.2f}"


def page(plan: Plan, tried: Tried) -> Table:
    """A mean day by the hour, and what it comes to."""
    out, title = tried.outcome, f"{tried} kept: a day ({plan.times.source})"
    shown = table(title, "hour", ">requests/s", ">TTFT p95 s", ">total p95 s", ">429 %", ">instances", ">cards busy")
    for hour in sorted(set(plan.bin % 24)):
        these = plan.bin % 24 == hour
        came, seconds = these[plan.hour], plan.covered[these].sum()
        most, busy = f"{out.instances[these].max():.0f}", f"{out.active_s[these].sum() / seconds:.2f}"
        shown.add_row(f"{hour:02d}", f"{came.sum() / seconds:.2f}", *latencies(out, came), most, busy)
    ttft, total, refused = latencies(out)
    shown.caption = (
        f"{len(out.total_s):,} requests: TTFT p95 {ttft} s, total p50 {quantile(out.total_s, 0.5)} s "
        f"and p95 {total} s, {refused}% refused, {out.started.sum():.0f} started by requests; "
        f"{tried.paid:,.0f} {plan.currency} a month of such days (list price; {plan.times.source})"
    )
    return shown


def compared(plan: Plan, all_tried: list[Tried]) -> Table:
    title, paid = f"cheapest of each kind ({plan.times.source})", f">{plan.currency} a month"
    rows = ((f"{one}", *latencies(one.outcome), f"{one.paid:,.0f}") for one in all_tried)
    return table(title, "kept", ">TTFT p95 s", ">total p95 s", ">429 %", paid, rows=rows)
