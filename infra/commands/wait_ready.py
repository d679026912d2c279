"""wait-ready: the deploy is not over before an instance stands.

`s deploy` reports success too early: fc3 0.1.22 waits 15 minutes for the minimum instances, then only warns,
and takes an absent `current` for "ready". Here each of these must hold, or the command fails:

1. function state Active (a new function is Pending while FC converts the image);
2. lastUpdateStatus Successful (until then the version before keeps serving);
3. provision config `current` >= `target` (an instance counts once /initialize has answered 200).

Failures are given three polls to pass: FC retries image conversion and placement by itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from infra.commands import options
from infra.commands.screen import progress
from infra.errors import CheckFailed, TimedOut
from infra.fc.client import LATEST, FunctionCompute

POLL_S = 5.0  # as fc3 polls
# fc3 waits up to 40 min for the image and 15 min for the instances; both can follow one deploy.
TIMEOUT_S = 3300.0
PATIENCE = 3  # the same failure seen this often in a row is final, as in fc3
# What fc3 0.1.22 waits out, however often it is seen: FC is still looking for a card, or tries again by itself.
PASSING = ("resources are being replenished", "an internal error has occurred")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.account(parser, qualifier=True)
    waiting(parser)
    parser.add_argument("--at-least", type=int, default=0, metavar="N", help="fail if fewer are asked for")


def waiting(parser: argparse.ArgumentParser) -> None:
    """What every command takes that waits."""
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="S", help="give up after (%(default).0f s)")
    parser.add_argument("--poll", type=float, default=POLL_S, metavar="S", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    fc = options.connect(args)
    # A deployment changes LATEST, also where the traffic and the min instances are on an alias.
    others = [] if args.qualifier == LATEST else [(LATEST, 0)]
    with progress() as shown:
        for qualifier, at_least in [*others, (args.qualifier, args.at_least)]:
            ready = wait_ready(
                fc, args.function, qualifier, at_least=at_least, timeout_s=args.timeout, poll_s=args.poll, say=shown.say
            )
            shown.done(ready)


def wait_ready(
    fc: FunctionCompute,
    function: str,
    qualifier: str = LATEST,
    *,
    at_least: int = 0,
    timeout_s: float = TIMEOUT_S,
    poll_s: float = POLL_S,
    say: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Returns what is ready, in words. `at_least`: fewer min instances asked for than this is a failure.

    Raises CheckFailed with FC's own reason, or TimedOut with the last thing seen.
    """
    deadline = clock() + timeout_s
    failures: list[str] = []
    while True:
        waiting_for, failure = look(fc, function, qualifier, at_least)
        if not waiting_for and not failure:
            return ready_text(fc, function, qualifier)
        failures = [*failures, failure] if failure else []
        if len(failures) >= PATIENCE:
            raise CheckFailed(f"{function}@{qualifier}: {failure}")
        say(failure or waiting_for)
        if clock() + poll_s > deadline:
            raise TimedOut(f"{function}@{qualifier} is not ready after {timeout_s:.0f} s: {failure or waiting_for}")
        sleep(poll_s)


def look(fc: FunctionCompute, function: str, qualifier: str, at_least: int) -> tuple[str, str]:
    """(what is still awaited, what has failed); both empty when ready."""
    found = fc.get_function(function, qualifier)
    if found.state == "Failed":
        return "", f"function state Failed: {reason(found.state_reason_code, found.state_reason)}"
    if found.state == "Inactive":
        return "", "function state Inactive (idle for weeks): invoke it once, FC then prepares it again"
    if found.state != "Active":
        return f"function state {found.state or 'unknown'}, waiting for Active", ""
    if found.last_update_status == "Failed":
        why = reason(found.last_update_status_reason_code, found.last_update_status_reason)
        return "", f"last update Failed: {why}; the version before it still serves"
    if found.last_update_status != "Successful":
        return f"last update {found.last_update_status or 'unknown'}, waiting for Successful", ""
    # A version cannot hold min instances, so there is nothing to ask about.
    provision = None if qualifier.isdigit() else fc.get_provision(function, qualifier)
    return look_at_instances(provision, at_least)


def look_at_instances(provision: Any | None, at_least: int) -> tuple[str, str]:
    target = target_of(provision)
    if target < at_least:
        return "", f"{target} min instances are asked for, {at_least} expected: see provisionConfig in s.yaml"
    if provision is None or not target:
        return "", ""
    # Never `current or target`: an absent `current` means nothing stands.
    current = provision.current or 0
    if current >= target:
        return "", ""
    if provision.current_error and not any(words in provision.current_error.lower() for words in PASSING):
        return "", f"min instances {current} of {target}: {provision.current_error}"
    return f"min instances {current} of {target}" + (
        f": {provision.current_error}" if provision.current_error else ""
    ), ""


def target_of(provision: Any | None) -> int:
    """Instances wanted now. `target` includes schedules and policies, `defaultTarget` does not."""
    if provision is None:
        return 0
    return int(provision.default_target or 0) if provision.target is None else int(provision.target)


def reason(code: str | None, text: str | None) -> str:
    return ": ".join(part for part in (code, text) if part) or "no reason given"


def ready_text(fc: FunctionCompute, function: str, qualifier: str) -> str:
    provision = None if qualifier.isdigit() else fc.get_provision(function, qualifier)
    target = target_of(provision)
    if provision is None or not target:
        return f"{function}@{qualifier} is ready; no min instances, so a first request waits for a cold start"
    return f"{function}@{qualifier} is ready, min instances {provision.current} of {target}"
