"""The tables that commands print; what is in them is computed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from infra.cost import HOURS_PER_MONTH, Size, per_1000_tokens, price
from infra.errors import InfraError
from infra.finding import Finding
from infra.smoke import Result


def smoke_table(results: Sequence[Result]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("check", "", "s", "TTFT s", "tokens/s", "answer or reason"):
        table.add_column(
            heading, justify="right" if heading in ("s", "TTFT s", "tokens/s") else "left", overflow="fold"
        )
    for result in results:
        answer = result.answer
        table.add_row(
            escape(result.name),
            "[green]ok[/]" if result.ok else "[bold red]FAILED[/]",
            number(answer.seconds if answer else None),
            number(answer.ttft_s if answer else None),
            number(answer.tokens_per_s if answer else None, 1),
            escape(result.detail),
        )
    return table


def number(value: float | None, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if value else "-"


def findings_table(findings: Sequence[Finding]) -> Table | str:
    if not findings:
        return "[green]nothing found[/]"
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "key", "what and what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        colour = "red" if finding.level == "error" else "yellow"
        table.add_row(f"[{colour}]{escape(finding.level)}[/]", escape(finding.path), escape(finding.sentence))
    return table


def cost_table(
    size: Size,
    hours_active: float,
    hours_hibernated: float | None,
    requests: float,
    tokens_per_second: float | None,
    currency: str,
) -> Table:
    """A month of one instance, next to the two extremes it lies between."""
    others = max(0.0, HOURS_PER_MONTH - hours_active)
    asleep = others if hours_hibernated is None else hours_hibernated
    if min(hours_active, asleep, requests) < 0 or hours_active + asleep > 31 * 24:
        raise InfraError(f"{hours_active:g} active and {asleep:g} hibernated hours do not fit into a month")
    table = Table(
        title=f"one instance: {size.vcpu:g} vCPU, {size.memory_mb / 1024:g} GB, "
        f"{size.gpu_memory_mb / 1024:g} GB of T4, {size.disk_mb / 1024:g} GB disk",
        caption="list prices of 2026-07-24, Alibaba Cloud FC billing pages; source in infra/cost.py",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("what")
    table.add_column("CU", justify="right")
    table.add_column(currency, justify="right")

    def row(what: str, cu: float, digits: int = 2) -> None:
        table.add_row(what, f"{cu:,.0f}", f"{price(cu, currency):,.{digits}f}")

    row("an hour active", size.cu(1, 0))
    row("an hour hibernated", size.cu(0, 1))
    row("10,000 requests", size.cu(0, 0, 10_000), 4)
    table.add_section()
    row(f"month ({HOURS_PER_MONTH} h) always hibernated", size.cu(0, HOURS_PER_MONTH))
    row(
        f"month of {hours_active:g} h active, {asleep:g} h hibernated, {requests:,.0f} requests",
        size.cu(hours_active, asleep, requests),
    )
    row("month never hibernated (alwaysAllocate true)", size.cu(HOURS_PER_MONTH, 0))
    if tokens_per_second is not None:
        table.add_section()
        each = per_1000_tokens(size, tokens_per_second, currency)
        cu = 1000 / tokens_per_second * size.cu_per_second("active")
        table.add_row(f"1,000 tokens at {tokens_per_second:g} tokens/s, busy", f"{cu:,.0f}", f"{each:.5f}")
    return table
