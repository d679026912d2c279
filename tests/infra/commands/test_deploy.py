"""deploy and release together: what callers reach, and how many instances are paid for, after each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from fake_account import deployed
from fake_acs3 import Refusal
from fake_fc import Control, FakeFC
from infra.__main__ import main
from infra.fc import serverless_devs
from infra.fc.client import FunctionCompute
from service_double import ServiceDouble

NAME = "chatbot-llm"
ONE = {"defaultTarget": 1, "alwaysAllocateCPU": False, "alwaysAllocateGPU": False}
FAST = ("--timeout", "5")


@pytest.fixture
def good() -> Iterator[ServiceDouble]:
    with ServiceDouble() as double:
        yield double


@pytest.fixture
def s(connected: FakeFC, good: ServiceDouble, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What fc3 does of s.yaml, in its order, on the fake account; `qualifier` is s.yaml's, `runs` its command lines."""
    state, control = connected.state, Control(connected.state)
    del state.functions[NAME]
    component: dict[str, Any] = {"qualifier": "live", "runs": [], "image": "v1", "update": "Successful"}

    def run(words: Sequence[str], env: Mapping[str, str]) -> int:
        component["runs"].append(" ".join(words))
        function = deployed()
        function.custom_container_config.image, function.last_update_status = component["image"], component["update"]
        state.functions[NAME] = function
        state.service = good.url
        if "--function" in words:
            return 0
        try:
            control.resolve(NAME, component["qualifier"])
        except Refusal:
            return 101  # a trigger cannot name an alias that is not there
        state.triggers[NAME] = [
            models.Trigger(
                trigger_name="http",
                trigger_type="http",
                qualifier=component["qualifier"],
                trigger_config='{"authType": "anonymous"}',
                http_trigger=models.HTTPTrigger(url_internet=good.url),
            )
        ]
        state.provisions[NAME, component["qualifier"]] = models.ProvisionConfig().from_map({**ONE, "target": 1})
        return 0

    monkeypatch.setattr(serverless_devs, "run", run)
    return component


@pytest.fixture
def paid(connected: FakeFC) -> Callable[[], dict[str, int]]:
    """Min instances by qualifier: each is paid by the hour."""
    return lambda: {name: int(config.target or 0) for (_, name), config in connected.state.provisions.items()}


def version(fake: FakeFC) -> str:
    return str(fake.state.aliases[NAME, "live"].version_id)


def test_from_the_first_deployment_on_one_instance_is_paid_for_and_callers_get_what_was_tried(
    connected: FakeFC, s: dict[str, Any], paid: Callable[[], dict[str, int]]
) -> None:
    assert main(["deploy", *FAST]) == 0
    assert s["runs"] == ["deploy --function config -y --skip-push", "deploy -y --skip-push"]
    assert (version(connected), paid()) == ("1", {"live": 1})

    s["image"] = "v2"
    assert main(["deploy", *FAST]) == 0
    assert s["runs"][2:] == ["deploy -y --skip-push"]
    assert (version(connected), paid()) == ("1", {"live": 1}), "callers still get what they had"

    connected.state.log.clear()
    assert main(["release", *FAST]) == 0
    assert (version(connected), paid()) == ("2", {"live": 1})
    wanted = [on for action, on, _ in connected.state.log if action == "PutProvisionConfig"]
    assert wanted == ["live-next"], "one more card, while the candidate is tried"


def test_a_release_that_fails_leaves_version_and_bill_as_they_were(
    connected: FakeFC, s: dict[str, Any], paid: Callable[[], dict[str, int]]
) -> None:
    assert main(["deploy", *FAST]) == 0
    with ServiceDouble("degenerate") as bad:
        connected.state.services["2"] = bad.url
        assert main(["release", *FAST]) == 1
    assert (version(connected), paid()) == ("1", {"live": 1})


def test_a_function_that_served_from_latest_is_taken_over(
    connected: FakeFC, s: dict[str, Any], paid: Callable[[], dict[str, int]]
) -> None:
    s["qualifier"] = "LATEST"
    assert main(["deploy", *FAST, "--qualifier", "LATEST"]) == 0
    assert paid() == {"LATEST": 1} and connected.state.aliases == {}
    s["qualifier"], s["image"] = "live", "v2"
    s["runs"].clear()
    assert main(["deploy", *FAST]) == 0
    assert s["runs"] == ["deploy -y --skip-push"], "the image that serves is not touched before the alias keeps it"
    assert (version(connected), paid()) == ("1", {"live": 1})


def test_a_deployment_is_not_over_before_latest_and_alias_stand(connected: FakeFC, s: dict[str, Any]) -> None:
    assert main(["deploy", *FAST]) == 0
    connected.state.ready_after = 1_000_000
    assert main(["deploy", "--timeout", "0.05"]) == 4


def test_an_update_that_function_compute_cannot_finish_fails_the_deployment_though_the_alias_stands(
    connected: FakeFC, s: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", *FAST]) == 0
    s["update"] = "Failed"  # such as an image that cannot be converted
    assert main(["deploy", *FAST]) == 1
    assert f"{NAME}@LATEST: last update Failed" in capsys.readouterr().err


def test_an_s_that_fails_is_a_failure_and_the_alias_stays(
    connected: FakeFC, s: dict[str, Any], fc: FunctionCompute, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", *FAST]) == 0
    s["qualifier"] = "an-alias-that-is-not-there"
    assert main(["deploy", *FAST]) == 1
    assert "`s deploy -y --skip-push` ended with 101" in capsys.readouterr().err
    assert version(connected) == "1"


def test_an_alias_that_answers_badly_fails_the_deployment(connected: FakeFC, s: dict[str, Any]) -> None:
    with ServiceDouble("degenerate") as bad:
        connected.state.services["1"] = bad.url
        assert main(["deploy", *FAST]) == 1


def test_a_smoke_test_without_a_key_that_fits_is_refused_before_anything_is_deployed(
    connected: FakeFC, s: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHATBOT_API_KEYS", "sha256:" + "0" * 64)
    assert main(["deploy", *FAST]) == 2
    monkeypatch.setenv("CHATBOT_API_KEY", "a-key-that-is-not-known")
    assert main(["deploy", *FAST]) == 2
    assert s["runs"] == [] and "a-key-that" not in capsys.readouterr().err
