"""The RAM policies in infra/ram: none allows more than it says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra import ROOT
from infra.doctor.finding import Finding, error

RAM_DIR = ROOT / "infra" / "ram"


def check_policy(name: str, document: Mapping[str, Any]) -> Iterator[Finding]:
    """Findings for wildcard actions, and for every resource without a Condition."""
    for place, statement in enumerate(document.get("Statement", [])):
        path = f"{name}: Statement[{place}]"
        actions = statement.get("Action", [])
        for action in [actions] if isinstance(actions, str) else actions:
            if "*" in action:
                yield error(f"{path}.Action", f"{action} allows whatever the service adds next year: list the actions")
        resources = statement.get("Resource", [])
        resources = [resources] if isinstance(resources, str) else resources
        if "*" in resources and not statement.get("Condition"):
            yield error(
                f"{path}.Resource",
                "is every resource of the account: name them, or bound the statement with a Condition",
            )


def check_ram(folder: Path = RAM_DIR) -> list[Finding]:
    return [
        finding
        for file in sorted(folder.glob("*.json"))
        for finding in check_policy(file.name, json.loads(file.read_text(encoding="utf-8")))
    ]
