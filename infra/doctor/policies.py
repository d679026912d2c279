"""The RAM policies in infra/ram: none allows more than it says, the deployer's what a deployment asks for.

Resources are those of page 06/19 (custom policies) of github.com/aliyun-fc/fc-docs at 37ecbc6. Who asks: fc3 0.1.22, as
seen on the wire of a first deploy and of a redeploy against a mock of the API; `infra` is infra/fc/client.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from infra import ROOT
from infra.doctor import Finding, error

RAM_DIR = ROOT / "infra" / "ram"
FUNCTION = "acs:fc:REGION:ACCOUNT_ID:functions/FUNCTION"
ITSELF = (FUNCTION,)
QUALIFIED = (FUNCTION, f"{FUNCTION}/LATEST", f"{FUNCTION}/live")
ALIASES = (f"{FUNCTION}/aliases/live", f"{FUNCTION}/aliases/*")
TRIGGERS = (f"{FUNCTION}/triggers/http",)
DOMAINS = ("acs:fc:REGION:ACCOUNT_ID:custom-domains/DOMAIN",)
EVERYTHING = ("*",)

#: Resources, and the actions of Function Compute that they are asked for with.
_CALLS: tuple[tuple[tuple[str, ...], str], ...] = (
    # fc3 deploy
    (QUALIFIED, "GetFunction GetProvisionConfig PutProvisionConfig GetFunctionAsyncInvokeConfig"),
    (ITSELF, "CreateFunction UpdateFunction"),
    (TRIGGERS, "GetTrigger CreateTrigger UpdateTrigger"),
    (EVERYTHING, "GetScalingConfig"),  # the one that page 06/19 does not have
    # With the autoscaling block of s.yaml, and when it is taken away again.
    (ITSELF, "GetConcurrencyConfig PutConcurrencyConfig DeleteConcurrencyConfig"),
    ((f"{FUNCTION}/vpc-bindings/*",), "ListVpcBindings"),
    # infra: smoke, status, scale, release
    (QUALIFIED, "InvokeFunction DeleteProvisionConfig"),
    ((f"{FUNCTION}/instances/*",), "ListInstances"),
    ((f"{FUNCTION}/triggers/*",), "ListTriggers"),
    ((f"{FUNCTION}/versions",), "PublishFunctionVersion"),
    (ALIASES, "ListAliases GetAlias CreateAlias UpdateAlias DeleteAlias"),
    # infra: domain
    (DOMAINS, "GetCustomDomain CreateCustomDomain UpdateCustomDomain DeleteCustomDomain"),
    # infra: destroy
    ((f"{FUNCTION}/versions/*",), "ListFunctionVersions"),
    ((f"{FUNCTION}/versions/1",), "DeleteFunctionVersion"),
    (TRIGGERS, "DeleteTrigger"),
    (ITSELF, "DeleteFunction"),
)
#: Action -> the resources it is asked for with.
DEPLOYER = {f"fc:{action}": resources for resources, actions in _CALLS for action in actions.split()} | {
    # fc3 deploy without `role`: a full deploy ends, before CreateFunction, when it may not ask.
    # The action's name: Alibaba's own policy PowerUserAccess.
    "ram:CheckServiceLinkedRoleExistence": EVERYTHING,
    "ram:CreateServiceLinkedRole": EVERYTHING,  # on the account's first deploy
}

#: These cannot be bound to a resource, and they only read.
UNBOUND = {"fc:GetScalingConfig", "ram:CheckServiceLinkedRoleExistence"}

#: Condition keys that RAM's pages have, on PassRole, on CreateServiceLinkedRole, on roles for OIDC. A key that none has
#: is never true, or ignored.
CONDITION_KEYS = {"acs:Service", "ram:ServiceName", "oidc:iss", "oidc:aud", "oidc:sub"}

#: What the operator fills in; infra/README.md names each.
PLACEHOLDERS = frozenset(
    {"ACCOUNT_ID", "REGION", "FUNCTION", "FUNCTION_ROLE", "DOMAIN", "NAMESPACE", "OWNER", "PROJECT", "REPOSITORY"}
)


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
            bound = "name them, or bound the statement with a Condition"
            yield error(f"{path}.Resource", f"is every resource of the account: {bound}")
        for keys in statement.get("Condition", {}).values():
            for key in keys.keys() - CONDITION_KEYS:
                yield error(f"{path}.Condition", f"{key} is no condition key that RAM documents: it never holds")
    for word in sorted(set(re.findall(r"\b[A-Z][A-Z_]{4,}\b", json.dumps(document))) - PLACEHOLDERS):
        yield error(name, f"{word} is nothing to fill in: {', '.join(sorted(PLACEHOLDERS))} are")


def check_deployer(name: str, document: Mapping[str, Any]) -> Iterator[Finding]:
    """What a deployment asks for and would be refused, and what nobody asks for."""
    granted = [
        (action, pattern)
        for statement in document.get("Statement", [])
        for action in as_list(statement.get("Action"))
        for pattern in as_list(statement.get("Resource"))
    ]
    for action, resources in DEPLOYER.items():
        for resource in resources:
            if not any(action == allowed and fnmatchcase(resource, pattern) for allowed, pattern in granted):
                yield error(name, f"does not allow {action} on {resource}: a deployment would be refused")
    for action in sorted({action for action, _ in granted} - DEPLOYER.keys()):
        yield error(name, f"allows {action}, which no step of a deployment asks for: take it away")


def check_ram(folder: Path = RAM_DIR) -> list[Finding]:
    found: list[Finding] = []
    for file in sorted(folder.glob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        found += check_policy(file.name, document)
        if file.name == "deployer.json":
            found += check_deployer(file.name, document)
    return found
