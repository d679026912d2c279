"""wait-ready: a deploy is over when instances stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from fake_fc import FakeFC
from infra.__main__ import main
from infra.commands import wait_ready
from infra.errors import CheckFailed, TimedOut
from infra.fc.client import FunctionCompute

NAME = "chatbot-llm"
ONE = models.PutProvisionConfigInput(default_target=1, always_allocate_cpu=False, always_allocate_gpu=False)


class Clock:
    """Time that passes only while somebody sleeps, and what then happens."""

    def __init__(self) -> None:
        self.now = 0.0
        self.then: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(wait_ready, "time", found)
    return found


def wait(fc: FunctionCompute, qualifier: str = "LATEST", **options: Any) -> tuple[str, list[str]]:
    lines = list[str]()
    return wait_ready.wait_ready(fc, NAME, qualifier, report=lines.append, **options), lines


class TestWaiting:
    def test_follows_image_update_and_instances_to_the_end(self, fake: FakeFC, fc: FunctionCompute) -> None:
        fc.put_provision(NAME, "LATEST", ONE)
        fake.state.states_ahead = [("Pending", "InProgress", ""), ("Active", "InProgress", "")]
        fake.state.ready_after = 2
        done, lines = wait(fc)
        assert lines == [
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
        assert fake.state.actions().count("GetProvisionConfig") == wait_ready.PATIENCE

    def test_a_passing_provision_error_is_waited_out(self, fake: FakeFC, fc: FunctionCompute, clock: Clock) -> None:
        fc.put_provision(NAME, "LATEST", ONE)
        fake.state.provision_error = "FunctionNotStarted"
        clock.then = lambda: setattr(fake.state, "provision_error", "")
        assert "1 of 1" in wait(fc)[0]

    @pytest.mark.parametrize(
        "words", ["Resources are being replenished, please wait", "InternalServerError: an internal error has occurred"]
    )
    def test_an_error_that_fc3_waits_out_is_waited_out_however_often(
        self, fake: FakeFC, fc: FunctionCompute, clock: Clock, words: str
    ) -> None:
        fc.put_provision(NAME, "LATEST", ONE)
        fake.state.provision_error = words
        clock.then = lambda: setattr(fake.state, "provision_error", "" if clock.now > 600 else words)
        done, lines = wait(fc)
        assert "1 of 1" in done and words in lines[0]
        fake.state.provision_error, clock.now = words, 0
        with pytest.raises(TimedOut, match=words):
            wait(fc, timeout_s=60)

    def test_a_failed_image_is_reported_with_its_reason(self, fake: FakeFC, fc: FunctionCompute) -> None:
        function = fake.state.functions[NAME]
        function.state, function.state_reason = "Failed", "image not found"
        with pytest.raises(CheckFailed, match="state Failed: image not found"):
            wait(fc)

    def test_a_failed_update_shows_that_the_old_version_serves(self, fake: FakeFC, fc: FunctionCompute) -> None:
        function = fake.state.functions[NAME]
        function.last_update_status, function.last_update_status_reason_code = "Failed", "ImageTooLarge"
        with pytest.raises(CheckFailed, match="last update Failed: ImageTooLarge.*still serves"):
            wait(fc)

    def test_scale_to_zero_is_ready_and_says_what_that_means(self, fc: FunctionCompute) -> None:
        assert "cold start" in wait(fc)[0]

    def test_an_absent_current_is_not_ready(self) -> None:
        # fc3 takes it for ready.
        provision = models.ProvisionConfig(default_target=1, target=1)
        assert wait_ready.look_at_instances(provision) == ("min instances 0 of 1", False)

    def test_a_version_has_no_min_instances_to_look_up(self, fake: FakeFC, fc: FunctionCompute) -> None:
        version = fc.publish(NAME, "")
        wait(fc, version)
        assert "GetProvisionConfig" not in fake.state.actions()


def test_wait_ready_prints_progress_line_by_line_into_a_log(
    connected: FakeFC, capsys: pytest.CaptureFixture[str]
) -> None:
    connected.state.aliases[NAME, "live"] = models.Alias(alias_name="live", version_id="1")
    connected.state.states_ahead = [("Pending", "InProgress", "")] * 3
    assert main(["wait-ready"]) == 0
    out = capsys.readouterr().out
    assert out.count("state Pending") == 1, "the same state is printed once"
    assert f"{NAME}@LATEST is ready" in out and f"{NAME}@live is ready" in out


def test_wait_ready_on_an_alias_also_waits_for_what_was_deployed(
    connected: FakeFC, capsys: pytest.CaptureFixture[str]
) -> None:
    connected.state.aliases[NAME, "live"] = models.Alias(alias_name="live", version_id="1")
    connected.state.functions[NAME].last_update_status = "Failed"
    assert main(["wait-ready", "--qualifier", "live"]) == 1
    assert f"{NAME}@LATEST: last update Failed" in capsys.readouterr().err
