"""destroy: everything goes in an order that Function Compute allows, nobody is surprised, and it is looked at."""

from __future__ import annotations

import sys

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from fake_fc import FakeFC
from infra.__main__ import main
from infra.fc.client import FunctionCompute

NAME = "chatbot-llm"
ONE = models.PutProvisionConfigInput(default_target=1, always_allocate_cpu=False, always_allocate_gpu=False)


@pytest.fixture(autouse=True)
def _everything(connected: FakeFC, fc: FunctionCompute) -> None:
    """Five versions, two aliases with min instances, LATEST with one, a trigger."""
    for _ in range(5):
        version = fc.publish(NAME, "")
    for alias in ("live", "live-next"):
        fc.point_alias(NAME, alias, version)
        fc.put_provision(NAME, alias, ONE)
    fc.put_provision(NAME, "LATEST", ONE)
    connected.state.triggers[NAME] = [models.Trigger(trigger_name="http", trigger_type="http")]
    connected.state.log.clear()


def test_what_costs_goes_first_and_nothing_is_left(connected: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["destroy", "--yes"]) == 0
    state = connected.state
    assert not any((state.functions, state.aliases, state.provisions, state.triggers[NAME], state.versions[NAME]))
    assert state.writes()[:3] == ["DeleteProvisionConfig"] * 3
    out = capsys.readouterr().out
    for what in ("1 min instance(s) of live", "trigger http", "alias live-next", "version 5", f"function {NAME}"):
        assert f"  {what}\n" in out and f"deleted: {what}\n" in out
    assert f"{NAME} is gone" in out and "SLS project" in out


def test_without_somebody_to_ask_nothing_is_deleted(
    connected: FakeFC, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert main(["destroy"]) == 2
    assert connected.state.writes() == [] and "--yes" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "code"), [(NAME, 0), ("yes", 2), ("", 2)])
def test_the_functions_name_must_be_typed(
    connected: FakeFC, monkeypatch: pytest.MonkeyPatch, typed: str, code: int
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: typed)
    assert main(["destroy"]) == code
    assert (connected.state.functions == {}) is (code == 0)


def test_a_deletion_that_is_only_reported_is_a_failure(connected: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
    connected.state.keeps_functions = True
    assert main(["destroy", "--yes"]) == 1
    assert "is still there" in capsys.readouterr().err


def test_a_refusal_ends_it_with_fcs_words(connected: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
    connected.state.faults["DeleteTrigger"] = [(403, "AccessDenied")]
    assert main(["destroy", "--yes"]) == 3
    assert "AccessDenied" in capsys.readouterr().err and NAME in connected.state.functions


def test_twice_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["destroy", "--yes"]) == main(["destroy", "--yes"]) == 0
    assert f"there is no function {NAME}" in capsys.readouterr().out
