"""Figures: what tests measure on their way, for the tables of promises in README.md and tests/README.md.

A test says `figure("drain", seconds, "s")`, as often as it measures. That does nothing, unless FIGURES names a file:
then only the tests that measure run, in their long forms, and when all have passed the file holds what they said.
`FIGURES=/dev/stdout python -m pytest ID` shows it.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine

#: Where to write; "" when nobody asks.
FILE = os.environ.get("FIGURES", "")
#: Tests that can prove more in more time read this.
MEASURING = bool(FILE)

Figure = Callable[[str, float, str], None]


class Figures:
    """Everything measured in one run: name -> unit, values in their order, the tests that did."""

    def __init__(self) -> None:
        self.measured: dict[str, dict[str, Any]] = {}

    def __call__(self, name: str, value: float, unit: str) -> None:
        test = os.environ["PYTEST_CURRENT_TEST"].split(" ")[0].split("[")[0]
        known = self.measured.setdefault(name, {"unit": unit, "values": [], "tests": []})
        assert known["unit"] == unit, f"{name} is in {known['unit']} and in {unit}"
        known["values"].append(round(value, 4))
        if test not in known["tests"]:
            known["tests"].append(test)

    def write(self) -> None:
        when = datetime.datetime.now(datetime.UTC).date().isoformat()
        found = {"measured": {"when": when, **machine()}, "figures": dict(sorted(self.measured.items()))}
        Path(FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
