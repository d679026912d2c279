"""The RAM policies: small, well formed, and enough for the calls that infra/ makes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from infra import ROOT
from infra.doctor.policies import RAM_DIR, check_policy, check_ram

POLICIES = sorted(RAM_DIR.glob("*.json"))
FC = (ROOT / "infra" / "fc" / "client.py").read_text(encoding="utf-8")
# An action bears the name of its call (FC docs, RAM authorization; PutAsyncInvokeConfig differs).
CALLS = sorted(set(re.findall(r'_(?:call|or_none)\(\s*"(\w+)"', FC)))
PLACEHOLDERS = {"ACCOUNT_ID", "REGION", "FUNCTION", "FUNCTION_ROLE", "NAMESPACE", "OWNER", "REPOSITORY"}


def load(name: str) -> dict[str, Any]:
    return dict(json.loads((RAM_DIR / name).read_text(encoding="utf-8")))


def actions(document: dict[str, Any]) -> set[str]:
    listed = [statement["Action"] for statement in document["Statement"]]
    return {action for entry in listed for action in ([entry] if isinstance(entry, str) else entry)}


def test_the_doctor_finds_nothing_in_the_policies() -> None:
    assert len(POLICIES) == 5
    assert check_ram() == []


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.name)
def test_a_policy_has_the_shape_ram_asks_for(file: Path) -> None:
    document = load(file.name)
    assert document["Version"] == "1"
    for statement in document["Statement"]:
        assert statement["Effect"] == "Allow"
        assert "Resource" in statement or "Principal" in statement
        assert all(re.fullmatch(r"(fc|ram|cr|sts):[A-Z]\w+", action) for action in actions(document))


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.name)
def test_only_the_documented_placeholders_are_left_to_fill_in(file: Path) -> None:
    words = set(re.findall(r"\b[A-Z][A-Z_]{4,}\b", file.read_text(encoding="utf-8")))
    assert words <= PLACEHOLDERS
    readme = (RAM_DIR.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"`{word}`" in readme for word in words)


@pytest.mark.parametrize("call", CALLS)
def test_the_deployer_may_do_what_the_command_line_does(call: str) -> None:
    action = "fc:" + "".join(part.capitalize() for part in call.split("_"))
    assert action in actions(load("deployer.json"))


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


def test_a_wildcard_ram_action_is_an_error(tmp_path: Path) -> None:
    statement = {"Effect": "Allow", "Action": ["fc:*"], "Resource": ["acs:fc:*:1:functions/f"]}
    (tmp_path / "wide.json").write_text(json.dumps({"Version": "1", "Statement": [statement]}))
    (finding,) = check_ram(tmp_path)
    assert finding.level == "error" and finding.path == "wide.json: Statement[0].Action"


def test_every_resource_without_a_condition_is_an_error() -> None:
    statement = {"Effect": "Allow", "Action": "fc:GetFunction", "Resource": "*"}
    (finding,) = check_policy("wide.json", {"Statement": [statement]})
    assert finding.path == "wide.json: Statement[0].Resource"
