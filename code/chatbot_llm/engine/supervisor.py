"""What the service may ask of any engine, and what all of them share: loading behind the open port, watchdog, end.

Everything here runs on the process's one event loop, but `prepare`, `status` and `_enter`, which any thread may call.
Nothing here may import Flask, gunicorn or vllm, nor anything of the rooms above.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import psutil

from chatbot_llm.engine.base import Phase, State, Status
from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.errors import ApiError, Unavailable, UsageError
from chatbot_llm.settings import Settings
from chatbot_llm.sse import one_line

log = logging.getLogger(__name__)

#: Seconds between two looks at the engine's health.
WATCH_S = 0.25
#: Seconds between two pings of the engine's own loop.
PING_S = 5.0

T = TypeVar("T")


class Engine(ABC):
    """Loads, watches and ends an engine that answers on this event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()  # phases are entered from other threads
        self._settled = asyncio.Event()
        self._state = State.NEW
        self._reason = ""
        self._phase: Phase | None = None
        self._phase_since = 0.0
        self._phases: dict[str, float] = {}
        self._listeners: list[Callable[[State], None]] = []
        self._life: asyncio.Task[None] | None = None
        self._stack = contextlib.AsyncExitStack()

    # what the service calls

    def start(self) -> None:
        """Begin loading and return at once. Further calls change nothing."""
        if self._state is State.NEW:
            self._state = State.LOADING
            self._enter(Phase.MODEL)
            self._life = asyncio.get_running_loop().create_task(self._live(), name="engine")

    async def wait(self, timeout: float | None = None) -> Status:
        """Return once loading is over, or after `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), timeout)
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

    async def answer(self, request: EngineRequest) -> bytes | AsyncGenerator[bytes, None]:
        """Run a prepared request: the whole answer as JSON, or server-sent events. Raises ApiError.

        Cancelling the task that waits ends the request in the engine, and so does closing the generator.
        """
        if self._state is not State.READY:
            reason = f"the engine is {self._state}: {self._reason or 'not ready'}"
            raise Unavailable(reason, code="engine_unavailable")
        try:
            answer = await self._answer(request)
        except Exception as error:
            raise self._explained(request, error) from None
        if isinstance(answer, str):
            return request.protocol.whole(request, answer).encode()
        return self._as_bytes(request, answer)

    async def stop(self, timeout: float = 5.0) -> None:
        """End every thread and process of the engine within about `timeout` seconds."""
        self._become(State.STOPPED)
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait({self._life}, timeout=timeout)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stack.aclose(), timeout)
        self._kill()

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
    async def cut_short(self, request: EngineRequest) -> None:
        """Make a running request finish now with what it has, if the engine has begun it."""

    # what an engine brings

    @abstractmethod
    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        """Make the engine ready; what must be undone goes on `stack`."""

    @abstractmethod
    async def _answer(self, request: EngineRequest) -> str | AsyncGenerator[str, None]:
        """Run a prepared request: a whole answer (JSON), or server-sent events. Raises for errors."""

    @abstractmethod
    def _death(self) -> str:
        """Why the engine is dead, or ""."""

    @abstractmethod
    async def _ping(self) -> None:
        """Return when the engine's own loop has turned once."""

    @abstractmethod
    def _explain(self, error: Exception, body: Any) -> ApiError:
        """What a caller is answered for an exception of the engine."""

    @abstractmethod
    def _kill(self) -> None:
        """Kill the processes this engine has started, whatever state they are in."""

    # its life

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

    async def _live(self) -> None:
        try:
            await self._open(self._stack)
            if self._settings.self_test:
                await self._self_test()
        except Exception as error:
            reason = str(error) or type(error).__name__
            if not isinstance(error, UsageError):
                log.error("the engine failed: %s", reason, exc_info=error)
            self._kill()
            self._become(State.FAILED, reason)
            return
        # What loading left behind lives as long as the process: keep the collector from walking it.
        gc.collect()
        gc.freeze()
        self._become(State.READY)
        reason = await self._watch()
        self._become(State.FAILED, reason)
        self._kill()

    async def _self_test(self) -> None:
        """Generate a few words; raises RuntimeError when they are garbage."""
        body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 8}
        request = EngineRequest(PROTOCOLS["chat"], {**body, "temperature": 0}, request_id="self-test")
        self.prepare(request)
        answer = await self._answer(request)
        assert isinstance(answer, str)
        text = json.loads(answer)["choices"][0]["message"]["content"] or ""
        if problem := looks_degenerate(text):
            raise RuntimeError(
                f"{problem}: on a T4 set VLLM_MARLIN_INPUT_DTYPE=int8, or pass --linear-backend exllama "
                "(code/README.md, Troubleshooting)"
            )

    async def _watch(self) -> str:
        """Watch the engine until it is dead or silent; returns the reason."""
        ping: asyncio.Task[None] | None = None
        looks = 0
        while True:
            await asyncio.sleep(WATCH_S)
            if reason := self._death():
                return f"the engine died: {reason}"
            # Looks are counted, not seconds: a frozen process must not take its own sleep for the engine's.
            looks += 1
            if ping is None:
                if looks * WATCH_S >= PING_S:
                    ping, looks = asyncio.create_task(self._ping()), 0
            elif ping.done():
                if error := ping.exception():
                    return f"the engine died: {error}"
                ping, looks = None, 0
            elif looks * WATCH_S >= self._settings.hang_s:
                return f"the engine has not answered for {self._settings.hang_s:g} s"

    # one request

    async def _as_bytes(self, request: EngineRequest, events: AsyncGenerator[str, None]) -> AsyncGenerator[bytes, None]:
        """The events as the caller reads them, none of them empty."""
        protocol, finished = request.protocol, False
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    piece = one_line(protocol.reworded(request, event)).encode()
                    finished = finished or protocol.finish in event
                    if request.cut and not finished and protocol.ends(piece):
                        piece = protocol.unbegun(request, self.models()[0]["id"]).encode() + piece
                    if piece:
                        yield piece
        except Exception as error:
            raise self._explained(request, error) from None

    def _explained(self, request: EngineRequest, error: Exception) -> ApiError:
        if isinstance(error, ApiError):
            return error
        explained = self._explain(error, request.body)
        if explained.status >= 500:
            log.error("request %s failed in the engine: %s", request.id, explained.message)
        return explained


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


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that the process's end does not wait for, unlike `asyncio.to_thread`'s."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # who waits may be cancelled, the thread goes on

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            # A library that leaves the process (SystemExit) must not end the loop with it.
            future.set_exception(error if isinstance(error, Exception) else RuntimeError(str(error)))

    threading.Thread(target=run, name="load", daemon=True).start()
    return await asyncio.wrap_future(future)


def kill_children() -> None:
    """Kill every descendant of this process: no process of an engine outlives it."""
    family = psutil.Process(os.getpid()).children(recursive=True)
    for child in family:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(family, timeout=1)
