"""release: traffic moves to a new version only after that version has answered, and back if it then does not.

Two facts of the platform shape this (FC docs, versions and aliases):
- a version is LATEST frozen; it carries image and settings, but no min instances. Those exist on LATEST or on
  an alias only, so the alias that takes the traffic must have its own provision config;
- min instances follow their alias when it moves: FC makes new ones for the new version, each a cold start of
  minutes. A warm instance of another alias does not serve this one.

So a version is never tried out on the alias that serves, but on a candidate `<alias>-next` with one hibernating min
instance, which takes one more T4 of the account's quota for some minutes. In every case the candidate is removed; if
that fails the command fails, because a forgotten minimum instance is paid by the hour.

Not documented: whether FC keeps the old instances until the new ones stand (infra/README.md, Prove first). A release
that no HTTP trigger would show to callers is refused: it would only cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from infra.commands import options, smoke
from infra.commands.scale import hibernating
from infra.commands.screen import Report, progress
from infra.commands.wait_ready import wait_ready, waiting
from infra.errors import CheckFailed, InfraError
from infra.fc.client import LATEST, LIVE, FunctionCompute


def arguments(parser: argparse.ArgumentParser) -> None:
    options.account(parser, qualifier=True)
    waiting(parser)
    parser.add_argument("--version", help="an existing version instead of publishing LATEST (a way back)")
    parser.add_argument("--description", default="", help="of the published version, e.g. the image tag")


def run(args: argparse.Namespace) -> None:
    fc, function = options.connect(args), args.function
    try_out = partial(smoke.try_out, fc, function)
    require_trigger(fc, function, args.qualifier)
    with progress() as shown:
        wait = partial(wait_ready, fc, function, timeout_s=args.timeout, report=shown.report)
        version = Release(fc, function, args.qualifier, try_out, wait, shown.report).run(args.version, args.description)
        shown.done(f"{function}@{args.qualifier} is version {version}")


@dataclass
class Release:
    """One release of one function."""

    fc: FunctionCompute
    function: str
    alias: str
    smoke: Callable[[str], None]  # tries one qualifier; raises CheckFailed
    wait: Callable[[str], str]  # until one qualifier stands; raises CheckFailed or TimedOut
    report: Report = lambda line: None

    def run(self, version: str | None = None, description: str = "") -> str:
        """Returns the version that now has the traffic. Raises CheckFailed after putting things back."""
        before = self.fc.get_alias(self.function, self.alias)
        self.wait(LATEST if version is None else version)
        if version is None:
            version = self.fc.publish(self.function, description)
            self.report(f"published version {version}")
        if before is not None and before.version_id == version and not before.additional_version_weight:
            raise CheckFailed(f"{self.alias} already points to version {version}; nothing to release")
        candidate = f"{self.alias}-next"
        try:
            self.fc.point_alias(self.function, candidate, version, description="candidate, removed after release")
            self.fc.put_provision(self.function, candidate, hibernating(self.fc, 1))
            self.wait(candidate)
            self.smoke(candidate)
            self.report(f"version {version} answers; moving {self.alias}")
            self.move(before, version)
        finally:
            self.remove(candidate)
        return version

    def remove(self, alias: str) -> None:
        """The alias and its min instances; an alias that holds some cannot be deleted."""
        try:
            self.fc.delete_provision(self.function, alias)
            self.fc.delete_alias(self.function, alias)
        except InfraError as error:
            raise CheckFailed(
                f"{self.function}@{alias} could not be removed, its min instance goes on costing: {error}; "
                f"remove the alias in the console, or: python -m infra scale 0 --qualifier {alias}"
            ) from error

    def move(self, before: Any | None, version: str) -> None:
        """The alias to the version; `before` is what it was. Raises CheckFailed after putting it back."""
        fc, function, alias = self.fc, self.function, self.alias
        own = fc.get_provision(function, alias) if before is not None else None
        try:
            fc.point_alias(function, alias, version)
            if own is None:  # else every quiet hour would end with a cold start
                now = fc.get_provision(function, LATEST) or fc.models.ProvisionConfig()
                count = int(now.default_target or 1)
                config = hibernating(fc, count, now.scheduled_actions or [], now.target_tracking_policies or [])
                fc.put_provision(function, alias, config)
                self.report(f"{alias} had no min instances of its own: {count} requested")
            self.wait(alias)
            self.smoke(alias)
        except (InfraError, KeyboardInterrupt) as error:
            self.report(f"failed; putting {alias} back")
            if before is None:
                self.remove(alias)
            else:
                fc.point_alias(function, alias, before.version_id, weights=before.additional_version_weight)
                if own is None:
                    fc.delete_provision(function, alias)
            where = f"back to version {before.version_id}" if before else "removed again"
            why = str(error) or "interrupted"
            raise CheckFailed(f"version {version} failed on {alias}, {where}: {why}") from error


def require_trigger(fc: FunctionCompute, function: str, alias: str) -> None:
    """Raises CheckFailed unless callers reach the alias."""
    http = [trigger for trigger in fc.triggers(function) if trigger.trigger_type == "http"]
    if alias == LATEST or not any(trigger.qualifier == alias for trigger in http):
        where = ", ".join(sorted({trigger.qualifier or LATEST for trigger in http})) or "nothing"
        raise CheckFailed(
            f"no HTTP trigger points to an alias {alias} (they point to {where}), so callers would not see a release: "
            f"`make deploy` with DEPLOY_QUALIFIER={LIVE}, its default, makes the alias and moves the trigger"
        )
