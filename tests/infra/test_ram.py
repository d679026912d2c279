"""The RAM policies in infra/ram: none allows more than it says, the deployer's what a deployment asks for.

They are templates, so it is the project that answers for them, not the doctor of who has filled them in. Resources are
those of page 06/19 (custom policies) of github.com/aliyun-fc/fc-docs at 37ecbc6. Who asks: fc3 0.1.22, as seen on the
wire of a first deploy and of a redeploy against a mock of the API; `infra` is infra/fc/client.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from infra import ROOT

RAM_DIR = ROOT / "infra" / "ram"
POLICIES = sorted(RAM_DIR.glob("*.json"))
FC = (ROOT / "infra" / "fc" / "client.py").read_text(encoding="utf-8")
# An action bears the name of its call (FC docs, RAM authorization; PutAsyncInvokeConfig differs).
CALLS = sorted(set(re.findall(r'_(?:call|or_none)[(,]\s*"(\w+)"', FC)))
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


def faults(document: Mapping[str, Any]) -> Iterator[str]:
    """Wildcard actions, resources without a bound, and names that RAM would not know."""
    for statement in document["Statement"]:
        actions = as_list(statement["Action"])
        yield from (f"{action} allows whatever the service adds next year" for action in actions if "*" in action)
        if "*" in as_list(statement.get("Resource")) and not statement.get("Condition") and set(actions) - UNBOUND:
            yield f"{actions} on every resource of the account"
        for condition in statement.get("Condition", {}).values():
            yield from (f"{key} is no condition key that RAM documents" for key in condition.keys() - CONDITION_KEYS)
    for word in sorted(set(re.findall(r"\b[A-Z][A-Z_]{4,}\b", json.dumps(document))) - PLACEHOLDERS):
        yield f"{word} is nothing to fill in"


def faults_of_deployer(document: Mapping[str, Any]) -> Iterator[str]:
    """What a deployment asks for and would be refused, and what nobody asks for."""
    granted = [
        (action, pattern)
        for statement in document["Statement"]
        for action in as_list(statement["Action"])
        for pattern in as_list(statement["Resource"])
    ]
    for action, resources in DEPLOYER.items():
        for resource in resources:
            if not any(action == allowed and fnmatchcase(resource, pattern) for allowed, pattern in granted):
                yield f"does not allow {action} on {resource}"
    yield from (
        f"allows {action}, which nobody asks for" for action in {action for action, _ in granted} - DEPLOYER.keys()
    )


def load(name: str) -> dict[str, Any]:
    return dict(json.loads((RAM_DIR / name).read_text(encoding="utf-8")))


def actions(document: dict[str, Any]) -> set[str]:
    return {action for statement in document["Statement"] for action in as_list(statement["Action"])}


def test_all_policies_were_found() -> None:
    assert len(POLICIES) == 6


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.name)
def test_a_policy_has_the_shape_ram_asks_for_and_no_fault(file: Path) -> None:
    document = load(file.name)
    assert list(faults(document)) == []
    assert document["Version"] == "1"
    for statement in document["Statement"]:
        assert statement["Effect"] == "Allow"
        assert "Resource" in statement or "Principal" in statement
        assert all(re.fullmatch(r"(fc|ram|cr|sts|log):[A-Z]\w+", action) for action in actions(document))


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.name)
def test_a_placeholder_that_is_not_documented_is_an_error(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    words = set(re.findall(r"\b[A-Z][A-Z_]{4,}\b", text))
    assert words
    for word in words:
        assert "SOME_OTHER is nothing to fill in" in faults(json.loads(text.replace(word, "SOME_OTHER")))


def test_the_chapter_on_policies_names_everything_to_fill_in() -> None:
    readme = (RAM_DIR.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"`{word}`" in readme for word in PLACEHOLDERS)


@pytest.mark.parametrize("call", CALLS)
def test_the_deployer_may_do_what_the_command_line_does(call: str) -> None:
    action = "fc:" + "".join(part.capitalize() for part in call.split("_"))
    assert action in DEPLOYER


def test_the_deployer_may_do_what_is_asked_for_and_nothing_else() -> None:
    assert list(faults_of_deployer(load("deployer.json"))) == []


@pytest.mark.parametrize("action", sorted(DEPLOYER))
def test_an_action_taken_away_is_an_error(action: str) -> None:
    text = (RAM_DIR / "deployer.json").read_text(encoding="utf-8")
    found = list(faults_of_deployer(json.loads(text.replace(f'"{action}"', '"fc:ListFunctions"'))))
    assert any(f"does not allow {action} on" in fault for fault in found)
    assert "allows fc:ListFunctions, which nobody asks for" in found


@pytest.mark.parametrize("tail", ["", "/*"])
def test_a_resource_taken_away_or_misspelt_is_an_error(tail: str) -> None:
    document = load("deployer.json")
    (resources,) = [one["Resource"] for one in document["Statement"] if "fc:GetFunction" in one["Action"]]
    resources[resources.index(f"acs:fc:REGION:ACCOUNT_ID:functions/FUNCTION{tail}")] = (
        "acs:fc:REGION:ACCOUNT_ID:services/x"
    )
    assert list(faults_of_deployer(document))


@pytest.mark.parametrize("key", sorted(CONDITION_KEYS))
def test_a_condition_key_that_ram_does_not_have_is_an_error(key: str) -> None:
    used = [file for file in POLICIES if f'"{key}"' in file.read_text(encoding="utf-8")]
    assert used, "a key that no policy uses is not listed"
    for file in used:
        document = json.loads(file.read_text(encoding="utf-8").replace(f'"{key}"', '"acs:CurrentRegion"'))
        assert list(faults(document)) == ["acs:CurrentRegion is no condition key that RAM documents"]


def test_calls_were_found() -> None:
    assert {"get_function", "publish_function_version", "invoke_function"} <= set(CALLS)


def test_the_invoker_may_only_invoke() -> None:
    assert actions(load("invoker.json")) == {"fc:InvokeFunction"}


def test_nobody_but_the_deployer_may_pass_a_role_and_only_to_function_compute() -> None:
    passing = [file.name for file in POLICIES if "ram:PassRole" in actions(load(file.name))]
    assert passing == ["pass-role.json"]
    (statement,) = load("pass-role.json")["Statement"]
    assert statement["Condition"]["StringEquals"]["acs:Service"] == "fc.aliyuncs.com"


def test_ci_is_trusted_for_one_repository_and_one_environment_only() -> None:
    (statement,) = load("ci-trust.json")["Statement"]
    conditions = statement["Condition"]
    assert conditions.keys() == {"StringEquals"}, "StringLike would let a pattern in"
    (subject,) = conditions["StringEquals"]["oidc:sub"]
    assert re.fullmatch(r"repo:OWNER/REPOSITORY:environment:production", subject)
    assert conditions["StringEquals"]["oidc:aud"] == ["sts.aliyuncs.com"]


@pytest.mark.parametrize(
    "statement",
    [{"Action": ["fc:*"], "Resource": ["acs:fc:*:1:functions/f"]}, {"Action": "fc:GetFunction", "Resource": "*"}],
    ids=["every action", "every resource"],
)
def test_a_wildcard_is_an_error(statement: dict[str, Any]) -> None:
    assert len(list(faults({"Statement": [{"Effect": "Allow", **statement}]}))) == 1
