"""status: one readable screen of what runs, since when, what went wrong last, and what is paid for.

Everything is read, nothing is written. What it has cost is in the service's own log: `report`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from infra.commands import options
from infra.commands.screen import console, table
from infra.commands.wait_ready import look_at_function, look_at_instances, target_of
from infra.fc.client import LATEST


def arguments(parser: argparse.ArgumentParser) -> None:
    options.account(parser)


def run(args: argparse.Namespace) -> None:
    fc, name, screen = options.connect(args), args.function, console()
    function = fc.get_function(name)
    versions = {LATEST: "unpublished"} | {alias.alias_name: alias.version_id for alias in fc.aliases(name)}
    qualifiers = [
        Qualifier(one, version, fc.get_provision(name, one), fc.instances(name, one))
        for one, version in versions.items()
    ]
    for part in (
        about(function, fc.triggers(name)),
        min_instances(qualifiers),
        instances(qualifiers, datetime.now(UTC)),
        problems(function, qualifiers),
        paid_for(qualifiers),
    ):
        screen.print(part, highlight=False)


@dataclass(frozen=True)
class Qualifier:
    """LATEST or an alias: the two that can hold min instances."""

    name: str
    version: str
    provision: Any | None
    standing: list[Any]


def problems(function: Any, qualifiers: list[Qualifier]) -> RenderableType:
    """What FC itself reports as wrong, worst first, in its own words."""
    text, failed = look_at_function(function)
    found = [text] if failed or function.state != "Active" else []
    restriction = function.invocation_restriction
    if restriction and restriction.disable:
        found.append(f"invocation is disabled: {restriction.reason or 'no reason given'}")
    for qualifier in qualifiers:
        config = qualifier.provision
        text, _ = look_at_instances(config)
        if text and config and config.current_error:
            found.append(f"{qualifier.name}: {text}")
        if config and not hibernates(config) and target_of(config):
            found.append(f"{qualifier.name}: never hibernates, full price day and night; run `scale`")
    if not found:
        return "[green]no errors reported[/]\n"
    return table("", "[red]errors[/]", rows=([escape(problem)] for problem in found))


def hibernates(config: Any) -> bool:
    return not (config.always_allocate_cpu or config.always_allocate_gpu)


def about(function: Any, triggers: list[Any]) -> Table:
    good, passing = not look_at_function(function)[0], function.state in ("Active", "Pending")
    colour = "green" if good else "yellow" if passing else "red"
    state = escape(f"{function.state}, last update {function.last_update_status}")
    container, gpu = function.custom_container_config, function.gpu_config
    card = f", {gpu.gpu_type} {gpu.gpu_memory_size / 1024:.0f} GB" if gpu else ""
    rows = [
        ("state", f"[{colour}]{state}[/]"),
        ("image", escape(container.image if container else "none")),
        ("size", f"{function.cpu:g} vCPU, {function.memory_size / 1024:g} GB{card}"),
        ("limits", f"{function.instance_concurrency} requests an instance, {function.timeout} s a request"),
        ("changed", escape(function.last_modified_time or "unknown")),
    ]
    for trigger in triggers:
        if trigger.trigger_type == "http" and trigger.http_trigger:
            auth = json.loads(trigger.trigger_config or "{}").get("authType", "function")
            where = f"{trigger.http_trigger.url_internet}  ({auth}, @{trigger.qualifier or LATEST})"
            rows.append(("trigger", escape(where)))
    return table("", "function", escape(function.function_name), rows=rows)


def min_instances(qualifiers: list[Qualifier]) -> Table:
    shown = table("min instances", "qualifier", "version", ">standing", ">wanted", "hibernates", "schedule")
    for one in qualifiers:
        cells, config = ["-", "0", "-", "-"], one.provision
        if config is not None:
            current, target = config.current or 0, target_of(config)
            plan = ", ".join(
                f"{action.name}: {action.target} at {action.schedule_expression} {action.time_zone or 'UTC'}"
                for action in config.scheduled_actions or []
            )
            standing = f"[{'green' if current >= target else 'yellow'}]{current}[/]"
            cells = [standing, str(target), "yes" if hibernates(config) else "[red]no[/]", escape(plan or "-")]
        shown.add_row(escape(one.name), one.version, *cells)
    return shown


def instances(qualifiers: list[Qualifier], now: datetime) -> RenderableType:
    shown = table("instances", "instance", "on", "version", "state", "kind", ">age")
    for qualifier in qualifiers:
        for one in qualifier.standing:
            age = one.created_time_ms and timedelta(seconds=int(now.timestamp() - one.created_time_ms / 1000))
            cells = (one.instance_id, qualifier.name, one.version_id, one.status, one.resource_type, age)
            shown.add_row(*(escape(str("?" if cell is None else cell)) for cell in cells))
    return shown if shown.row_count else "[dim]no instance stands; the next request starts one[/]\n"


def paid_for(qualifiers: list[Qualifier]) -> str:
    paid = ", ".join(f"{count} of {one.name}" for one in qualifiers if (count := target_of(one.provision)))
    ends = " (`scale 0`, or `destroy`, ends it)" if paid else ""
    return f"paid for by the hour, asleep or not: {escape(paid) or 'nothing'}{ends}\n"
