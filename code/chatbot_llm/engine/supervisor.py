"""An engine that lives on an event loop in one background thread: all that is the same for the real and the scripted.

Requests cross over with `call_soon_threadsafe`; answers come back through the call's inbox. Whatever happens to a
request, its inbox gets an END. Nothing here imports vllm.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import threading
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator
from typing import Any

import psutil

from chatbot_llm.engine.base import Engine, State, looks_degenerate
from chatbot_llm.errors import ApiError, Unavailable, UsageError, envelope, sse_event
from chatbot_llm.serving.request import Call, Cause, Result, Signal
from chatbot_llm.settings import Settings

log = logging.getLogger(__name__)

#: Seconds between two looks at the engine's health.
WATCH_S = 0.25
#: Seconds between two pings of the engine's loop.
PING_S = 5.0
#: The last event of every stream, and what an event that ends a choice holds.
DONE, FINISH = "data: [DONE]\n\n", '"finish_reason":"'
#: Tries, 0.1 s apart, to make the engine hand over what it has.
CUT_TRIES = 20


class LoopEngine(Engine):
    """Runs calls as tasks of one event loop."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._halt: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # what an engine of this kind brings

    @abstractmethod
    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        """Make the engine ready; what must be undone goes on `stack`."""

    @abstractmethod
    async def _answer(self, call: Call) -> Result | AsyncGenerator[str, None]:
        """Run a prepared call: a whole answer, or server-sent events ready to send. Raises for errors."""

    @abstractmethod
    async def _cut_short(self, call: Call) -> None:
        """Make the running call finish now with what it has."""

    @abstractmethod
    def _mark_cut(self, chunk: str) -> bytes:
        """Render a chunk of a call that was cut short: its finish reason is `length`."""

    def _account(self, call: Call) -> None:
        """Fill in `call.usage` after a stream; the engine may not know it."""

    @abstractmethod
    def _death(self) -> str:
        """Why the engine is dead, or ""."""

    @abstractmethod
    async def _ping(self) -> None:
        """Return when the engine's own loop has turned once."""

    def _kill(self) -> None:
        """Kill the processes this engine has started, whatever state they are in."""

    @abstractmethod
    def _explain(self, error: Exception, body: Any) -> ApiError:
        """What a caller is told about an exception of the engine."""

    # the thread

    def _load(self) -> None:
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                runner.run(self._live())
        except (Exception, SystemExit) as error:
            reason = str(error) or type(error).__name__
            if not isinstance(error, UsageError):
                log.error("the engine failed: %s", reason, exc_info=error)
            self._become(State.FAILED, reason)

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._halt = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            await self._open(stack)
            if self._settings.self_test:
                await self._self_test()
            # What loading left behind lives as long as the process: keep the collector from walking it.
            gc.collect()
            gc.freeze()
            self._become(State.READY)
            reason = await self._guard()
            if reason:
                self._become(State.FAILED, reason)
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=WATCH_S)
            if reason:
                self._kill()

    async def _self_test(self) -> None:
        """Generate a few words; raises RuntimeError when they are garbage."""
        body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 8}
        call = Call("chat", {**body, "temperature": 0}, deadline=float("inf"), request_id="self-test")
        self.prepare(call)
        await self._serve(call)
        result = call.next()
        if not isinstance(result, Result) or result.status != 200:
            raise RuntimeError(f"the self-test failed: {result!r:.500}")
        text = json.loads(result.body)["choices"][0]["message"]["content"] or ""
        if problem := looks_degenerate(text):
            raise RuntimeError(
                f"{problem}: on a T4 set VLLM_MARLIN_INPUT_DTYPE=int8, or pass --linear-backend exllama "
                "(README, Troubleshooting)"
            )

    async def _guard(self) -> str:
        """Watch the engine until told to stop (""), or until it is dead or silent (the reason)."""
        assert self._halt is not None
        ping: asyncio.Task[None] | None = None
        looks = 0
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._halt.wait(), WATCH_S)
                return ""
            if reason := self._death():
                return f"the engine died: {reason}"
            # Looks are counted, not seconds: a frozen process must not take its own sleep for the engine's.
            looks += 1
            if ping is None:
                if looks * WATCH_S >= PING_S:
                    ping, looks = asyncio.ensure_future(self._ping()), 0
            elif ping.done():
                if error := ping.exception():
                    return f"the engine died: {error}"
                ping, looks = None, 0
            elif looks * WATCH_S >= self._settings.hang_s:
                return f"the engine has not answered for {self._settings.hang_s:g} s"

    # one call

    def submit(self, call: Call) -> None:
        self.require_ready()
        assert self._loop is not None
        call.soon = self._loop.call_soon

        def begin() -> None:
            task = asyncio.ensure_future(self._serve(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            call.on_abort = lambda cause: self._abort(call, task, cause)
            if call.cause is not None:
                self._abort(call, task, call.cause)

        try:
            self._loop.call_soon_threadsafe(begin)
        except RuntimeError:  # the loop has closed since
            raise Unavailable("the engine is gone; send the request again", code="engine_unavailable") from None

    def _abort(self, call: Call, task: "asyncio.Task[None]", cause: Cause) -> None:
        """End one request, from any thread: silently for a client that has gone, else with what it has."""
        loop = self._loop
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the call
            if loop is not None and cause is Cause.DISCONNECT:
                loop.call_soon_threadsafe(task.cancel)
            elif loop is not None:
                loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._cut(call, task)))

    async def _cut(self, call: Call, task: "asyncio.Task[None]") -> None:
        # Before the prompt is rendered the engine knows nothing of the call, hence the tries.
        for _ in range(CUT_TRIES):
            await self._cut_short(call)
            done, _pending = await asyncio.wait({task}, timeout=0.1)
            if done:
                return
        task.cancel()

    async def _serve(self, call: Call) -> None:
        """Run one call to its end. Whatever happens, the call's inbox gets an END."""
        begun = finished = False
        try:
            answer = await self._answer(call)
            if isinstance(answer, Result):
                call.put(answer)
                return
            async with contextlib.aclosing(answer):
                async for chunk in answer:
                    begun = True
                    if call.cause is None:
                        call.whole = chunk == DONE  # before a client can see it, and go
                        call.put(chunk.encode())
                    else:
                        if chunk == DONE and not finished:
                            call.put(self._finish(call))
                        call.put(self._mark_cut(chunk))
                    finished = finished or FINISH in chunk
            self._account(call)
        except asyncio.CancelledError:
            _fail(call, begun, self._ended(call) or ApiError("the engine dropped the request", code="engine_error"))
        except ApiError as error:
            # vLLM takes the end of its task for the client's going, and says so (400) to one that is still there.
            _fail(call, begun, self._ended(call) or error)
        except Exception as error:
            told = self._explain(error, call.body)
            if told.status >= 500:
                log.error("request %s failed in the engine: %s", call.id, told.message)
            _fail(call, begun, told)
        finally:
            call.put(Signal.END)

    def _ended(self, call: Call) -> ApiError | None:
        """Why a call that could not be answered was ended from outside, if it was."""
        now = self.status()
        if now.state in (State.FAILED, State.STOPPED):
            return ApiError(now.reason or "the engine was stopped", code="engine_error")
        if call.cause is not None:
            return ApiError("the request was ended before an answer", status=504, code="deadline_exceeded")
        return None

    def _finish(self, call: Call) -> bytes:
        """The event that ends every choice, for a stream cut before the engine said a word."""
        chat = call.kind == "chat"
        empty: dict[str, object] = {"delta": {}} if chat else {"text": ""}
        event = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{call.id}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": self.models()[0]["id"],
            "choices": [
                {"index": at, **empty, "logprobs": None, "finish_reason": "length"}
                for at in range(int(call.body.get("n") or 1))
            ],
        }
        return f"data: {json.dumps(event, separators=(',', ':'))}\n\n".encode()

    # the end

    def stop(self, timeout: float = 5.0) -> None:
        if self.status().state is State.LOADING:
            timeout = 0.0  # loading does not look up; its processes are killed below, its thread ends with this one
        self._become(State.STOPPED)
        loop, halt = self._loop, self._halt
        if loop is not None and halt is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(halt.set)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        self._kill()


def _fail(call: Call, begun: bool, error: ApiError) -> None:
    if call.whole:
        return  # nothing may follow the last event
    told = envelope(error.status, error.message, param=error.param, code=error.code, **error.extra)
    call.failed = begun
    call.put(sse_event(told) if begun else Result(error.status, json.dumps(told).encode()))


def kill_children() -> None:
    """Kill every descendant of this process: no process of an engine outlives it."""
    family = psutil.Process(os.getpid()).children(recursive=True)
    for child in family:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(family, timeout=1)
