"""wait-ready and scale: a deploy is over when instances stand, and keeping some must not lose the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from infra.errors import CheckFailed, InfraError, TimedOut
from infra.fc import FunctionCompute
from infra.ready import PATIENCE, look_at_instances, wait_ready
from infra.scale import Schedule, scale
from tests.deploy.fake_account import credential, deployed
from tests.deploy.fake_fc import FakeFC

NAME = "chatbot-llm"
ONE = models.PutProvisionConfigInput(default_target=1, always_allocate_cpu=False, always_allocate_gpu=False)


@pytest.fixture
def fake() -> Iterator[FakeFC]:
    with FakeFC() as fake:
        fake.state.functions[NAME] = deployed()
        yield fake


@pytest.fixture
def fc(fake: FakeFC) -> FunctionCompute:
    return FunctionCompute("cn-hangzhou", fake.endpoint, credential=credential(fake.state))


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def wait(fc: FunctionCompute, qualifier: str = "LATEST", **options: Any) -> tuple[str, list[str]]:
    clock, said = Clock(), list[str]()
    done = wait_ready(fc, NAME, qualifier, say=said.append, sleep=clock.sleep, clock=clock, **options)
    return done, said


class TestWaiting:
    def test_follows_image_update_and_instances_to_the_end(self, fake: FakeFC, fc: FunctionCompute) -> None:
        fc.put_provision(NAME, "LATEST", ONE)
        fake.state.states_ahead = [("Pending", "InProgress", ""), ("Active", "InProgress", "")]
        fake.state.ready_after = 2
        done, said = wait(fc)
        assert said == [
            "function state Pending, waiting for Active",
            "last update InProgress, waiting for Successful",
            "min instances 0 of 1",
            "min instances 0 of 1",
        ]
        assert done == f"{NAME}@LATEST is ready, min instances 1 of 1"

    def test_too_slow_is_a_time_out_that_names_what_is_missing(self, fake: FakeFC, fc: FunctionCompute) -> None:
        fc.put_provision(NAME, "LATEST", ONE)
        fake.state.ready_after = 1000
        with pytest.raises(TimedOut, match="after 60 s: min instances 0 of 1") as caught:
            wait(fc, timeout_s=60)
        assert caught.value.exit_code == 4

    def test_a_lasting_provision_error_fails_with_fcs_words(self, fake: FakeFC, fc: FunctionCompute) -> None:
        fc.put_provision(NAME, "LATEST", ONE)
        fake.state.provision_error = "ResourceExhausted: no GPU left"
        with pytest.raises(CheckFailed, match="0 of 1: ResourceExhausted: no GPU left"):
            wait(fc)
        assert fake.state.actions().count("GetProvisionConfig") == PATIENCE

    def test_a_passing_provision_error_is_waited_out(self, fake: FakeFC, fc: FunctionCompute) -> None:
        fc.put_provision(NAME, "LATEST", ONE)
        fake.state.provision_error = "FunctionNotStarted"
        clock = Clock()

        def heal(seconds: float) -> None:
            clock.sleep(seconds)
            fake.state.provision_error = ""

        assert "1 of 1" in wait_ready(fc, NAME, sleep=heal, clock=clock)

    def test_a_failed_image_is_reported_with_its_reason(self, fake: FakeFC, fc: FunctionCompute) -> None:
        function = fake.state.functions[NAME]
        function.state, function.state_reason = "Failed", "image not found"
        with pytest.raises(CheckFailed, match="state Failed: image not found"):
            wait(fc)

    def test_a_failed_update_says_that_the_old_version_serves(self, fake: FakeFC, fc: FunctionCompute) -> None:
        function = fake.state.functions[NAME]
        function.last_update_status, function.last_update_status_reason_code = "Failed", "ImageTooLarge"
        with pytest.raises(CheckFailed, match="last update Failed: ImageTooLarge.*still serves"):
            wait(fc)

    def test_fewer_instances_than_expected_is_a_failure(self, fc: FunctionCompute) -> None:
        with pytest.raises(CheckFailed, match="0 min instances are asked for, 1 expected"):
            wait(fc, at_least=1)

    def test_scale_to_zero_is_ready_and_says_what_that_means(self, fc: FunctionCompute) -> None:
        assert "cold start" in wait(fc)[0]

    def test_an_absent_current_is_not_ready(self) -> None:
        # fc3 takes it for ready.
        provision = models.ProvisionConfig(default_target=1, target=1)
        assert look_at_instances(provision, 0) == ("min instances 0 of 1", "")

    def test_a_version_is_not_asked_for_min_instances(self, fake: FakeFC, fc: FunctionCompute) -> None:
        version = fc.publish(NAME, "")
        wait(fc, version)
        assert "GetProvisionConfig" not in fake.state.actions()


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
