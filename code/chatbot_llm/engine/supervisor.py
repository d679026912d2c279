"""What the real and the scripted engine share: loading behind the open port, the self-test, the watchdog, the end.

Nothing here imports vllm.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import threading
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import psutil

from chatbot_llm.engine.base import Engine, State, looks_degenerate
from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.errors import ApiError, UsageError
from chatbot_llm.settings import Settings
from chatbot_llm.sse import one_line

log = logging.getLogger(__name__)

#: Seconds between two looks at the engine's health.
WATCH_S = 0.25
#: Seconds between two pings of the engine's own loop.
PING_S = 5.0

T = TypeVar("T")


class SupervisedEngine(Engine):
    """Loads, watches and ends an engine that answers on this event loop."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._life: asyncio.Task[None] | None = None
        self._stack = contextlib.AsyncExitStack()

    # what an engine of this kind brings

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

    def _kill(self) -> None:
        """Kill the processes this engine has started, whatever state they are in."""

    # its life

    def _load(self) -> None:
        self._life = asyncio.get_running_loop().create_task(self._live(), name="engine")

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

    async def stop(self, timeout: float = 5.0) -> None:
        self._become(State.STOPPED)
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait({self._life}, timeout=timeout)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stack.aclose(), timeout)
        self._kill()

    # one request

    async def answer(self, request: EngineRequest) -> bytes | AsyncGenerator[bytes, None]:
        self.require_ready()
        try:
            answer = await self._answer(request)
        except ApiError:
            raise
        except Exception as error:
            raise self._explained(request, error) from None
        if isinstance(answer, str):
            return request.protocol.whole(request, answer).encode()
        return self._told(request, answer)

    async def _told(self, request: EngineRequest, events: AsyncGenerator[str, None]) -> AsyncGenerator[bytes, None]:
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
        except ApiError:
            raise
        except Exception as error:
            raise self._explained(request, error) from None

    def _explained(self, request: EngineRequest, error: Exception) -> ApiError:
        explained = self._explain(error, request.body)
        if explained.status >= 500:
            log.error("request %s failed in the engine: %s", request.id, explained.message)
        return explained


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that the process's end does not wait for, unlike `asyncio.to_thread`'s."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            # A library that leaves the process (SystemExit) must not end the loop with it.
            future.set_exception(error if isinstance(error, Exception) else RuntimeError(str(error)))

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await future


def kill_children() -> None:
    """Kill every descendant of this process: no process of an engine outlives it."""
    family = psutil.Process(os.getpid()).children(recursive=True)
    for child in family:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(family, timeout=1)
