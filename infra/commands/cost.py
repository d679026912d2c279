"""What the function costs: a table from the published prices. Needs no account."""

from __future__ import annotations

import argparse
import dataclasses

from rich import box
from rich.table import Table

from infra.commands import options
from infra.commands.screen import console
from infra.errors import InfraError
from infra.fc import template
from infra.fc.prices import HOURS_PER_MONTH, Size, per_1000_tokens, price

SIZES = {"vcpu": "", "memory_mb": " MB", "gpu_memory_mb": " MB", "disk_mb": " MB"}


def arguments(parser: argparse.ArgumentParser) -> None:
    options.currency(parser)
    parser.add_argument("--hours-active", type=float, default=60, metavar="H", help="a month (%(default)s)")
    parser.add_argument("--hours-hibernated", type=float, metavar="H", help="a month (default: the rest)")
    parser.add_argument("--requests", type=float, default=0, metavar="N", help="a month (%(default)s)")
    parser.add_argument("--tokens-per-second", type=float, metavar="R", help="measured, of all requests")
    for field, unit in SIZES.items():
        name = field.removesuffix("_mb").replace("_", "-")
        parser.add_argument(f"--{name}", dest=field, type=float, metavar="N", help=f"{name}{unit} (default: s.yaml)")


def run(args: argparse.Namespace) -> None:
    given = {field: value for field in SIZES if (value := getattr(args, field)) is not None}
    if given.keys() == SIZES.keys():
        size = Size(**given)
    else:
        size = dataclasses.replace(Size.of(template.render_any()), **given)
    console().print(table(size, args))


def table(size: Size, args: argparse.Namespace) -> Table:
    """A month of one instance, next to the two extremes it lies between."""
    hours_active, requests, currency = args.hours_active, args.requests, args.currency
    others = max(0.0, HOURS_PER_MONTH - hours_active)
    asleep = others if args.hours_hibernated is None else args.hours_hibernated
    if min(hours_active, asleep, requests) < 0 or hours_active + asleep > 31 * 24:
        raise InfraError(f"{hours_active:g} active and {asleep:g} hibernated hours do not fit into a month")
    shown = Table(
        title=f"one instance: {size.vcpu:g} vCPU, {size.memory_mb / 1024:g} GB, "
        f"{size.gpu_memory_mb / 1024:g} GB of T4, {size.disk_mb / 1024:g} GB disk",
        caption="list prices of 2026-07-24, Alibaba Cloud FC billing pages; source in infra/fc/prices.py",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    shown.add_column("what")
    shown.add_column("CU", justify="right")
    shown.add_column(currency, justify="right")

    def row(what: str, cu: float, digits: int = 2) -> None:
        shown.add_row(what, f"{cu:,.0f}", f"{price(cu, currency):,.{digits}f}")

    row("an hour active", size.cu(1, 0))
    row("an hour hibernated", size.cu(0, 1))
    row("10,000 requests", size.cu(0, 0, 10_000), 4)
    shown.add_section()
    row(f"month ({HOURS_PER_MONTH} h) always hibernated", size.cu(0, HOURS_PER_MONTH))
    row(
        f"month of {hours_active:g} h active, {asleep:g} h hibernated, {requests:,.0f} requests",
        size.cu(hours_active, asleep, requests),
    )
    row("month never hibernated (alwaysAllocate true)", size.cu(HOURS_PER_MONTH, 0))
    if args.tokens_per_second is not None:
        rate = args.tokens_per_second
        shown.add_section()
        each = per_1000_tokens(size, rate, currency)
        cu = 1000 / rate * size.cu_per_second("active")
        shown.add_row(f"1,000 tokens at {rate:g} tokens/s, busy", f"{cu:,.0f}", f"{each:.5f}")
    return shown
