"""`s deploy` for real, up to the component: a stand-in shows what fc3 would have been given."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra import ROOT
from infra.errors import InfraError, WrongUsage
from infra.fc import keys, serverless_devs

STUB = ROOT / "tests" / "support" / "fc3_double"
CREDENTIAL = {
    "ALIBABA_CLOUD_ACCOUNT_ID": "1000",
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "STS.example",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "example-secret",
    "ALIBABA_CLOUD_SECURITY_TOKEN": "example-token",
}


@dataclass
class Deployment:
    """One `s deploy` in a home of its own, with the stand-in as component and no network."""

    env: dict[str, str]
    wrote: Path
    dialled: Path

    def run(self, *more: str, **changes: str) -> int:
        return serverless_devs.run(["deploy", "-y", "--skip-push", *more], {**self.env, **changes})

    @property
    def seen(self) -> dict[str, Any]:
        """What the component was given: props, args, credential."""
        return dict(json.loads(self.wrote.read_text(encoding="utf-8")))


@pytest.fixture
def deploy(s_command: str, deployment: dict[str, str], tmp_path: Path) -> Deployment:
    wrote, dialled = tmp_path / "wrote.json", tmp_path / "dialled"
    env = {
        **deployment,
        **CREDENTIAL,
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHON": sys.executable,
        "FC3_COMPONENT": str(STUB),
        "STUB_WROTE": str(wrote),
        "DIALLED": str(dialled),
        "NODE_OPTIONS": f"--require {STUB / 'no_network.js'}",
    }
    return Deployment(env, wrote, dialled)


def test_the_component_gets_the_props_that_preview_shows(deploy: Deployment, props: dict[str, Any]) -> None:
    assert deploy.run() == 0
    assert deploy.seen["props"] == props


def test_the_security_token_of_a_role_reaches_the_component(deploy: Deployment) -> None:
    assert deploy.run() == 0
    assert deploy.seen["credential"] == {
        "AccountID": "1000",
        "AccessKeyID": "STS.example",
        "AccessKeySecret": "example-secret",
        "SecurityToken": "example-token",
    }


ONE, TWO = "first-key-of-this-test", "second-key-of-this-test"


def kept(deploy: Deployment, capfd: pytest.CaptureFixture[str]) -> str:
    """All that `s` has said, and all that lies in its home afterwards: logs, caches, what the component was given."""
    files = [file for file in deploy.wrote.parent.rglob("*") if file.is_file()]
    assert any(file.parent.name == "logs" or file.parent.parent.name == "logs" for file in files), files
    return "".join([*capfd.readouterr(), *(file.read_text(encoding="utf-8", errors="replace") for file in files)])


def test_a_plain_key_reaches_neither_what_s_prints_nor_what_it_keeps(
    deploy: Deployment, capfd: pytest.CaptureFixture[str]
) -> None:
    assert deploy.run(CHATBOT_API_KEYS=f"{ONE}, {TWO}", CHATBOT_API_KEY=ONE, DEPLOY_KEY_DIGESTS="") == 0
    assert deploy.seen["props"]["environmentVariables"]["CHATBOT_API_KEYS"] == keys.digests(f"{ONE},{TWO}")
    found = kept(deploy, capfd)
    assert keys.digest(TWO) in found, "the double prints the variables, as fc3 does"
    assert ONE not in found and TWO not in found


def test_a_plain_key_that_was_handed_to_s_is_refused_and_seen(
    deploy: Deployment, capfd: pytest.CaptureFixture[str]
) -> None:
    """Guards the test above, and shows why s.yaml does not read CHATBOT_API_KEYS: `s plan` has no hook, either."""
    assert deploy.run(DEPLOY_KEY_DIGESTS=ONE) != 0
    assert not deploy.wrote.exists() and ONE not in kept(deploy, capfd)
    assert deploy.run("--skip-actions", DEPLOY_KEY_DIGESTS=ONE) == 0
    assert ONE in kept(deploy, capfd)


def test_a_key_too_short_ends_a_deployment_before_s_begins(deploy: Deployment) -> None:
    with pytest.raises(WrongUsage, match="under 16 characters"):
        deploy.run(CHATBOT_API_KEYS="short")


def test_the_plain_four_left_in_the_environment_do_not_win(deploy: Deployment) -> None:
    assert deploy.run(AccountID="2", AccessKeyID="other", AccessKeySecret="other", SecurityToken="other") == 0
    assert deploy.seen["credential"]["AccountID"] == "1000"


def test_the_doctor_runs_before_the_component_and_stops_a_wrong_deployment(
    deploy: Deployment, capfd: pytest.CaptureFixture[str]
) -> None:
    status = deploy.run(DEPLOY_IMAGE="registry.cn-hangzhou.aliyuncs.com/example/chatbot-llm:latest")
    assert status != 0
    assert not deploy.wrote.exists()
    assert "can move" in capfd.readouterr().out


def test_a_deployment_tells_nobody_about_itself(deploy: Deployment) -> None:
    assert deploy.run() == 0
    assert not deploy.dialled.exists(), deploy.dialled.read_text(encoding="utf-8")


def test_s_has_a_home_of_its_own_closed_to_others_and_a_profile_is_found_there(deploy: Deployment) -> None:
    person = deploy.wrote.parent
    (person / ".s").mkdir()
    (person / ".s" / "access.yaml").write_text("default: {}\n", encoding="utf-8")
    assert deploy.run() == deploy.run() == 0
    home = person / ".chatbot-llm"
    assert home.stat().st_mode & 0o077 == 0
    assert (home / ".s" / "access.yaml").read_text(encoding="utf-8") == "default: {}\n"
    assert list((home / ".s").rglob("*.log")) and not list((person / ".s").rglob("*.log"))


def test_an_s_that_dials_is_seen(deploy: Deployment) -> None:
    """Guards the test above: a component that is not there is looked for in its registry."""
    assert deploy.run(FC3_COMPONENT="fc3@0.0.0") != 0
    assert "devsapp.cn" in deploy.dialled.read_text(encoding="utf-8")


def test_a_credential_without_its_account_names_what_is_missing() -> None:
    env = {**CREDENTIAL, "ALIBABA_CLOUD_ACCOUNT_ID": ""}
    with pytest.raises(InfraError, match="ALIBABA_CLOUD_ACCOUNT_ID is not"):
        serverless_devs.with_credential(env)


def test_without_a_credential_the_profile_of_s_yaml_is_used() -> None:
    assert serverless_devs.with_credential({"HOME": "/x"}) == ({"HOME": "/x"}, [])


def test_an_endpoint_left_over_from_a_rehearsal_is_refused() -> None:
    with pytest.raises(InfraError, match="FC_CLIENT_CUSTOM_ENDPOINT"):
        serverless_devs.run(["deploy", "-y"], {"FC_CLIENT_CUSTOM_ENDPOINT": "http://127.0.0.1:1"})


def test_a_machine_without_s_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serverless_devs, "PINNED", tmp_path / "s")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="npm ci --prefix infra"):
        serverless_devs.find_s()


def test_the_lock_pins_s_and_names_no_registry() -> None:
    infra = ROOT / "infra"
    lock = json.loads((infra / "package-lock.json").read_text(encoding="utf-8"))
    wanted = json.loads((infra / "package.json").read_text(encoding="utf-8"))
    for name, version in {**wanted["dependencies"], **wanted["devDependencies"]}.items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    assert all("resolved" not in package for package in lock["packages"].values())
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
