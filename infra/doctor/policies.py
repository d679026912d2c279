"""The RAM policies in infra/ram: none allows more than it says, the deployer's what a deployment asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from infra import ROOT
from infra.doctor.finding import Finding, error
from infra.doctor.permissions import CONDITION_KEYS, DEPLOYER, PLACEHOLDERS, UNBOUND

RAM_DIR = ROOT / "infra" / "ram"


def as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def check_policy(name: str, document: Mapping[str, Any]) -> Iterator[Finding]:
    """Findings for wildcard actions, resources without a bound, and names that RAM would not know."""
    for place, statement in enumerate(document.get("Statement", [])):
        path = f"{name}: Statement[{place}]"
        actions = as_list(statement.get("Action"))
        for action in actions:
            if "*" in action:
                yield error(f"{path}.Action", f"{action} allows whatever the service adds next year: list the actions")
        if "*" in as_list(statement.get("Resource")) and not statement.get("Condition") and set(actions) - UNBOUND:
            yield error(
                f"{path}.Resource",
                "is every resource of the account: name them, or bound the statement with a Condition",
            )
        for keys in statement.get("Condition", {}).values():
            for key in keys.keys() - CONDITION_KEYS:
                yield error(f"{path}.Condition", f"{key} is no condition key that RAM documents: it never holds")
    for word in sorted(set(re.findall(r"\b[A-Z][A-Z_]{4,}\b", json.dumps(document))) - PLACEHOLDERS):
        yield error(name, f"{word} is nothing to fill in: {', '.join(sorted(PLACEHOLDERS))} are")


def allowed(document: Mapping[str, Any], action: str, resource: str) -> bool:
    return any(
        action in as_list(statement.get("Action"))
        and any(fnmatchcase(resource, pattern) for pattern in as_list(statement.get("Resource")))
        for statement in document.get("Statement", [])
    )


def check_deployer(name: str, document: Mapping[str, Any]) -> Iterator[Finding]:
    """What a deployment asks for and would be refused, and what nobody asks for."""
    for action, resources in DEPLOYER.items():
        for resource in resources:
            if not allowed(document, action, resource):
                yield error(name, f"does not allow {action} on {resource}: a deployment would be refused")
    listed = {action for statement in document.get("Statement", []) for action in as_list(statement.get("Action"))}
    for action in sorted(listed - DEPLOYER.keys()):
        yield error(name, f"allows {action}, which no step of a deployment asks for: take it away")


def check_ram(folder: Path = RAM_DIR) -> list[Finding]:
    found: list[Finding] = []
    for file in sorted(folder.glob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        found += check_policy(file.name, document)
        if file.name == "deployer.json":
            found += check_deployer(file.name, document)
    return found
