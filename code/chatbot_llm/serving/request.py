"""The life of one request to the engine, for every route alike: slot, engine, end, log line.

It runs in the task of its connection. Ending it early is one act everywhere, `end(cause)`: a deadline or a drain makes
the engine finish with what it has, everything else cancels the task, and who is cancelled looks here for the reason.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from chatbot_llm.engine.base import State
from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.errors import ApiError, Unavailable
from chatbot_llm.observability import tracing
from chatbot_llm.rag import answering
from chatbot_llm.rag.documents import Documents
from chatbot_llm.serving.admission import Cause
from chatbot_llm.serving.service import GRACE_S, Service

log = logging.getLogger("chatbot_llm.request")

#: nginx's "client closed request"; nobody reads it, the log does.
CLIENT_GONE = 499
#: Seconds between two tries to cut a request short: before its prompt is rendered the engine does not know it.
CUT_AGAIN_S = 0.1


@dataclass(eq=False, repr=False)
class Request:
    """One request. `route` names it in the log; `platform` holds what Function Compute said of it,
    `documents` what its answer is to rest on.

    Times are seconds on the clock of `time.monotonic`, frozen time left out.
    """

    service: Service
    engine_request: EngineRequest
    route: str
    arrived: float
    deadline: float
    platform: dict[str, str]
    documents: Documents | None = None
    granted_at: float | None = None
    first_at: float | None = None
    cause: Cause | None = None
    _task: asyncio.Task[object] | None = None
    _cutting: asyncio.Task[None] | None = None
    _over: bool = False
    _running: int = 0
    _card_s: float = 0.0

    def __post_init__(self) -> None:
        self._span = tracing.Span(self.route, self.engine_request.trace, time.monotonic() - self.arrived)

    # its way

    def prepare(self) -> None:
        """Check the body at once, if the engine can already: not only when it has a slot. Raises BadRequest."""
        if self.service.engine.status().state is State.READY:
            try:
                self.service.engine.prepare(self.engine_request)
            except ApiError as error:
                raise self._refused(error) from None

    async def run(self) -> "bytes | Stream":
        """Wait for a slot, then for the whole answer or for the first event. Raises ApiError."""
        self._task = asyncio.current_task()
        self.service.deadlines.add(self)
        try:
            return await self._run()
        except asyncio.CancelledError:
            error = self._ended()
        except ApiError as raised:
            # vLLM takes the end of its task for the client's going, and says so (400) to one that is still there.
            error = self._ended() if self.is_ended else raised
        except BaseException:
            self.close("internal_error")
            raise
        raise self._refused(error)

    async def _run(self) -> "bytes | Stream":
        engine, request = self.service.engine, self.engine_request
        await self.service.admission.enter(self)
        self.granted_at = time.monotonic()
        self._running = self.service.admission.counts()[0]
        if request.prepared is None:
            engine.prepare(request)
        if self.documents is None:
            answer = await engine.answer(request)
        else:
            answer = await answering.answer(engine, request, self.documents)
        if isinstance(answer, bytes):
            self.close(self.cause or "ok")
            return answer
        stream = Stream(self, answer)
        await stream.begin()
        self.first_at = time.monotonic()
        return stream

    def _refused(self, error: ApiError) -> ApiError:
        error = self.engine_request.protocol.in_words(error)
        self.close(error.code or str(error.status))
        return error

    # its end

    def end(self, cause: Cause) -> None:
        """End it early; the first cause counts."""
        if self._over or self.cause is not None or self._task is None:
            return
        self.cause = cause
        if self.granted_at is not None and cause in (Cause.DEADLINE, Cause.DRAIN):
            self._cutting = asyncio.create_task(self._cut())
        else:
            self._task.cancel()

    async def _cut(self) -> None:
        self.engine_request.cut = True
        until = time.monotonic() + GRACE_S
        while time.monotonic() < until:
            await self.service.engine.cut_short(self.engine_request)
            await asyncio.sleep(CUT_AGAIN_S)
        assert self._task is not None
        self._task.cancel()

    @property
    def is_ended(self) -> bool:
        """Whether its task was ended from outside, whatever has become of the cancellation since."""
        return self.cause is not None or bool(self._task and self._task.cancelling())

    def _ended(self) -> ApiError:
        """What its caller is answered after its task was cancelled."""
        if self.cause is None:  # its connection did, whose client has gone
            self.cause = Cause.DISCONNECT
        elif self._task is not None:
            self._task.uncancel()  # there is somebody to answer
        status = self.service.engine.status()
        running = self.granted_at is not None
        if self.cause is Cause.DISCONNECT:
            return ApiError("the client has gone", status=CLIENT_GONE, code="disconnect")
        if self.cause is Cause.ENGINE and running:
            return ApiError(status.reason or "the engine was stopped", code="engine_error")
        if running:
            return ApiError("the request was ended before an answer", status=504, code="deadline_exceeded")
        if status.state is not State.READY:
            return self.service.not_ready()
        if self.cause is Cause.DRAIN:
            return Unavailable("this instance is shutting down; send the request again", code="draining", retry_after=1)
        return Unavailable(
            "no slot came free before the request's deadline; try again later",
            code="deadline_exceeded",
            retry_after=self.service.admission.retry_after(),
        )

    def expire(self) -> None:
        self.end(Cause.DEADLINE)

    def thawed(self, gap: float) -> None:
        self.deadline += gap
        self.arrived += gap
        if self.granted_at is not None:
            self.granted_at += gap
        if self.first_at is not None:
            self.first_at += gap

    def close(self, outcome: str) -> None:
        """Give everything back and write the request's one log line. Does nothing the second time."""
        if self._over:
            return
        self._over = True
        if self._cutting is not None:
            self._cutting.cancel()
        service, request, now = self.service, self.engine_request, time.monotonic()
        service.deadlines.remove(self)
        self._card_s = service.admission.card_s(self)
        service.admission.leave(self, None if self.granted_at is None else now - self.granted_at)
        metrics = service.metrics
        metrics.requests.labels(self.route, outcome).inc()
        metrics.seconds.labels(self.route).observe(now - self.arrived)
        if self.granted_at is not None:
            metrics.queue.observe(self.granted_at - self.arrived)
        if self.first_at is not None:
            metrics.first.observe(self.first_at - self.arrived)
        cold = service.answered == 0
        service.answered += 1
        names = [card["id"] for card in service.engine.models()] or [""]
        fields = {
            "msg": "request",
            "route": self.route,
            "model": request.body["model"] if request.body.get("model") in names else names[0],
            "outcome": str(outcome),
            "request_id": request.request_id,
            "id": request.id,
            "stream": request.stream,
            "cold": cold,
            **self.platform,
            "running": self._running,
            **request.usage,
            **request.prefix,
            **{f"{name}_ms": value for name, value in self.times().items()},
        }
        log.info("request", extra={"fields": fields})
        self._span.end(fields)

    def times(self) -> dict[str, float]:
        """Milliseconds: waiting for a slot, until the first token, decoding, its share of the card, all so far."""
        now = time.monotonic()
        spans: dict[str, float] = {}
        if self.granted_at is not None:
            spans["queue"] = (self.granted_at - self.arrived) * 1000
            if self.first_at is not None:
                spans["ttft"] = (self.first_at - self.granted_at) * 1000
                spans["decode"] = (now - self.first_at) * 1000
        spans |= self.engine_request.timing
        spans["card"] = 1000 * (self._card_s or self.service.admission.card_s(self))
        spans["total"] = (now - self.arrived) * 1000
        return {name: round(value, 1) for name, value in spans.items()}


