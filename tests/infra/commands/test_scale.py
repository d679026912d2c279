"""scale: keeping some instances must not lose the rest of the provision config."""

from __future__ import annotations

import json
from typing import Any

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from fake_fc import FakeFC
from infra.commands.scale import Schedule, scale
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
MORNING = Schedule(
    "morning", "cron(0 30 8 * * MON-FRI)", 2, "2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z", "Asia/Shanghai"
)


def written(fake: FakeFC) -> dict[str, Any]:
    body = [body for action, _, body in fake.state.log if action == "PutProvisionConfig"][-1]
    found: dict[str, Any] = json.loads(body)
    return found


class TestScaling:
    def test_the_first_count_is_written_with_hibernation_on(self, fake: FakeFC, fc: FunctionCompute) -> None:
        said = scale(fc, NAME, "LATEST", count=3)
        now = written(fake)
        assert said == [f"min instances of {NAME}@LATEST: 0 -> 3"]
        assert now["defaultTarget"] == 3
        assert now["alwaysAllocateCPU"] is False and now["alwaysAllocateGPU"] is False

    def test_policies_of_the_account_survive_a_new_count(self, fake: FakeFC, fc: FunctionCompute) -> None:
        fake.state.provisions[NAME, "LATEST"] = models.ProvisionConfig(
            default_target=1, target=1, target_tracking_policies=[POLICY], scheduled_actions=[]
        )
        scale(fc, NAME, "LATEST", add=MORNING)
        scale(fc, NAME, "LATEST", count=2)
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

    def test_a_function_that_never_hibernates_is_put_right_and_told(self, fake: FakeFC, fc: FunctionCompute) -> None:
        fake.state.provisions[NAME, "LATEST"] = models.ProvisionConfig(
            default_target=1, target=1, always_allocate_cpu=True, always_allocate_gpu=True
        )
        said = scale(fc, NAME, "LATEST", count=1)
        assert "hibernation switched on" in said[-1]
        assert written(fake)["alwaysAllocateGPU"] is False

    def test_a_schedule_of_the_same_name_is_replaced_and_one_is_removed_by_name(
        self, fake: FakeFC, fc: FunctionCompute
    ) -> None:
        scale(fc, NAME, "LATEST", count=1, add=MORNING)
        later = Schedule("morning", "cron(0 0 9 * * *)", 4, MORNING.start, MORNING.end, "")
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
            ({"start": "tomorrow"}, "write a time like"),
            ({"end": "2025-01-01T00:00:00Z"}, "before it starts"),
        ],
    )
    def test_a_wrong_schedule_names_what_to_write(self, change: dict[str, Any], complaint: str) -> None:
        with pytest.raises(InfraError, match=complaint):
            Schedule(**{**vars(MORNING), **change})
