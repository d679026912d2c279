"""The RAM policies: small, well formed, and enough for what fc3 and infra/ ask for; what breaks one is found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from infra import ROOT
from infra.doctor.policies import (
    CONDITION_KEYS,
    DEPLOYER,
    PLACEHOLDERS,
    RAM_DIR,
    check_deployer,
    check_policy,
    check_ram,
)

POLICIES = sorted(RAM_DIR.glob("*.json"))
FC = (ROOT / "infra" / "fc" / "client.py").read_text(encoding="utf-8")
# An action bears the name of its call (FC docs, RAM authorization; PutAsyncInvokeConfig differs).
CALLS = sorted(set(re.findall(r'_(?:call|or_none)[(,]\s*"(\w+)"', FC)))


def load(name: str) -> dict[str, Any]:
    return dict(json.loads((RAM_DIR / name).read_text(encoding="utf-8")))


def actions(document: dict[str, Any]) -> set[str]:
    listed = [statement["Action"] for statement in document["Statement"]]
    return {action for entry in listed for action in ([entry] if isinstance(entry, str) else entry)}


def test_the_doctor_finds_nothing_in_the_policies() -> None:
    assert len(POLICIES) == 6
    assert check_ram() == []


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.name)
def test_a_policy_has_the_shape_ram_asks_for(file: Path) -> None:
    document = load(file.name)
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
        found = [*check_policy(file.name, json.loads(text.replace(word, "SOME_OTHER")))]
        assert any("SOME_OTHER is nothing to fill in" in finding.sentence for finding in found)


def test_the_chapter_on_policies_names_everything_to_fill_in() -> None:
    readme = (RAM_DIR.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"`{word}`" in readme for word in PLACEHOLDERS)


@pytest.mark.parametrize("call", CALLS)
def test_the_deployer_may_do_what_the_command_line_does(call: str) -> None:
    action = "fc:" + "".join(part.capitalize() for part in call.split("_"))
    assert action in DEPLOYER


@pytest.mark.parametrize("action", sorted(DEPLOYER))
def test_an_action_taken_away_is_an_error(action: str) -> None:
    text = (RAM_DIR / "deployer.json").read_text(encoding="utf-8")
    found = [*check_deployer("deployer.json", json.loads(text.replace(f'"{action}"', '"fc:ListFunctions"')))]
    assert any(f"does not allow {action} on" in finding.sentence for finding in found)
    assert any("allows fc:ListFunctions" in finding.sentence for finding in found)


@pytest.mark.parametrize("tail", ["", "/*"])
def test_a_resource_taken_away_or_misspelt_is_an_error(tail: str) -> None:
    document = load("deployer.json")
    (resources,) = [one["Resource"] for one in document["Statement"] if "fc:GetFunction" in one["Action"]]
    resources[resources.index(f"acs:fc:REGION:ACCOUNT_ID:functions/FUNCTION{tail}")] = (
        "acs:fc:REGION:ACCOUNT_ID:services/x"
    )
    assert list(check_deployer("deployer.json", document))


@pytest.mark.parametrize("key", sorted(CONDITION_KEYS))
def test_a_condition_key_that_ram_does_not_have_is_an_error(key: str) -> None:
    used = [file for file in POLICIES if f'"{key}"' in file.read_text(encoding="utf-8")]
    assert used, "a key that no policy uses is not listed"
    for file in used:
        document = json.loads(file.read_text(encoding="utf-8").replace(f'"{key}"', '"acs:CurrentRegion"'))
        assert ["acs:CurrentRegion" in one.sentence for one in check_policy(file.name, document)] == [True]


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
