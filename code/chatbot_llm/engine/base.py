"""What the service may ask of any engine, and the states an engine goes through.

    NEW -> LOADING -> READY -> STOPPED
               \\--------\\--> FAILED      (never comes back: the process must end)

Everything here runs on the process's one event loop, but `prepare` and `status`, which any thread may call.
Nothing here may import Flask, gunicorn or vllm, nor anything of the rooms above.
"""

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.errors import Unavailable


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
    """A moment's view of the engine. Times are seconds."""

    state: State
    phase: Phase | None
    phase_s: float
    reason: str = ""
    phases: Mapping[str, float] | None = None


class Engine(ABC):
    """Base of all engines: the state machine, the phase clock and the waiting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # phases are entered from other threads
        self._settled = asyncio.Event()
        self._state = State.NEW
        self._reason = ""
        self._phase: Phase | None = None
        self._phase_since = 0.0
        self._phases: dict[str, float] = {}
        self._listeners: list[Callable[[State], None]] = []

    # what the service calls

    def start(self) -> None:
        """Begin loading and return at once. Further calls change nothing."""
        if self._state is State.NEW:
            self._state = State.LOADING
            self._enter(Phase.MODEL)
            self._load()

    async def wait(self, timeout: float | None = None) -> Status:
        """Return once loading is over, or after `timeout` seconds."""
        try:
            await asyncio.wait_for(self._settled.wait(), timeout)
        except TimeoutError:
            pass
        return self.status()

    def status(self) -> Status:
        with self._lock:
            loading = self._state is State.LOADING
            return Status(
                state=self._state,
                phase=self._phase if loading else None,
                phase_s=round(time.monotonic() - self._phase_since, 3) if loading and self._phase else 0.0,
                reason=self._reason,
                phases=dict(self._phases),
            )

    def on_change(self, listener: Callable[[State], None]) -> None:
        """Call `listener(state)` after READY, FAILED or STOPPED is reached."""
        self._listeners.append(listener)

    @abstractmethod
    def models(self) -> list[dict[str, Any]]:
        """The served models as OpenAI model cards; the first is the default."""

    @abstractmethod
    def version(self) -> dict[str, str]:
        """Versions of the engine and what it runs on."""

    @abstractmethod
    def text_of(self, tokens: list[int]) -> str:
        """The text of token ids. Raises BadRequest when there is none; the engine must be ready."""

    @abstractmethod
    def template(self) -> tuple[str, tuple[str, ...]]:
        """The source of the chat template, and the tokens that are not text; the engine must be ready."""

    @abstractmethod
    def prepare(self, request: EngineRequest) -> None:
        """Check `request.body` without running it. Raises BadRequest."""

    @abstractmethod
    async def answer(self, request: EngineRequest) -> bytes | AsyncGenerator[bytes, None]:
        """Run a prepared request: the whole answer as JSON, or server-sent events. Raises ApiError.

        Cancelling the task that waits ends the request in the engine, and so does closing the generator.
        """

    @abstractmethod
    async def cut_short(self, request: EngineRequest) -> None:
        """Make a running request finish now with what it has, if the engine has begun it."""

    @abstractmethod
    async def stop(self, timeout: float = 5.0) -> None:
        """End every thread and process of the engine within about `timeout` seconds."""

    # what an engine calls

    @abstractmethod
    def _load(self) -> None:
        """Begin loading in the background."""

    def _enter(self, phase: Phase) -> None:
        """Close the running phase and open the next. From any thread."""
        with self._lock:
            self._close_phase()
            self._phase, self._phase_since = phase, time.monotonic()

    def _close_phase(self) -> None:
        if self._phase is not None:
            spent = time.monotonic() - self._phase_since
            self._phases[self._phase] = round(self._phases.get(self._phase, 0.0) + spent, 3)
        self._phase = None

    def _become(self, state: State, reason: str = "") -> None:
        """Move to a final or ready state; FAILED and STOPPED are never left."""
        if self._state in (State.FAILED, State.STOPPED):
            return
        with self._lock:
            self._close_phase()
            self._state, self._reason = state, reason
        self._settled.set()
        for listener in self._listeners:
            listener(state)

    def require_ready(self) -> None:
        status = self.status()
        if status.state is not State.READY:
            raise Unavailable(
                f"the engine is {status.state}: {status.reason or 'not ready'}", code="engine_unavailable"
            )


def looks_degenerate(text: str) -> str:
    """Why generated `text` is garbage, or "" when it is not.

    Qwen GPTQ-Int4 in float16 without the Marlin kernel is known to answer "!!!!!!" (vllm#14126): NaN logits make
    token 0, which is "!", win every time.
    """
    words = text.strip()
    if not words:
        return "the engine generated no text"
    if len(words) >= 6 and len(set(words)) == 1:
        return f"the engine generated only {words[0]!r}"
    return ""
