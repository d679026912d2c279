"""Any command of Serverless Devs, with the pinned `s`: `python -m infra s deploy -y --skip-push`."""

from __future__ import annotations

import argparse
import os

from infra.fc import serverless_devs


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.prefix_chars = "\0"  # what begins with - is for `s`, -h included
    parser.add_argument("words", nargs=argparse.REMAINDER)


def run(args: argparse.Namespace) -> int:
    return serverless_devs.run(args.words, os.environ)
