"""status: one screen."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from fake_fc import FakeFC
from infra.__main__ import main

NAME = "chatbot-llm"


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
    def test_one_screen_shows_everything(self, connected: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
        state = connected.state
        state.aliases[NAME, "live"] = models.Alias(alias_name="live", version_id="7")
        state.provisions[NAME, "live"] = models.ProvisionConfig(
            default_target=1, target=1, always_allocate_cpu=False, always_allocate_gpu=False
        )
        state.instances[NAME, "live"] = [instance("c-6a1f-standing", datetime.now(UTC))]
        assert main(["status"]) == 0
        out = capsys.readouterr().out
        assert "paid for by the hour, asleep or not: 1 of live" in out
        for shown in ("Active", "chatbot-llm:v1.2.0", "live", "7", "c-6a1f-standing", "no errors"):
            assert shown in out

    def test_what_fc_reports_wrong_is_on_the_screen(
        self, connected: FakeFC, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function = connected.state.functions[NAME]
        function.last_update_status, function.last_update_status_reason = "Failed", "image too large"
        function.invocation_restriction = models.FunctionRestriction(disable=True, reason="overdue")
        connected.state.provisions[NAME, "LATEST"] = models.ProvisionConfig(
            default_target=1, target=1, always_allocate_cpu=True, always_allocate_gpu=True
        )
        connected.state.provision_error = "ResourceExhausted"
        assert main(["status"]) == 0
        out = capsys.readouterr().out
        for shown in ("image too large", "overdue", "ResourceExhausted", "never hibernates"):
            assert shown in out

    def test_no_name_becomes_a_picture(self, connected: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
        connected.state.functions[NAME].state_reason = "acs:ram::1:role/x is not allowed"
        connected.state.functions[NAME].state = "Failed"
        assert main(["status"]) == 0
        assert "acs:ram::1:role/x" in capsys.readouterr().out

    def test_markup_in_a_name_is_text(self, connected: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
        connected.state.functions[NAME].state_reason = "[red]boo[/"
        connected.state.functions[NAME].state = "Failed"
        assert main(["status"]) == 0
        assert "[red]boo[/" in capsys.readouterr().out
