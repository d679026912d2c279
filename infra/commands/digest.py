"""digest: of an API key, what a deployment is told: its SHA-256.

Keys come from a pipe or a prompt that shows nothing, never from the command line, which every user of the machine can
read and the shell remembers.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from getpass import getpass

from infra.errors import WrongUsage
from infra.fc import keys


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--new", action="store_true", help="make a key; prints it and its digest, for a shell's `eval`")


def run(args: argparse.Namespace) -> None:
    if args.new:
        key = secrets.token_hex(24)
        print(f"export {keys.OWN}={key}\nexport {keys.KEYS}={keys.digest(key)}")
        return
    if sys.stdin.isatty():
        given = list(iter(lambda: getpass("key (none: done): ").strip(), ""))
    else:
        given = sys.stdin.read().splitlines()
    found = keys.digests(",".join(given))
    if not found:
        raise WrongUsage("no key was given: one a line")
    print(found)
