"""doctor: what is wrong with a deployment and can be seen before it: s.yaml, environment, RAM policies.

    python -m infra.doctor        # also runs by itself before every `s deploy` (the hook in s.yaml)

The rules for s.yaml are in `rules`; keys that nobody reads are found in `roundtrip`. An error is refused by
Function Compute, or works and is not what was meant; a warning is a choice worth a second look.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.errors import InfraError
from infra.finding import Finding, error
from infra.props import Props, get
from infra.rules import RULES
from infra.serverless_devs import REDIRECTING, ROOT
from infra.template import render

__all__ = ["Finding", "check", "check_policy", "check_ram", "get"]

RAM_DIR = ROOT / "infra" / "ram"


def surroundings(env: Mapping[str, str]) -> Iterator[Finding]:
    """What in the operator's own environment would make a deployment go wrong."""
    if REDIRECTING in env:
        yield error(
            REDIRECTING,
            "is set: the deployment would go there instead of Function Compute; unset it",
        )
    if env.get("SecurityToken") and env.get("AccessKeyID"):
        yield error(
            "SecurityToken",
            "is dropped by `s` beside AccessKeyID, and every call is refused: export ALIBABA_CLOUD_* and "
            "use `python -m infra.serverless_devs`",
        )


def check(rendered_props: Props, env: Mapping[str, str]) -> list[Finding]:
    """All that is wrong with props (`template.render`) deployed from environment `env`; errors first."""
    found = [finding for rule in RULES for finding in rule(rendered_props)]
    return sorted([*found, *surroundings(env)], key=lambda finding: (finding.level, finding.path))


def check_policy(name: str, document: Mapping[str, Any]) -> Iterator[Finding]:
    """A RAM policy that allows more than it says: wildcard actions, or every resource without a Condition."""
    for place, statement in enumerate(document.get("Statement", [])):
        path = f"{name}: Statement[{place}]"
        actions = statement.get("Action", [])
        for action in [actions] if isinstance(actions, str) else actions:
            if "*" in action:
                yield error(
                    f"{path}.Action",
                    f"{action} allows whatever the service adds next year: list the actions",
                )
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


def main() -> int:
    try:
        found = check(render(), os.environ) + check_ram()
    except InfraError as failure:
        print(f"doctor: {failure}", file=sys.stderr)
        return failure.exit_code
    for finding in found:
        print(finding)
    errors = sum(finding.level == "error" for finding in found)
    print(f"doctor: {errors} error(s), {len(found) - errors} warning(s)")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
