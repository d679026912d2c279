"""scale: how many instances are kept, now and by the clock.

Both alwaysAllocate flags are written as false every time: the API's default is true, and a T4 that is never
hibernated costs about four times as much (fc/prices.py). Everything else in the provision config is read
first and written back as it stands, because PutProvisionConfig replaces the whole. Min instances belong to
LATEST or an alias; a version is refused before the call.

A schedule is an FC scheduled action: from its time on it asks for its number, so a working day needs two (up in the
morning, down in the evening). While a schedule or a policy is in force, N does not count (FC docs 04/045): then N is
refused. A deployment writes what DEPLOY_MIN_INSTANCES, _SCHEDULES and _POLICIES hold, so what they lack is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from infra.commands import options
from infra.errors import InfraError, WrongUsage
from infra.fc.client import LIVE, FunctionCompute
from infra.fc.quotas import MAX_MIN_INSTANCES, SCHEDULE

Rule = dict[str, Any]  # a scheduled action or a policy, as FC's API has it

#: When a schedule or a policy holds: long enough not to end unnoticed.
SPAN = {"startTime": "2026-01-01T00:00:00Z", "endTime": "2036-01-01T00:00:00Z"}
TIME_ZONE = "Asia/Shanghai"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.account(parser, qualifier=True)
    parser.add_argument("count", type=int, nargs="?", metavar="N", help="min instances; 0 scales to zero")
    example = "from WHEN on keep N, e.g. morning 'cron(0 30 8 * * MON-FRI)' 2"
    parser.add_argument("--schedule", nargs=3, metavar=("NAME", "WHEN", "N"), help=example)
    parser.add_argument("--unschedule", metavar="NAME", help="take a schedule away")
    parser.add_argument("--time-zone", default=TIME_ZONE, help="of WHEN (%(default)s)")


def run(args: argparse.Namespace) -> None:
    if args.count is None and args.schedule is None and args.unschedule is None:
        raise WrongUsage("scale what? give N, --schedule or --unschedule")
    add = None
    if args.schedule is not None:
        name, when, count = args.schedule
        if not count.isdigit():
            raise WrongUsage(f"--schedule {name}: {count!r} is no number of instances")
        add = schedule(name, when, int(count), args.time_zone)
    fc, where = options.connect(args), (args.function, args.qualifier)
    changes = scale(fc, *where, count=args.count, add=add, remove=args.unschedule)
    undone = undone_by_deploy(fc.get_provision(*where), args.qualifier, os.environ)
    print("\n".join(changes + ([undone] if undone else [])))


def schedule(name: str, when: str, target: int, time_zone: str) -> Rule:
    """A scheduled action: from `when` on `target` instances. Raises InfraError naming what to write."""
    check_count(target)
    if not re.fullmatch(SCHEDULE, when):
        raise InfraError(
            f"schedule {when!r}: write cron(SECONDS MINUTES HOURS DAY MONTH WEEKDAY), "
            "e.g. 'cron(0 30 8 * * MON-FRI)', or at(2027-01-31T08:30:00)"
        )
    return {"name": name, "scheduleExpression": when, "target": target, **SPAN, "timeZone": time_zone}


def check_count(count: int) -> None:
    if not 0 <= count <= MAX_MIN_INSTANCES:
        raise InfraError(f"{count} min instances: must be 0 to {MAX_MIN_INSTANCES}")


def scale(
    fc: FunctionCompute,
    function: str,
    qualifier: str,
    *,
    count: int | None = None,
    add: Rule | None = None,
    remove: str | None = None,
) -> list[str]:
    """Writes the wanted provision config; returns what changed, one sentence each."""
    if qualifier.isdigit():
        raise InfraError(
            f"min instances cannot be put on version {qualifier}: name LATEST or an alias that points to it"
        )
    now = fc.get_provision(function, qualifier) or fc.models.ProvisionConfig()
    changes, least = list[str](), int(now.default_target or 0)
    actions, policies = now.scheduled_actions or [], now.target_tracking_policies or []
    if count is not None:
        check_count(count)
        changes.append(f"min instances of {function}@{qualifier}: {least} -> {count}")
        least = count
    if remove is not None:
        if remove not in (names := [action.name for action in actions]):
            raise InfraError(f"no schedule is called {remove!r}; there are: {', '.join(names) or 'none'}")
        changes.append(f"schedule {remove!r} removed")
    if add is not None:
        changes.append(f"schedule {add['name']!r}: {add['target']} from {add['scheduleExpression']} {add['timeZone']}")
    gone = {remove, add and add["name"]}
    actions = [action for action in actions if action.name not in gone]
    actions += [fc.models.ScheduledAction().from_map(add)] if add else []
    today = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    in_force = [one.name for one in [*actions, *policies] if (one.start_time or "") <= today < (one.end_time or "9999")]
    if count is not None and in_force:
        raise InfraError(
            f"{count} would not count while {', '.join(in_force)} is in force: change it with --schedule, end it with "
            "--unschedule, or raise a policy's minCapacity in s.yaml"
        )
    if now.always_allocate_cpu or now.always_allocate_gpu:
        changes.append("hibernation switched on; FC replaces the standing instances, so expect none for a while")
    fc.put_provision(function, qualifier, hibernating(fc, least, actions, policies))
    return changes


def undone_by_deploy(config: Any | None, qualifier: str, env: Mapping[str, str]) -> str:
    """What to export so that the next deployment keeps this config; empty where it would, or does not touch it."""
    if config is None or qualifier != env.get("DEPLOY_QUALIFIER", LIVE):
        return ""
    count, both = int(config.default_target or 0), (config.scheduled_actions, config.target_tracking_policies)
    rules = [[rule.to_map() for rule in some or []] for some in both]
    kept = [json.loads(env.get(name) or "[]") for name in ("DEPLOY_SCHEDULES", "DEPLOY_POLICIES")]
    if (env.get("DEPLOY_MIN_INSTANCES", "1"), kept) == (str(count), rules):
        return ""
    advice = "the next deployment undoes this; to keep it, there (in CI: as variables of the environment):"
    return f"{advice}\n{exports(count, *rules)}"


def exports(count: int, schedules: Sequence[Rule], policies: Sequence[Rule]) -> str:
    """What s.yaml takes from the environment for this minimum, as a line for a shell."""
    lists = [shlex.quote(json.dumps(rules, separators=(",", ":"))) for rules in (schedules, policies)]
    return f"export DEPLOY_MIN_INSTANCES={count} DEPLOY_SCHEDULES={lists[0]} DEPLOY_POLICIES={lists[1]}"


def hibernating(fc: FunctionCompute, count: int, actions: Sequence[Any] = (), policies: Sequence[Any] = ()) -> Any:
    """A whole provision config of `count` min instances, those of schedules and policies, that hibernates."""
    return fc.models.PutProvisionConfigInput(
        default_target=count,
        always_allocate_cpu=False,
        always_allocate_gpu=False,
        scheduled_actions=list(actions),
        target_tracking_policies=list(policies),
    )
