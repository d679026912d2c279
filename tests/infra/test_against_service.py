"""The command line against the real service: real gunicorn, scripted engine, the fake control plane before it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from fake_fc import FakeFC
from infra import ROOT
from infra.__main__ import main
from infra.commands.smoke import Deployment, check
from infra.fc import keys

NAME = "chatbot-llm"
KEY = "key-of-this-test-only"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a running `python -m chatbot_llm`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("service") / "log"
    with log.open("wb") as sink:
        process = start(port, sink)
    url = f"http://127.0.0.1:{port}"
    try:
        healthy = check("health", lambda: Deployment(url).health(wait_s=60))
        assert not healthy.fault, f"{healthy.fault}\n{log.read_text()[-4000:]}"
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def start(port: int, sink: IO[bytes]) -> subprocess.Popen[bytes]:
    """As FC starts it: with its variables, so that platform routes are closed to the trigger."""
    return subprocess.Popen(
        [sys.executable, "-m", "chatbot_llm", "--host", "127.0.0.1", "--port", str(port)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "code"),
            "CHATBOT_ENGINE": "scripted",
            "CHATBOT_API_KEYS": keys.digest(KEY),
            "FC_FUNCTION_NAME": NAME,
            "FC_INSTANCE_ID": "c-test",
        },
        stdout=sink,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(autouse=True)
def _deployed(service: str, connected: FakeFC, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATBOT_API_KEY", KEY)
    connected.state.service = service
    connected.state.triggers[NAME] = [
        models.Trigger(
            trigger_type="http",
            qualifier="live",
            trigger_config='{"authType": "anonymous"}',
            http_trigger=models.HTTPTrigger(url_internet=service),
        )
    ]


def test_the_service_is_released_and_smoked_on_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["release"]) == 0
    assert main(["smoke", NAME, "--qualifier", "live"]) == 0
    out = capsys.readouterr().out
    for name in ("invoke chat @live", "invoke generate", "health", "stream", "generate", "no key"):
        assert name in out
    assert "FAILED" not in out and "warning" not in out


def test_a_wrong_key_fails_the_trigger_but_not_the_sdk(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["release"]) == 0
    monkeypatch.setenv("CHATBOT_API_KEY", "a-key-that-is-not-known")
    assert main(["smoke", NAME, "--qualifier", "live"]) == 1
    assert "failed: chat, stream, generate: " in capsys.readouterr().err
