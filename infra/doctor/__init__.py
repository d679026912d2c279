"""What is wrong with a deployment and can be seen before it: s.yaml and the environment.

An error is refused by Function Compute, or works and is not what was meant; a warning is a choice worth a second look.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """`path` is the key to change; `sentence` goes on from there: what is wrong, and what to write."""

    level: Literal["error", "warning"]
    path: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.level}: {self.path} {self.sentence}"


error = partial(Finding, "error")
warning = partial(Finding, "warning")
