"""cost: the table, for the size that is deployed."""

from __future__ import annotations

import pytest

from infra.__main__ import main
from infra.fc import template

T4 = {"cpu": 4, "memorySize": 16384, "diskSize": 10240, "gpuConfig": {"gpuMemorySize": 16384}}


@pytest.fixture(autouse=True)
def _of_s_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "render_any", lambda: T4)


def test_cost_needs_no_account_and_prints_size_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--tokens-per-second", "200"]) == 0
    out = capsys.readouterr().out
    assert "4 vCPU, 16 GB" in out and "15.84" in out and "3.80" in out and "0.02200" in out


def test_cost_refuses_more_hours_than_a_month_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--hours-active", "745"]) == 1
    assert "do not fit" in capsys.readouterr().err


def test_the_price_of_tokens_falls_with_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--tokens-per-second", "100"]) == 0
    assert "0.04400" in capsys.readouterr().out
    assert main(["cost", "--tokens-per-second", "0"]) == 1
    assert "above 0" in capsys.readouterr().err
