"""Deletes the function with everything that hangs on it, and looks whether it is gone.

`s remove` is not used: fc3 0.1.22 reports success also where Function Compute has refused every call, and takes no min
instances away. The order is the reverse of a deployment's: what costs by the hour first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial

from infra.commands import options
from infra.commands.wait_ready import target_of
from infra.errors import CheckFailed, WrongUsage
from infra.fc.client import LATEST, FunctionCompute

LEFT = (
    "not deleted, and paid for as long as it is there: the SLS project with its logs, the images in the registry, "
    "a custom domain (infra/README.md, Stop paying)"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    options.account(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> None:
    fc = options.connect(args)
    if not fc.exists(args.function):
        print(f"there is no function {args.function} in {args.region}\n{LEFT}")
        return
    steps = list(plan(fc, args.function))
    print(f"will be deleted in {args.region}:")
    for what, _ in steps:
        print(f"  {what}")
    if not args.yes and not sys.stdin.isatty():
        raise WrongUsage("nobody is there to ask: add --yes")
    if not args.yes and input(f"type {args.function} to delete it: ").strip() != args.function:
        raise WrongUsage("another name was typed: nothing was deleted")
    for what, delete in steps:
        delete()
        print(f"deleted: {what}")
    if fc.exists(args.function):
        raise CheckFailed(f"{args.function} is still there after DeleteFunction: look into the console, it may cost")
    print(f"{args.function} is gone\n{LEFT}")


def plan(fc: FunctionCompute, function: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Everything there is, in the order it can be deleted: in words, and how."""
    aliases = [alias.alias_name for alias in fc.aliases(function)]
    for name in [*aliases, LATEST]:
        if (provision := fc.get_provision(function, name)) is not None:
            what = f"{target_of(provision)} min instance(s) of {name}"
            yield what, partial(fc.delete_provision, function, name)
    for name in [trigger.trigger_name for trigger in fc.triggers(function)]:
        yield f"trigger {name}", partial(fc.delete_trigger, function, name)
    for name in aliases:
        yield f"alias {name}", partial(fc.delete_alias, function, name)
    for name in fc.versions(function):
        yield f"version {name}", partial(fc.delete_version, function, name)
    yield f"function {function}", partial(fc.delete_function, function)
