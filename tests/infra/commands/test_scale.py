"""scale: keeping some instances must not lose the rest of the provision config."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from fake_fc import FakeFC
from infra.__main__ import main
from infra.commands.scale import scale, schedule, undone_by_deploy
from infra.errors import InfraError
from infra.fc.client import FunctionCompute

NAME = "chatbot-llm"
POLICY = models.TargetTrackingPolicy(
    name="by-concurrency",
    metric_type="ProvisionedConcurrencyUtilization",
    metric_target=0.6,
    min_capacity=1,
    max_capacity=3,
    start_time="2026-01-01T00:00:00Z",
    end_time="2036-01-01T00:00:00Z",
)
MORNING = schedule("morning", "cron(0 30 8 * * MON-FRI)", 2, "Asia/Shanghai")


def written(fake: FakeFC) -> dict[str, Any]:
    body = [body for action, _, body in fake.state.log if action == "PutProvisionConfig"][-1]
    found: dict[str, Any] = json.loads(body)
    return found


class TestScaling:
    def test_the_first_count_is_written_with_hibernation_on(self, fake: FakeFC, fc: FunctionCompute) -> None:
        changes = scale(fc, NAME, "LATEST", count=3)
        now = written(fake)
        assert changes == [f"min instances of {NAME}@LATEST: 0 -> 3"]
        assert now["defaultTarget"] == 3
        assert now["alwaysAllocateCPU"] is False and now["alwaysAllocateGPU"] is False

    def test_policies_of_the_account_survive_a_new_schedule(self, fake: FakeFC, fc: FunctionCompute) -> None:
        fake.state.provisions[NAME, "LATEST"] = models.ProvisionConfig(
            default_target=1, target=1, target_tracking_policies=[POLICY], scheduled_actions=[]
        )
        scale(fc, NAME, "LATEST", add=MORNING)
        now = written(fake)
        assert now["targetTrackingPolicies"] == [POLICY.to_map()]
        assert [action["name"] for action in now["scheduledActions"]] == ["morning"]
        assert now["scheduledActions"][0] == {
            "name": "morning",
            "scheduleExpression": "cron(0 30 8 * * MON-FRI)",
            "target": 2,
            "startTime": "2026-01-01T00:00:00Z",
            "endTime": "2036-01-01T00:00:00Z",
            "timeZone": "Asia/Shanghai",
        }

    def test_a_function_that_never_hibernates_is_put_right_and_shown(self, fake: FakeFC, fc: FunctionCompute) -> None:
        fake.state.provisions[NAME, "LATEST"] = models.ProvisionConfig(
            default_target=1, target=1, always_allocate_cpu=True, always_allocate_gpu=True
        )
        changes = scale(fc, NAME, "LATEST", count=1)
        assert "hibernation switched on" in changes[-1]
        assert written(fake)["alwaysAllocateGPU"] is False

    def test_a_schedule_of_the_same_name_is_replaced_and_one_is_removed_by_name(
        self, fake: FakeFC, fc: FunctionCompute
    ) -> None:
        scale(fc, NAME, "LATEST", count=1)
        scale(fc, NAME, "LATEST", add=MORNING)
        later = schedule("morning", "cron(0 0 9 * * *)", 4, "")
        scale(fc, NAME, "LATEST", add=later)
        assert [action["target"] for action in written(fake)["scheduledActions"]] == [4]
        scale(fc, NAME, "LATEST", remove="morning")
        assert written(fake)["scheduledActions"] == [] and written(fake)["defaultTarget"] == 1
        with pytest.raises(InfraError, match="no schedule is called 'evening'; there are: none"):
            scale(fc, NAME, "LATEST", remove="evening")

    def test_a_version_is_refused_before_any_call(self, fake: FakeFC, fc: FunctionCompute) -> None:
        with pytest.raises(InfraError, match="cannot be put on version 3"):
            scale(fc, NAME, "3", count=1)
        assert fake.state.log == []

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"when": "30 8 * * *"}, "write cron"),
            ({"target": -1}, "must be 0 to"),
        ],
    )
    def test_a_wrong_schedule_names_what_to_write(self, change: dict[str, Any], complaint: str) -> None:
        with pytest.raises(InfraError, match=complaint):
            schedule(**{"name": "x", "when": "cron(0 0 9 * * *)", "target": 2, "time_zone": "", **change})

    @pytest.mark.parametrize("rule", ["schedule", "policy"])
    def test_a_count_that_would_not_count_is_refused_and_nothing_is_written(
        self, fake: FakeFC, fc: FunctionCompute, rule: str
    ) -> None:
        scale(fc, NAME, "LATEST", count=1)
        if rule == "schedule":
            scale(fc, NAME, "LATEST", add=MORNING)
        else:
            fake.state.provisions[NAME, "LATEST"].target_tracking_policies = [POLICY]
        before = len(fake.state.log)
        with pytest.raises(InfraError, match="3 would not count while (morning|by-concurrency) is in force"):
            scale(fc, NAME, "LATEST", count=3)
        assert "PutProvisionConfig" not in [action for action, _, _ in fake.state.log[before:]]

    def test_a_count_is_written_once_the_schedule_goes_or_is_over(self, fake: FakeFC, fc: FunctionCompute) -> None:
        scale(fc, NAME, "LATEST", add=MORNING)
        scale(fc, NAME, "LATEST", count=3, remove="morning")
        over = {**MORNING, "name": "old", "endTime": "2026-02-01T00:00:00Z"}
        scale(fc, NAME, "LATEST", add=over)
        scale(fc, NAME, "LATEST", count=2)
        assert written(fake)["defaultTarget"] == 2


class TestWhatADeploymentKeeps:
    def printed(self, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
        """The variables in the export line, as a shell reads them."""
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("export ")]
        return dict(word.split("=", 1) for line in lines for word in shlex.split(line)[1:])

    def test_what_is_printed_makes_s_yaml_write_the_same_config(
        self, connected: FakeFC, capsys: pytest.CaptureFixture[str], render: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connected.state.aliases[NAME, "live"] = models.Alias(alias_name="live", version_id="1")
        assert main(["scale", "2"]) == 0
        assert main(["scale", "--schedule", "morning", MORNING["scheduleExpression"], "4"]) == 0
        variables = self.printed(capsys)
        assert variables["DEPLOY_MIN_INSTANCES"] == "2"
        provision = render(**variables)["provisionConfig"]
        assert {key: provision[key] for key in written(connected)} == written(connected)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert main(["scale", "--schedule", "morning", MORNING["scheduleExpression"], "4"]) == 0
        assert self.printed(capsys) == {}, "a deployment keeps it now"

    def test_policies_are_printed_until_a_deployment_keeps_them(self) -> None:
        config = models.ProvisionConfig(default_target=1, scheduled_actions=[], target_tracking_policies=[POLICY])
        *_, line = undone_by_deploy(config, "live", {}).splitlines()
        variables = dict(word.split("=", 1) for word in shlex.split(line)[1:])
        assert json.loads(variables["DEPLOY_POLICIES"]) == [POLICY.to_map()]
        assert undone_by_deploy(config, "live", variables) == ""

    def test_a_qualifier_that_no_deployment_touches_needs_nothing(
        self, connected: FakeFC, fc: FunctionCompute, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fc.point_alias(NAME, "other", fc.publish(NAME, ""))
        assert main(["scale", "3", "--qualifier", "other"]) == 0
        assert self.printed(capsys) == {}
