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
from infra.fc import keys

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DEPLOY = ROOT / ".github" / "workflows" / "deploy.yml"
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def load(file: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(file.read_text(encoding="utf-8")))


def steps(file: Path) -> list[dict[str, Any]]:
    return [step for job in load(file)["jobs"].values() for step in job["steps"]]


@pytest.fixture
def jobs() -> dict[str, Any]:
    return dict(load(DEPLOY)["jobs"])


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
    called = {
        name
        for step in steps(file)
        for call in re.findall(r"^make (.+)$", step.get("run", ""), re.M)
        for name in call.split("ARGS=")[0].split()
        if "=" not in name
    }
    assert called and called <= targets


def runs(job: dict[str, Any]) -> list[str]:
    return [step.get("run", step.get("uses", "")).strip() for step in job["steps"]]


def test_only_jobs_that_a_reviewer_approves_can_become_a_ram_role(jobs: dict[str, Any]) -> None:
    holders = [name for file in FILES for name, job in load(file)["jobs"].items() if "id-token" in job["permissions"]]
    assert holders == ["deploy", "release"]
    assert [jobs[name]["environment"] for name in ("build", *holders)] == ["registry", "production", "production"]


def test_the_token_is_asked_for_the_audience_the_role_trusts(jobs: dict[str, Any]) -> None:
    trust = (ROOT / "infra" / "ram" / "ci-trust.json").read_text(encoding="utf-8")
    inputs = [step["with"] for step in steps(DEPLOY) if "configure-aliyun-credentials" in step.get("uses", "")]
    assert len(inputs) == 2 and all(f'"{given["audience"]}"' in trust for given in inputs)
    assert all(f"environment:{jobs[name]['environment']}" in trust for name in ("deploy", "release"))


def test_what_runs_is_doctor_image_push_deploy_release_in_this_order(jobs: dict[str, Any]) -> None:
    assert [job.get("needs") for job in jobs.values()] == [None, "build", "deploy"]
    made = [run for job in jobs.values() for run in runs(job) if run.startswith("make ")]
    assert made == [
        "make doctor",
        "make image push CACHE=registry",
        "make deploy",
        "make release ARGS='--timeout 1500'",
    ]


def test_what_make_deploy_runs_waits_and_tries_by_itself() -> None:
    """tests/infra/commands/test_deploy.py says that it does."""
    dry = subprocess.run(["make", "-n", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert dry.strip().splitlines()[-1].strip().endswith("-m infra deploy")


def test_a_credential_is_taken_right_before_the_step_that_needs_it_and_outlives_its_job(jobs: dict[str, Any]) -> None:
    for name in ("deploy", "release"):
        *_, credential, command = jobs[name]["steps"]
        assert "configure-aliyun-credentials" in credential["uses"] and command["run"].startswith(f"make {name}")
        assert jobs[name]["timeout-minutes"] * 60 < credential["with"]["role-session-expiration"] == 3600


def test_every_job_has_the_time_its_steps_may_take(jobs: dict[str, Any]) -> None:
    assert jobs["build"]["timeout-minutes"] >= 90
    assert jobs["deploy"]["timeout-minutes"] >= 40 + 15  # FC's image conversion, a cold start
    (wait,) = re.findall(r"--timeout (\d+)", runs(jobs["release"])[-1])
    assert 15 * 60 <= int(wait) and 2 * int(wait) / 60 < jobs["release"]["timeout-minutes"] - 5


def test_there_is_room_before_the_image_is_built(jobs: dict[str, Any], tmp_path: Path) -> None:
    order = runs(jobs["build"])
    (at,) = [place for place, run in enumerate(order) if "df " in run]
    assert at < order.index("make image push CACHE=registry")
    freed = (
        "rm -rf /usr/share/dotnet /usr/local/lib/android /usr/local/.ghcup /usr/share/swift /opt/hostedtoolcache/CodeQL"
    )
    for free, status in ((44, 1), (45, 0)):
        (tmp_path / "df").write_text(
            f"#!/bin/sh\necho Avail\ngrep -q '^{freed}$' asked && echo ' {free}G' || echo ' 14G'\n"
        )
        (tmp_path / "sudo").write_text('#!/bin/sh\necho "$*" >> asked\n')
        (tmp_path / "asked").write_text("")
        for name in ("df", "sudo"):
            (tmp_path / name).chmod(0o755)
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        command = ["bash", "-e", "-c", order[at]]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout


def test_the_builds_cache_lies_in_the_registry() -> None:
    command = ["make", "-n", "image", "CACHE=registry", "DEPLOY_REPOSITORY=host/space/name"]
    dry = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--cache-from type=registry,ref=host/space/name:buildcache" in dry
    assert "--cache-to type=registry,ref=host/space/name:buildcache,mode=max" in dry
    assert (
        "--cache"
        not in subprocess.run(["make", "-n", "image"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )


def test_each_key_is_masked_on_its_own_before_anything_prints_it(jobs: dict[str, Any]) -> None:
    order = runs(jobs["deploy"])
    (at,) = [place for place, run in enumerate(order) if "add-mask" in run]
    assert at < order.index("make deploy")
    env = {"PATH": "/usr/bin:/bin", "CHATBOT_API_KEYS": "first-key-of-three, second-key-of-three ,third-key-of-three"}
    done = subprocess.run(["bash", "-e", "-c", order[at]], env=env, capture_output=True, text=True, check=True)
    masked = ["first-key-of-three", "second-key-of-three", "third-key-of-three"]
    assert done.stdout.splitlines() == [f"::add-mask::{key}" for key in masked]


def test_telemetry_is_off_and_secrets_stay_in_the_steps_that_need_them(jobs: dict[str, Any]) -> None:
    shared = load(DEPLOY)["env"]
    assert shared["NODE_ENV"] == "test"
    assert not any("secrets." in str(value) for value in shared.values())
    assert not any("env" in job for job in jobs.values())
    for step in steps(DEPLOY):
        assert "${{" not in step.get("run", ""), "a value in a script is code: pass it in env"


def test_every_variable_that_s_yaml_reads_is_given_by_the_workflow_or_made_by_make() -> None:
    read = set(re.findall(r"env\('((?:DEPLOY|CHATBOT)_\w+)'", (ROOT / "s.yaml").read_text(encoding="utf-8")))
    given = set(load(DEPLOY)["env"]) | {name for step in steps(DEPLOY) for name in step.get("env", {})}
    assert read - given == {"DEPLOY_IMAGE", keys.DIGESTS} and keys.KEYS in given
    assert "DEPLOY_IMAGE" in (ROOT / "Makefile").read_text(encoding="utf-8")
