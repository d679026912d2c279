"""cost: the table, and whose size it is for."""

from __future__ import annotations

from typing import Any

import pytest

from infra.__main__ import main
from infra.fc import template


def test_cost_needs_no_account_and_prints_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--vcpu", "4", "--memory", "16384", "--gpu-memory", "16384", "--disk", "10240"]
    assert main(["cost", *size, "--tokens-per-second", "200"]) == 0
    out = capsys.readouterr().out
    assert "15.84" in out and "3.80" in out and "0.02200" in out


def test_cost_refuses_more_hours_than_a_month_has(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--vcpu", "4", "--memory", "16384", "--gpu-memory", "16384", "--disk", "10240"]
    assert main(["cost", *size, "--hours-active", "700", "--hours-hibernated", "100"]) == 1
    assert "do not fit" in capsys.readouterr().err


def test_cost_takes_the_size_that_is_deployed(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(template, "render", lambda env: props)
    assert main(["cost"]) == 0
    gb = props["memorySize"] / 1024
    assert f"{props['cpu']} vCPU, {gb:g} GB" in capsys.readouterr().out
    assert main(["cost", "--vcpu", "16"]) == 0
    assert f"16 vCPU, {gb:g} GB" in capsys.readouterr().out
