"""doctor: what it prints and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from infra.__main__ import main
from infra.commands.screen import console
from infra.fc import template


def test_doctor_lists_what_is_wrong_and_fails(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(template, "render", lambda env: props)
    assert main(["doctor"]) == 0
    props["instanceConcurrency"] = 500
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "instanceConcurrency" in captured.out and "not ready to deploy" in captured.err


@pytest.mark.process
def test_run_as_a_hook_it_fails_on_an_error(
    s_command: str,
    deployment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in deployment.items():
        monkeypatch.setenv(name, value)
    assert main(["doctor"]) == 0
    monkeypatch.setenv("DEPLOY_IMAGE", "registry.cn-hangzhou.aliyuncs.com/example/chatbot-llm:latest")
    assert main(["doctor"]) == 1
    assert "error: customContainerConfig.image tag 'latest'" in capsys.readouterr().out


def test_an_arn_is_printed_as_it_must_be_written(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(template, "render", lambda env: props)
    props["role"] = "Fc-Role"
    assert main(["doctor"]) == 1
    assert "must be acs:ram::<account>:role/<name>" in capsys.readouterr().out


PLAIN = "a-plain-key-of-this-test"


@pytest.mark.process
def test_keys_are_judged_as_a_deployment_would_send_them(
    s_command: str, deployment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**deployment, "DEPLOY_KEY_DIGESTS": "", "CHATBOT_API_KEYS": PLAIN}.items():
        monkeypatch.setenv(name, value)
    assert main(["doctor"]) == 0
    assert "0 warning(s)" in capsys.readouterr().out, "the function would have keys"
    assert main(["doctor", "--hook"]) == 1, "an `s` started by hand would deploy an open function"
    out = capsys.readouterr().out
    assert "error: CHATBOT_API_KEYS is set, and this `s` would deploy without it" in out and PLAIN not in out


def test_the_name_of_a_resource_is_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("NoPermission: acs:ram::1234:role/deployer")
    assert capsys.readouterr().out == "NoPermission: acs:ram::1234:role/deployer\n"
