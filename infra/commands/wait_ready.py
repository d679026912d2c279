"""wait-ready: the deploy is not over before an instance stands.

`s deploy` reports success too early: fc3 0.1.22 waits 15 minutes for the minimum instances, then only warns,
and takes an absent `current` for "ready". Here each of these must hold, or the command fails:

1. function state Active (a new function is Pending while FC converts the image);
2. lastUpdateStatus Successful (until then the version before keeps serving);
3. provision config `current` >= `target` (an instance counts once /initialize has answered 200).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from infra.commands import options
from infra.commands.screen import Report, progress
from infra.errors import CheckFailed, TimedOut
from infra.fc.client import LATEST, FunctionCompute

POLL_S = 5.0  # as fc3 polls
# fc3 waits up to 40 min for the image and 15 min for the instances; both can follow one deploy.
TIMEOUT_S = 3300.0
# A failure seen this often in a row is final, as in fc3: FC tries conversion and placement again by itself.
PATIENCE = 3
# What fc3 0.1.22 waits out, however often it is seen: FC is still looking for a card, or tries again by itself.
PASSING = ("resources are being replenished", "an internal error has occurred")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.account(parser, qualifier=True)
    waiting(parser)


def waiting(parser: argparse.ArgumentParser) -> None:
    """What every command takes that waits."""
    options.number(parser, "--timeout", 0.0, 1e6, "give up after X s (%(default).0f)", TIMEOUT_S)


def run(args: argparse.Namespace) -> None:
    fc = options.connect(args)
    with progress() as shown:
        # A deployment changes LATEST, also where the traffic and the min instances are on an alias.
        for qualifier in dict.fromkeys([LATEST, args.qualifier]):
            shown.done(wait_ready(fc, args.function, qualifier, timeout_s=args.timeout, report=shown.report))


def wait_ready(
    fc: FunctionCompute,
    function: str,
    qualifier: str = LATEST,
    *,
    timeout_s: float = TIMEOUT_S,
    report: Report = lambda line: None,
) -> str:
    """What is ready, in words. Raises CheckFailed with FC's own reason, or TimedOut with the last thing seen."""
    deadline, failures, what = time.monotonic() + timeout_s, 0, f"{function}@{qualifier}"
    provision: Any = None
    while True:
        text, failed = look_at_function(fc.get_function(function, qualifier))
        if not text and not qualifier.isdigit():  # a version cannot hold min instances
            provision = fc.get_provision(function, qualifier)
            text, failed = look_at_instances(provision)
        if not text:
            if not target_of(provision):
                return f"{what} is ready; no min instances, so a first request waits for a cold start"
            return f"{what} is ready, min instances {provision.current} of {target_of(provision)}"
        failures = failures + 1 if failed else 0
        if failures >= PATIENCE:
            raise CheckFailed(f"{what}: {text}")
        report(text)
        if time.monotonic() + POLL_S > deadline:
            raise TimedOut(f"{what} is not ready after {timeout_s:.0f} s: {text}")
        time.sleep(POLL_S)


def look_at_function(found: Any) -> tuple[str, bool]:
    """(what is not right yet, whether it has failed); "" when ready."""
    match found.state, found.last_update_status:
        case "Failed", _:
            return f"function state Failed: {reason(found.state_reason_code, found.state_reason)}", True
        case "Inactive", _:
            return "function state Inactive (idle for weeks): invoke it once, FC then prepares it again", True
        case "Active", "Successful":
            return "", False
        case "Active", "Failed":
            why = reason(found.last_update_status_reason_code, found.last_update_status_reason)
            return f"last update Failed: {why}; the version before it still serves", True
        case "Active", update:
            return f"last update {update or 'unknown'}, waiting for Successful", False
        case state, _:
            return f"function state {state or 'unknown'}, waiting for Active", False


def look_at_instances(provision: Any) -> tuple[str, bool]:
    """The same of its min instances; None where there are none."""
    # Never `current or target`: an absent `current` means nothing stands.
    target, current = target_of(provision), (provision and provision.current) or 0
    if current >= target:
        return "", False
    text, error = f"min instances {current} of {target}", provision.current_error
    if not error:
        return text, False
    return f"{text}: {error}", not any(words in error.lower() for words in PASSING)


def target_of(provision: Any | None) -> int:
    """Instances wanted now. `target` includes schedules and policies, `defaultTarget` does not."""
    if provision is None:
        return 0
    return int(provision.default_target or 0 if provision.target is None else provision.target)


def reason(code: str | None, text: str | None) -> str:
    return ": ".join(part for part in (code, text) if part) or "no reason given"
