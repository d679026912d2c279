"""status: one readable screen of what runs, since when, what went wrong last, and what it has cost.

Everything is read, nothing is written. FC does not show how long an instance was awake, so the price of this
month is a span: from "always hibernated" to "always active" over the hours its instances have lived.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from infra.commands import options
from infra.commands.screen import console, table
from infra.commands.wait_ready import look_at_function, look_at_instances, target_of
from infra.fc.client import LATEST, FunctionCompute
from infra.fc.prices import Size, price


def arguments(parser: argparse.ArgumentParser) -> None:
    options.account(parser)
    options.currency(parser)


def run(args: argparse.Namespace) -> None:
    screen, snapshot = console(), collect(options.connect(args), args.function)
    for part in (about(snapshot), qualifier_table(snapshot), instance_table(snapshot), problems(snapshot)):
        screen.print(part, highlight=False)
    screen.print(price_line(snapshot, args.currency), highlight=False)


@dataclass(frozen=True)
class Qualifier:
    """LATEST or an alias: the two that can hold min instances."""

    name: str
    version: str
    provision: Any | None
    instances: list[Any]


@dataclass(frozen=True)
class Snapshot:
    function: Any
    triggers: list[Any]
    qualifiers: list[Qualifier]
    month: list[Any]  # every instance that lived since the month began
    now: datetime


def collect(fc: FunctionCompute, name: str) -> Snapshot:
    now = datetime.now(UTC)
    month_began = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    since = int(month_began.timestamp() * 1000)
    versions = {LATEST: "unpublished"} | {alias.alias_name: alias.version_id for alias in fc.aliases(name)}
    qualifiers, month = [], {}
    for qualifier, version in versions.items():
        standing = fc.instances(name, qualifier)
        for instance in [*fc.instances(name, qualifier, since), *standing]:
            month[instance.instance_id] = instance
        qualifiers.append(Qualifier(qualifier, version, fc.get_provision(name, qualifier), standing))
    return Snapshot(fc.get_function(name), fc.triggers(name), qualifiers, list(month.values()), now)


def instance_hours(instances: list[Any], now: datetime) -> float:
    """Hours lived this month, all instances together; an instance that stands has no end yet."""
    month_began = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000
    until_now = now.timestamp() * 1000
    lived = (
        (instance.destroyed_time_ms or until_now) - max(instance.created_time_ms or until_now, month_began)
        for instance in instances
    )
    return sum(max(0.0, span) for span in lived) / 3_600_000


def problems(snapshot: Snapshot) -> RenderableType:
    """What FC itself reports as wrong, worst first, in its own words."""
    function = snapshot.function
    waiting, failure = look_at_function(function)
    found = [failure or waiting] if failure or function.state != "Active" else []
    restriction = function.invocation_restriction
    if restriction and restriction.disable:
        found.append(f"invocation is disabled: {restriction.reason or 'no reason given'}")
    for qualifier in snapshot.qualifiers:
        config = qualifier.provision
        waiting, failure = look_at_instances(config)
        if failure or (waiting and config and config.current_error):
            found.append(f"{qualifier.name}: {failure or waiting}")
        if config and (config.always_allocate_cpu or config.always_allocate_gpu) and target_of(config):
            found.append(f"{qualifier.name}: never hibernates, full price day and night; run `scale`")
    if not found:
        return "[green]no errors reported[/]\n"
    lines = "\n".join(f"- {escape(problem)}" for problem in found)
    return Panel(lines, title="errors", title_align="left", border_style="red")


def about(snapshot: Snapshot) -> RenderableType:
    function = snapshot.function
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    good = function.state == "Active" and function.last_update_status == "Successful"
    colour = "green" if good else "yellow" if function.state in ("Active", "Pending") else "red"
    state = escape(f"{function.state}, last update {function.last_update_status}")
    grid.add_row("state", f"[{colour}]{state}[/]")
    container = function.custom_container_config
    grid.add_row("image", escape(container.image if container else "none"))
    gpu = function.gpu_config
    card = f", {gpu.gpu_type} {gpu.gpu_memory_size / 1024:.0f} GB" if gpu else ""
    grid.add_row("size", f"{function.cpu:g} vCPU, {function.memory_size / 1024:g} GB{card}")
    grid.add_row("limits", f"{function.instance_concurrency} requests an instance, {function.timeout} s a request")
    grid.add_row("changed", escape(function.last_modified_time or "unknown"))
    for trigger in snapshot.triggers:
        if trigger.trigger_type == "http" and trigger.http_trigger:
            auth = json.loads(trigger.trigger_config or "{}").get("authType", "function")
            where = f"{trigger.http_trigger.url_internet}  ({auth}, @{trigger.qualifier or LATEST})"
            grid.add_row("trigger", escape(where))
    return Panel(grid, title=f"[bold]{escape(function.function_name)}[/]", title_align="left")


def qualifier_table(snapshot: Snapshot) -> Table:
    shown = table("min instances", "qualifier", "version", ">standing", ">wanted", "hibernates", "schedule")
    for qualifier in snapshot.qualifiers:
        config = qualifier.provision
        if config is None:
            shown.add_row(escape(qualifier.name), qualifier.version, "-", "0", "-", "-")
            continue
        current, target = config.current or 0, target_of(config)
        standing = f"[green]{current}[/]" if current >= target else f"[yellow]{current}[/]"
        sleeps = not (config.always_allocate_cpu or config.always_allocate_gpu)
        plan = ", ".join(
            f"{action.name}: {action.target} at {action.schedule_expression} {action.time_zone or 'UTC'}"
            for action in config.scheduled_actions or []
        )
        shown.add_row(
            escape(qualifier.name),
            qualifier.version,
            standing,
            str(target),
            "yes" if sleeps else "[red]no[/]",
            escape(plan or "-"),
        )
    return shown


def instance_table(snapshot: Snapshot) -> RenderableType:
    shown = table("instances", "instance", "on", "version", "state", "kind", ">age")
    for qualifier in snapshot.qualifiers:
        for instance in qualifier.instances:
            shown.add_row(
                escape(instance.instance_id or "?"),
                escape(qualifier.name),
                str(instance.version_id or "?"),
                escape(instance.status or "?"),
                escape(instance.resource_type or "?"),
                age(instance.created_time_ms, snapshot.now),
            )
    return shown if shown.row_count else "[dim]no instance stands; the next request starts one[/]\n"


def age(created_ms: int | None, now: datetime) -> str:
    if not created_ms:
        return "?"
    minutes = int(now.timestamp() - created_ms / 1000) // 60
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def price_line(snapshot: Snapshot, currency: str) -> str:
    size, hours = Size.of(snapshot.function.to_map()), instance_hours(snapshot.month, snapshot.now)
    least, most = price(size.cu(0, hours), currency), price(size.cu(hours, 0), currency)
    kept = {one.name: count for one in snapshot.qualifiers if (count := target_of(one.provision))}
    paid = ", ".join(f"{count} of {name}" for name, count in kept.items())
    return (
        f"paid for by the hour, asleep or not: {escape(paid) or 'nothing'}"
        f"{' (`scale 0`, or `destroy`, ends it)' if paid else ''}\n"
        f"this month so far: {hours:.1f} instance hours, between [bold]{least:.2f}[/] (all hibernated) "
        f"and [bold]{most:.2f} {currency}[/] (all active), requests, logs and traffic apart\n"
    )
