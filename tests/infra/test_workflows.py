"""The workflows: well formed, pinned, least privileged, and made of steps that a person can run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def load(file: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(file.read_text(encoding="utf-8")))


def steps(file: Path) -> list[dict[str, Any]]:
    return [step for job in load(file)["jobs"].values() for step in job["steps"]]


@pytest.fixture
def deploy() -> dict[str, Any]:
    return dict(load(ROOT / ".github" / "workflows" / "deploy.yml")["jobs"]["deploy"])


def test_both_workflows_are_there() -> None:
    assert [file.name for file in FILES] == ["ci.yml", "deploy.yml"]


@each_file
def test_zizmor_finds_nothing(file: Path) -> None:
    zizmor = shutil.which("zizmor", path=str(Path(sys.executable).parent))
    if zizmor is None:
        pytest.skip("zizmor is not installed: it is in tests/requirements.in")
    finished = subprocess.run(
        [zizmor, "--offline", "--persona=pedantic", "--no-progress", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


@each_file
def test_action_validator_accepts_it(file: Path) -> None:
    validator = ROOT / "infra" / "node_modules" / ".bin" / "action-validator"
    if shutil.which("node") is None or not validator.exists():
        pytest.skip("action-validator is not installed: install Node.js 20+, then run `npm ci --prefix infra`")
    finished = subprocess.run([validator, file], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@each_file
def test_actions_are_pinned_by_commit_with_their_version_beside(file: Path) -> None:
    used = re.findall(r"uses: (.*)", file.read_text(encoding="utf-8"))
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


@each_file
def test_nothing_is_permitted_by_default(file: Path) -> None:
    assert load(file)["permissions"] == {}
    for job in load(file)["jobs"].values():
        assert job["permissions"].keys() <= {"contents", "id-token"}
        assert job["permissions"]["contents"] == "read"


@each_file
def test_a_checkout_keeps_no_token(file: Path) -> None:
    checkouts = [step for step in steps(file) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts and all(step["with"]["persist-credentials"] is False for step in checkouts)


@each_file
def test_every_make_target_exists(file: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {name for line in re.findall(r"^([\w .-]+):(?!=)", makefile, re.MULTILINE) for name in line.split()}
    asked = {
        name
        for step in steps(file)
        for call in re.findall(r"^make (.+)$", step.get("run", ""), re.M)
        for name in call.split()
    }
    assert asked and asked <= targets


def test_only_the_deploy_job_can_become_a_ram_role(deploy: dict[str, Any]) -> None:
    holders = [name for file in FILES for name, job in load(file)["jobs"].items() if "id-token" in job["permissions"]]
    assert holders == ["deploy"]
    assert deploy["environment"] == "production"


def test_the_token_is_asked_for_the_audience_the_role_trusts(deploy: dict[str, Any]) -> None:
    trust = (ROOT / "infra" / "ram" / "ci-trust.json").read_text(encoding="utf-8")
    asked = [step["with"] for step in deploy["steps"] if "configure-aliyun-credentials" in step.get("uses", "")]
    assert asked and all(f'"{given["audience"]}"' in trust for given in asked)
    assert f"environment:{deploy['environment']}" in trust


def test_what_runs_is_doctor_image_push_deploy_release_in_this_order(deploy: dict[str, Any]) -> None:
    runs = [step["run"] for step in deploy["steps"] if step.get("run", "").startswith("make ")]
    assert runs == ["make doctor", "make image push", "make deploy", "make release"]


def test_a_credential_is_taken_right_before_each_step_that_needs_it(deploy: dict[str, Any]) -> None:
    order = [step.get("run", step.get("uses", "")) for step in deploy["steps"]]
    for run in ("make deploy", "make release"):
        assert "configure-aliyun-credentials" in order[order.index(run) - 1]


def test_telemetry_is_off_and_secrets_stay_in_the_steps_that_need_them(deploy: dict[str, Any]) -> None:
    assert deploy["env"]["NODE_ENV"] == "test"
    assert not any("secrets." in str(value) for value in deploy["env"].values())
    for step in deploy["steps"]:
        assert "${{" not in step.get("run", ""), "a value in a script is code: pass it in env"


def test_every_variable_that_s_yaml_reads_is_given_by_the_workflow_or_made_by_make(
    deploy: dict[str, Any],
) -> None:
    read = set(re.findall(r"env\('((?:DEPLOY|CHATBOT)_\w+)'", (ROOT / "s.yaml").read_text(encoding="utf-8")))
    given = set(deploy["env"]) | {name for step in deploy["steps"] for name in step.get("env", {})}
    assert read - given == {"DEPLOY_IMAGE"}
    assert "DEPLOY_IMAGE" in (ROOT / "Makefile").read_text(encoding="utf-8")
