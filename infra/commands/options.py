"""Arguments that several commands take, and what they become."""

from __future__ import annotations

import argparse
import os
from typing import Any

from infra.fc.client import LIVE, FunctionCompute
from infra.fc.prices import PRICES

EVER = ("0001-01-01", "9999-12-31")  # what `span` takes in when nothing is said


def number(parser: argparse.ArgumentParser, name: str, low: float, high: float, help: str, default: Any = None) -> None:
    """An option with a number from `low` to `high`, so neither NaN nor infinite, whole where `low` is."""

    def number(text: str) -> Any:
        if not low <= (value := type(low)(text)) <= high:
            raise argparse.ArgumentTypeError(f"{text} is not {low:g} to {high:,g}")
        return value

    parser.add_argument(name, type=number, default=default, metavar="N" if isinstance(low, int) else "X", help=help)


def region(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--region", default=os.environ.get("DEPLOY_REGION", "cn-hangzhou"))


def account(parser: argparse.ArgumentParser, *, qualifier: bool = False) -> None:
    parser.add_argument("--function", default=os.environ.get("DEPLOY_FUNCTION", "chatbot-llm"))
    region(parser)
    parser.add_argument("--endpoint", help="host of the control plane (default: fcv3.REGION.aliyuncs.com)")
    if qualifier:
        default = os.environ.get("DEPLOY_QUALIFIER", LIVE)
        parser.add_argument("--qualifier", default=default, help="LATEST, alias or version (%(default)s)")


def currency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--currency", choices=sorted(PRICES), default="CNY")


def span(parser: argparse.ArgumentParser) -> None:
    """The part of a request log that is read."""
    parser.add_argument("--since", default=EVER[0], metavar="T", help="from then on, UTC, e.g. 2027-01-31T08:00")
    parser.add_argument("--until", default=EVER[1], metavar="T", help="before that")


def connect(args: argparse.Namespace) -> FunctionCompute:
    return FunctionCompute(args.region, args.endpoint)
