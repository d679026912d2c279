"""The command line: exit codes, screens, and that a cancelled release cleans up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

import infra.__main__ as command_line
from infra import smoke, status
from infra.fc import FunctionCompute
from tests.deploy.fake_account import credential, deployed
from tests.deploy.fake_fc import FakeFC
from tests.deploy.service_double import ServiceDouble

NAME = "chatbot-llm"
ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ["doctor", "wait-ready", "smoke", "scale", "release", "status", "cost", "plan"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFC]:
    for name in ("DEPLOY_FUNCTION", "DEPLOY_REGION", "DEPLOY_QUALIFIER", "CHATBOT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    with FakeFC() as fake:
        fake.state.functions[NAME] = deployed()

        def connect(args: Any) -> FunctionCompute:
            return FunctionCompute(args.region, fake.endpoint, credential=credential(fake.state), sleep=lambda s: None)

        monkeypatch.setattr(command_line, "connect", connect)
        yield fake


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main([command, "--help"])
    assert caught.value.code == 0
    assert "usage: python -m infra " + command in capsys.readouterr().out


def test_a_mistyped_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main(["realease"])
    assert caught.value.code == 2
    assert "realease" in capsys.readouterr().err


def test_wait_ready_prints_progress_line_by_line_into_a_log(fake: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
    fake.state.states_ahead = [("Pending", "InProgress", "")] * 3
    assert command_line.main(["wait-ready", "--poll", "0.01"]) == 0
    out = capsys.readouterr().out
    assert out.count("state Pending") == 1, "the same state is said once"
    assert f"{NAME}@LATEST is ready" in out


def test_wait_ready_on_an_alias_also_waits_for_what_was_deployed(
    fake: FakeFC, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.state.aliases[NAME, "live"] = models.Alias(alias_name="live", version_id="1")
    fake.state.functions[NAME].last_update_status = "Failed"
    assert command_line.main(["wait-ready", "--qualifier", "live", "--poll", "0.01"]) == 1
    assert f"{NAME}@LATEST: last update Failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reason", "arguments", "code"),
    [
        ("image not found", ["wait-ready", "--poll", "0.01"], 1),
        ("timed", ["wait-ready", "--poll", "0.01", "--timeout", "0"], 4),
        ("FunctionNotFound", ["status", "--function", "another"], 3),
        ("give N", ["scale"], 1),
        ("no number", ["scale", "--schedule", "a", "cron(0 0 8 * * *)", "many"], 1),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_and_one_red_line(
    fake: FakeFC, capsys: pytest.CaptureFixture[str], reason: str, arguments: list[str], code: int
) -> None:
    function = fake.state.functions[NAME]
    if code == 4:
        function.state, reason = "Pending", "not ready after 0 s"
    else:
        function.state, function.state_reason = "Failed", "image not found"
    assert command_line.main(arguments) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and reason in err and err.count("\n") == 1


def test_smoke_of_a_url_needs_no_account(capsys: pytest.CaptureFixture[str]) -> None:
    with ServiceDouble() as double:
        assert command_line.main(["smoke", double.url]) == 0
    assert "TTFT" in capsys.readouterr().out


def test_smoke_fails_with_the_names_of_the_failed_checks(capsys: pytest.CaptureFixture[str]) -> None:
    with ServiceDouble("wrong") as double:
        assert command_line.main(["smoke", double.url]) == 1
        assert command_line.main(["smoke", double.url, "--expect", "Lyon"]) == 0
    assert "failed: chat, stream, generate" in capsys.readouterr().err


def test_smoke_of_a_function_uses_its_trigger_and_the_sdk(
    fake: FakeFC, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATBOT_API_KEY", "secret-key")
    with ServiceDouble(api_key="secret-key") as double:
        fake.state.service = double.url
        fake.state.triggers[NAME] = [
            models.Trigger(
                trigger_type="http",
                qualifier="LATEST",
                trigger_config='{"authType": "anonymous"}',
                http_trigger=models.HTTPTrigger(url_internet=double.url),
            )
        ]
        assert command_line.main(["smoke", NAME]) == 0
        paths = [path for _, path, _ in double.seen]
    assert paths == ["/invoke", "/invoke", "/health", "/chat", "/chat", "/generate", "/chat"]
    assert "secret-key" not in capsys.readouterr().out


def test_release_reports_the_version_and_what_is_left_on_latest(
    fake: FakeFC, capsys: pytest.CaptureFixture[str]
) -> None:
    with ServiceDouble() as double:
        fake.state.service = double.url
        assert command_line.main(["release", "--poll", "0.01", "--description", "v1"]) == 0
    out = capsys.readouterr().out
    assert f"{NAME}@live is version 1" in out and "warning: no HTTP trigger points to live" in out


def test_a_failed_clean_up_does_not_hide_why_there_was_one(fake: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
    fake.state.faults["DeleteProvisionConfig"] = [(403, "AccessDenied")]
    with ServiceDouble("degenerate") as double:
        fake.state.service = double.url
        assert command_line.main(["release", "--poll", "0.01"]) == 1
    err = capsys.readouterr().err
    assert "degenerate answer" in err and "goes on costing" in err


def test_a_cancelled_release_removes_its_candidate(fake: FakeFC) -> None:
    fake.state.ready_after = 1_000_000
    process = subprocess.Popen(
        [sys.executable, "-m", "infra", "release", "--poll", "0.05", "--endpoint", fake.endpoint],
        env={
            **os.environ,
            "ALIBABA_CLOUD_ACCESS_KEY_ID": fake.state.access_key_id,
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": fake.state.access_key_secret,
        },
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until = time.monotonic() + 60
    while ("GetProvisionConfig", "live-next", b"") not in fake.state.log and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, "interrupted" in out) == (130, True), out
    assert fake.state.aliases == {} and fake.state.provisions == {}


NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def instance(name: str, started: datetime, ended: datetime | None = None) -> Any:
    return models.InstanceInfo(
        instance_id=name,
        created_time_ms=int(started.timestamp() * 1000),
        destroyed_time_ms=int(ended.timestamp() * 1000) if ended else None,
        status="Running",
        version_id="1",
        resource_type="provision",
    )


class TestStatus:
    def test_one_screen_shows_everything(self, fake: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
        state = fake.state
        state.aliases[NAME, "live"] = models.Alias(alias_name="live", version_id="7")
        state.provisions[NAME, "live"] = models.ProvisionConfig(
            default_target=1, target=1, always_allocate_cpu=False, always_allocate_gpu=False
        )
        state.instances[NAME, "live"] = [instance("c-6a1f-standing", datetime.now(UTC))]
        assert command_line.main(["status"]) == 0
        out = capsys.readouterr().out
        for shown in ("Active", "chatbot-llm:v1.2.0", "live", "7", "c-6a1f-standing", "no errors", "CNY"):
            assert shown in out

    def test_what_fc_reports_wrong_is_on_the_screen(self, fake: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
        function = fake.state.functions[NAME]
        function.last_update_status, function.last_update_status_reason = "Failed", "image too large"
        function.invocation_restriction = models.FunctionRestriction(disable=True, reason="overdue")
        fake.state.provisions[NAME, "LATEST"] = models.ProvisionConfig(
            default_target=1, target=1, always_allocate_cpu=True, always_allocate_gpu=True
        )
        fake.state.provision_error = "ResourceExhausted"
        assert command_line.main(["status"]) == 0
        out = capsys.readouterr().out
        for shown in ("image too large", "overdue", "ResourceExhausted", "never hibernates"):
            assert shown in out

    def test_hours_count_from_the_month_and_to_an_instances_end(self) -> None:
        began = datetime(2026, 10, 30, tzinfo=UTC)
        first = datetime(2026, 11, 1, tzinfo=UTC)
        lived = [
            instance("old", began, datetime(2026, 11, 1, 6, tzinfo=UTC)),  # 6 h of this month
            instance("standing", datetime(2026, 11, 20, 10, tzinfo=UTC)),  # 2 h until now
            instance("gone before", began, first),
        ]
        assert status.instance_hours(lived, NOW) == pytest.approx(8.0)

    def test_markup_in_a_name_is_text(self, fake: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
        fake.state.functions[NAME].state_reason = "[red]boo[/"
        fake.state.functions[NAME].state = "Failed"
        assert command_line.main(["status"]) == 0
        assert "[red]boo[/" in capsys.readouterr().out


def test_cost_needs_no_account_and_prints_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--vcpu", "4", "--memory", "16384", "--gpu-memory", "16384", "--disk", "10240"]
    assert command_line.main(["cost", *size, "--tokens-per-second", "200"]) == 0
    out = capsys.readouterr().out
    assert "15.84" in out and "3.80" in out and "0.02200" in out


def test_cost_refuses_more_hours_than_a_month_has(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--vcpu", "4", "--memory", "16384", "--gpu-memory", "16384", "--disk", "10240"]
    assert command_line.main(["cost", *size, "--hours-active", "700", "--hours-hibernated", "100"]) == 1
    assert "do not fit" in capsys.readouterr().err


def test_doctor_lists_what_is_wrong_and_fails(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("infra.template.render", lambda: props)
    assert command_line.main(["doctor"]) == 0
    props["instanceConcurrency"] = 500
    assert command_line.main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "instanceConcurrency" in captured.out and "not ready to deploy" in captured.err


def test_cost_takes_the_size_that_is_deployed(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("infra.template.render", lambda env: props)
    assert command_line.main(["cost"]) == 0
    gb = props["memorySize"] / 1024
    assert f"{props['cpu']} vCPU, {gb:g} GB" in capsys.readouterr().out
    assert command_line.main(["cost", "--vcpu", "16"]) == 0
    assert f"16 vCPU, {gb:g} GB" in capsys.readouterr().out


def test_a_client_waits_longer_than_the_functions_timeout(props: dict[str, Any]) -> None:
    assert smoke.READ_TIMEOUT_S > props["timeout"]
