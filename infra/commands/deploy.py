"""deploy: s.yaml goes to LATEST, which nobody calls; what is called, the alias, is there before anything names it.

The first time, in this order: the function alone, without trigger and instance; version 1 of it; the alias on that
version; then all of s.yaml, whose trigger and min instance name the alias. Later: all of s.yaml, which changes LATEST
and leaves the alias on its version, until `release` moves it. A min instance that LATEST still has from before is taken
away: when it is quiet, one instance is paid for.
"""

from __future__ import annotations

import argparse
import os
from functools import partial

from infra.commands import options, smoke, wait_ready
from infra.commands.screen import progress
from infra.errors import CheckFailed
from infra.fc import keys, serverless_devs
from infra.fc.client import LATEST

ALL = ("deploy", "-y", "--skip-push")
#: fc3 creates the whole function then, image included; of one that exists it would leave the image as it is.
FUNCTION_ALONE = ("deploy", "--function", "config", "-y", "--skip-push")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.account(parser, qualifier=True)
    wait_ready.waiting(parser)


def run(args: argparse.Namespace) -> None:
    """Raises CheckFailed when `s` fails or the alias does not answer as it should."""
    keys.check_own()
    fc, name, alias = options.connect(args), args.function, args.qualifier
    with progress() as shown:
        wait, version = partial(wait_ready.wait_ready, fc, name, timeout_s=args.timeout, report=shown.report), LATEST
        if alias != LATEST:  # on a version of what LATEST is now, so that traffic stays where it is
            if not fc.exists(name):
                run_s(FUNCTION_ALONE)
            if not (version := getattr(fc.get_alias(name, alias), "version_id", "")):
                wait(LATEST)
                version = fc.publish(name, "what the alias began with")
                fc.point_alias(name, alias, version)
        run_s(ALL)
        if alias != LATEST:
            fc.delete_provision(name, LATEST)
        wait(LATEST)
        wait(alias)
        shown.done(f"{name} is deployed; {alias} is version {version}")
    smoke.try_out(fc, name, alias)


def run_s(words: tuple[str, ...]) -> None:
    status = serverless_devs.run(words, os.environ)
    if status != 0:
        raise CheckFailed(f"`s {' '.join(words)}` ended with {status}: its output is above")