@dataclass(eq=False, repr=False)
class Stream:
    """The events of a streamed answer; `aclose` gives everything back, however far it was read."""

    request: Request
    events: AsyncGenerator[bytes, None]
    change: Callable[[bytes], bytes] | None = None
    _first: bytes | None = None
    _ended: bool = False
    _failed: bool = False

    async def begin(self) -> None:
        """Wait for the first event. Raises what the engine raises instead of one."""
        try:
            self._first = await anext(self.events)
        except StopAsyncIteration:
            raise ApiError("the engine ended the request without an answer", code="engine_error") from None

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        event, self._first = self._first, None
        if event is None:
            event = await self._next()
        self._ended = self.request.engine_request.protocol.ends(event)
        return event if self.change is None else self.change(event)

    async def _next(self) -> bytes:
        try:
            return await anext(self.events)
        except asyncio.CancelledError:
            if self.request.cause is None:
                raise
            error = self.request._ended()
        except ApiError as raised:
            error = self.request._ended() if self.request.is_ended else raised
        except StopAsyncIteration:
            error = ApiError("the engine ended the answer without its last event", code="engine_error")
        self._failed = True
        request = self.request.engine_request
        return request.protocol.failure(request, request.protocol.in_words(error))

    async def aclose(self) -> None:
        request = self.request
        try:
            await self.events.aclose()
        finally:
            if self._failed and request.cause in (None, Cause.ENGINE):
                request.close(Cause.ENGINE)
            else:
                # A client may leave at the last event: it has missed nothing.
                request.close(request.cause or ("ok" if self._ended else Cause.DISCONNECT))
