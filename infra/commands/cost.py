"""What the function costs: a table from the published prices. Needs no account."""

from __future__ import annotations

import argparse

from infra.commands import options
from infra.commands.screen import console, table
from infra.errors import InfraError
from infra.fc import template
from infra.fc.prices import HOURS_PER_MONTH, Size, price


def arguments(parser: argparse.ArgumentParser) -> None:
    options.currency(parser)
    parser.add_argument("--hours-active", type=float, default=60, metavar="H", help="a month (%(default)s)")
    parser.add_argument("--requests", type=float, default=0, metavar="N", help="a month (%(default)s)")
    parser.add_argument("--tokens-per-second", type=float, metavar="R", help="measured, of all requests")


def run(args: argparse.Namespace) -> None:
    """A month of one instance, next to the two extremes it lies between."""
    size, active, currency = Size.of(template.render_any()), args.hours_active, args.currency
    asleep = max(0.0, HOURS_PER_MONTH - active)
    if not 0 <= active <= 31 * 24 or args.requests < 0:
        raise InfraError(f"{active:g} active hours and {args.requests:g} requests do not fit into a month")
    title = (
        f"one instance: {size.vcpu:g} vCPU, {size.memory_mb / 1024:g} GB, "
        f"{size.gpu_memory_mb / 1024:g} GB of T4, {size.disk_mb / 1024:g} GB disk"
    )
    month = f"month of {active:g} h active, {asleep:g} h hibernated, {args.requests:,.0f} requests"
    rows = [  # what, CU, digits of the price
        ("an hour active", size.cu(1, 0), 2),
        ("an hour hibernated", size.cu(0, 1), 2),
        ("10,000 requests", size.cu(0, 0, 10_000), 4),
        (f"month ({HOURS_PER_MONTH} h) always hibernated", size.cu(0, HOURS_PER_MONTH), 2),
        (month, size.cu(active, asleep, args.requests), 2),
        ("month never hibernated (alwaysAllocate true)", size.cu(HOURS_PER_MONTH, 0), 2),
    ]
    if (rate := args.tokens_per_second) is not None:
        if rate <= 0:
            raise InfraError("--tokens-per-second must be above 0: measure it with `smoke` or the bench")
        rows.append((f"1,000 tokens at {rate:g} tokens/s, busy", size.cu(1000 / rate / 3600, 0), 5))
    cells = ((what, f"{cu:,.0f}", f"{price(cu, currency):,.{digits}f}") for what, cu, digits in rows)
    shown = table(title, "what", ">CU", f">{currency}", rows=cells)
    shown.caption = "list prices of 2026-07-24, Alibaba Cloud FC billing pages; source in infra/fc/prices.py"
    console().print(shown)
