"""release: traffic moves only to a version that answered, and goes back when it then does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from fake_fc import FakeFC
from infra import ROOT
from infra.__main__ import main
from infra.commands.release import Release
from infra.commands.smoke import over_invoke
from infra.commands.wait_ready import wait_ready
from infra.errors import CheckFailed, TimedOut
from infra.fc.client import FunctionCompute
from service_double import ServiceDouble

NAME = "chatbot-llm"


@pytest.fixture
def good() -> Iterator[ServiceDouble]:
    with ServiceDouble() as double:
        yield double


@pytest.fixture
def bad() -> Iterator[ServiceDouble]:
    with ServiceDouble("degenerate") as double:
        yield double


@pytest.fixture(autouse=True)
def _answers(fake: FakeFC, good: ServiceDouble) -> None:
    fake.state.service = good.url
    fake.state.triggers[NAME] = [models.Trigger(trigger_type="http", qualifier="live")]


@pytest.fixture
def release(fc: FunctionCompute, monkeypatch: pytest.MonkeyPatch) -> Release:
    monkeypatch.setattr("infra.commands.wait_ready.POLL_S", 0.0)

    def smoke(qualifier: str) -> None:
        wrong = [result.fault for result in over_invoke(fc, NAME, qualifier) if result.fault]
        if wrong:
            raise CheckFailed(wrong[0])

    return Release(fc, NAME, "live", smoke, partial(wait_ready, fc, NAME))


@pytest.fixture
def running(release: Release, fake: FakeFC) -> FakeFC:
    """Version 1 has the traffic, and its alias has its own min instances."""
    release.run()
    fake.state.log.clear()
    return fake


def points_to(fake: FakeFC, alias: str = "live") -> str | None:
    found = fake.state.aliases.get((NAME, alias))
    return found.version_id if found else None


def no_candidate_is_left(fake: FakeFC) -> bool:
    return (NAME, "live-next") not in fake.state.aliases | fake.state.provisions


def test_the_first_release_makes_the_alias_with_its_own_hibernating_instance(release: Release, fake: FakeFC) -> None:
    assert release.run(description="v1.2.0") == "1"
    assert fake.state.versions[NAME][0].description == "v1.2.0"
    assert points_to(fake) == "1"
    config = fake.state.provisions[NAME, "live"]
    assert (config.default_target, config.always_allocate_cpu, config.always_allocate_gpu) == (
        1,
        False,
        False,
    )
    assert no_candidate_is_left(fake)


def test_the_alias_takes_over_count_and_schedules_of_latest(release: Release, fake: FakeFC) -> None:
    action = models.ScheduledAction(name="morning", target=4, schedule_expression="cron(0 0 8 * * *)")
    fake.state.provisions[NAME, "LATEST"] = models.ProvisionConfig(
        default_target=2, target=2, scheduled_actions=[action]
    )
    release.run()
    config = fake.state.provisions[NAME, "live"]
    assert config.default_target == 2
    assert [action.name for action in config.scheduled_actions] == ["morning"]


def test_the_candidate_is_tried_before_the_alias_moves(release: Release, running: FakeFC) -> None:
    running.state.log.clear()
    assert release.run() == "2"
    order = [(action, on) for action, on, _ in running.state.log if action in ("InvokeFunction", "UpdateAlias")]
    assert order[0] == ("InvokeFunction", "live-next")
    assert order.index(("UpdateAlias", "")) > order.index(("InvokeFunction", "live-next"))
    assert order[-1] == ("InvokeFunction", "live")
    assert points_to(running) == "2"


def test_the_aliass_own_min_instances_are_left_as_they_are(release: Release, running: FakeFC) -> None:
    running.state.provisions[NAME, "live"].default_target = 3
    release.run()
    assert running.state.provisions[NAME, "live"].default_target == 3


def test_a_bad_version_never_gets_traffic(release: Release, running: FakeFC, bad: ServiceDouble) -> None:
    running.state.services["2"] = bad.url
    with pytest.raises(CheckFailed, match="degenerate"):
        release.run()
    assert points_to(running) == "1"
    assert "UpdateAlias" not in running.state.actions()
    assert no_candidate_is_left(running)


def fail_on(release: Release, qualifier: str) -> Callable[[str], None]:
    """A smoke that passes everywhere but on one qualifier."""

    def smoke(tried: str) -> None:
        if tried == qualifier:
            raise CheckFailed("trigger answers 502")

    return smoke


def test_failure_on_the_alias_puts_version_and_weights_back(release: Release, running: FakeFC) -> None:
    running.state.aliases[NAME, "live"].additional_version_weight = {"1": 0.1}
    release.smoke = fail_on(release, "live")
    with pytest.raises(CheckFailed, match="version 2 failed on live, back to version 1: trigger answers 502"):
        release.run()
    assert points_to(running) == "1"
    assert running.state.aliases[NAME, "live"].additional_version_weight == {"1": 0.1}
    assert no_candidate_is_left(running)


def test_a_failed_first_release_leaves_nothing_behind(release: Release, fake: FakeFC) -> None:
    release.smoke = fail_on(release, "live")
    with pytest.raises(CheckFailed, match="removed again"):
        release.run()
    assert fake.state.aliases == {} and fake.state.provisions == {}


def test_min_instances_given_to_an_old_alias_are_taken_back_on_failure(release: Release, running: FakeFC) -> None:
    del running.state.provisions[NAME, "live"]
    release.smoke = fail_on(release, "live")
    with pytest.raises(CheckFailed, match="back to version 1"):
        release.run()
    assert (NAME, "live") not in running.state.provisions


def test_a_candidate_that_never_stands_ends_the_release(release: Release, running: FakeFC) -> None:
    running.state.ready_after = 10_000
    release.wait = partial(wait_ready, release.fc, NAME, timeout_s=0)
    with pytest.raises(TimedOut, match="live-next is not ready"):
        release.run()
    assert points_to(running) == "1" and no_candidate_is_left(running)


def test_an_interrupted_release_is_cleaned_up(release: Release, running: FakeFC) -> None:
    def cancelled(qualifier: str) -> None:
        raise KeyboardInterrupt

    release.smoke = cancelled
    with pytest.raises(KeyboardInterrupt):
        release.run()
    assert points_to(running) == "1" and no_candidate_is_left(running)


def test_an_interruption_after_the_move_moves_back(release: Release, running: FakeFC) -> None:
    def cancelled_on_live(qualifier: str) -> None:
        if qualifier == "live":
            raise KeyboardInterrupt

    release.smoke = cancelled_on_live
    with pytest.raises(CheckFailed, match="back to version 1: interrupted"):
        release.run()
    assert points_to(running) == "1" and no_candidate_is_left(running)


def test_a_candidate_that_cannot_be_removed_fails_the_command(release: Release, running: FakeFC) -> None:
    running.state.faults["DeleteProvisionConfig"] = [(403, "AccessDenied")]
    with pytest.raises(CheckFailed, match="live-next could not be removed.*goes on costing"):
        release.run()
    assert points_to(running) == "2"


def test_an_existing_version_can_be_released_to_go_back(release: Release, running: FakeFC) -> None:
    release.run()
    release.run(version="1")
    assert points_to(running) == "1"
    assert len(running.state.versions[NAME]) == 2


def test_releasing_what_is_there_already_is_refused(release: Release, running: FakeFC) -> None:
    with pytest.raises(CheckFailed, match="already points to version 1"):
        release.run(version="1")
    assert running.state.writes() == []


def test_throttles_on_the_way_do_not_fail_a_release(release: Release, running: FakeFC) -> None:
    for action in ("PublishFunctionVersion", "CreateAlias", "PutProvisionConfig", "UpdateAlias"):
        running.state.faults[action] = [(429, "ResourceThrottled")]
    assert release.run() == "2"


@pytest.mark.parametrize("qualifier", ["LATEST", "other", None])
def test_a_release_that_no_caller_would_reach_is_refused_before_it_costs(
    connected: FakeFC, capsys: pytest.CaptureFixture[str], qualifier: str | None
) -> None:
    connected.state.triggers[NAME] = [models.Trigger(trigger_type="http", qualifier=qualifier)] if qualifier else []
    assert main(["release"]) == 1
    assert f"they point to {qualifier or 'nothing'}" in capsys.readouterr().err
    assert connected.state.writes() == []


def test_release_reports_the_version(connected: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
    with ServiceDouble() as double:
        connected.state.service = double.url
        assert main(["release", "--description", "v1"]) == 0
    out = capsys.readouterr().out
    assert f"{NAME}@live is version 1" in out


def test_a_failed_clean_up_does_not_hide_why_there_was_one(
    connected: FakeFC, capsys: pytest.CaptureFixture[str]
) -> None:
    connected.state.faults["DeleteProvisionConfig"] = [(403, "AccessDenied")]
    with ServiceDouble("degenerate") as double:
        connected.state.service = double.url
        assert main(["release"]) == 1
    err = capsys.readouterr().err
    assert "degenerate answer" in err and "goes on costing" in err


def test_a_cancelled_release_removes_its_candidate(fake: FakeFC) -> None:
    fake.state.ready_after = 1_000_000
    process = subprocess.Popen(
        [sys.executable, "-m", "infra", "release", "--endpoint", fake.url],
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
