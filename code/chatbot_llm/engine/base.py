"""The states an engine goes through, and the parts of a start. What an engine does is in supervisor.py.

    NEW -> LOADING -> READY -> STOPPED
               \\--------\\--> FAILED      (never comes back: the process must end)

Times are in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    NEW = "new"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


class Phase(StrEnum):
    """The parts of a cold start, in order."""

    LISTEN = "listen"
    MODEL = "model"
    IMPORT = "import"
    CONFIG = "config"
    SPAWN = "spawn"
    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    COMPILE = "compile"
    WARM_UP = "warm_up"


@dataclass(frozen=True)
class Status:
    """A moment's view of the engine."""

    state: State
    phase: Phase | None
    phase_s: float
    reason: str
    phases: Mapping[str, float]
