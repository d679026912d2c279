"""The life of one request, from admission to its last byte, for every route alike.

socket -> route -> `exchange` -> admission -> engine -> inbox -> `exchange` -> socket
"""

import logging
import socket
import time
from collections.abc import Callable, Iterator

from chatbot_llm.engine.base import State
from chatbot_llm.errors import ApiError, Unavailable, envelope, sse_event
from chatbot_llm.observability import tracing
from chatbot_llm.serving.request import Call, Cause, Result, Signal
from chatbot_llm.serving.service import Service
from chatbot_llm.wire import Rest, Wire

log = logging.getLogger("chatbot_llm.request")

#: nginx's "client closed request"; nobody reads it, the log does.
CLIENT_GONE = 499


class Exchange:
    """Runs one call. `route` names it in the log; `fc` holds what the platform said of it."""

    def __init__(self, service: Service, call: Call, route: str, fc: dict[str, str]) -> None:
        self._service = service
        self.call = call
        self._route = route
        self._fc = fc
        self._over = False
        self._span = tracing.Span(route, call.trace, time.monotonic() - call.arrived)
        self.outcome = ""
        self.prompts: list[str] = []

    def run(self, sock: socket.socket | None) -> "Result | Stream":
        """Block until the whole answer or the first chunk is here. Raises ApiError."""
        try:
            answer = self._run(sock)
        except ApiError as error:
            self.close(error.code or str(error.status))
            raise
        except BaseException:
            self.close("internal_error")
            raise
        if isinstance(answer, Result):
            self.close(self._verdict(answer.status))
        return answer

    def _run(self, sock: socket.socket | None) -> "Result | Stream":
        call, service = self.call, self._service
        if service.engine.status().state is State.READY:
            service.engine.prepare(call)  # a wrong request is told so at once, not after waiting for a slot
        service.admission.enter(call)
        service.watcher.add(call, sock)
        self._wait_for_slot()
        if call.prepared is None:
            service.engine.prepare(call)
        service.engine.submit(call)
        first = self.next()
        if isinstance(first, Result):
            if not first.body:
                raise Unavailable("the engine did not answer in time", status=504, code="deadline_exceeded")
            return first
        if isinstance(first, bytes):
            call.first_at = time.monotonic()
            return Stream(self, first)
        if call.cause is Cause.DISCONNECT:
            raise ApiError("the client has gone", status=CLIENT_GONE, code="client_gone")
        raise ApiError("the engine ended the request without an answer", code="engine_error")

    def _wait_for_slot(self) -> None:
        item = self.call.next()
        if item is Signal.GRANTED and self.call.cause is None:
            return
        cause = self.call.cause
        if cause is Cause.DISCONNECT:
            raise ApiError("the client has gone", status=CLIENT_GONE, code="client_gone")
        status = self._service.engine.status()
        if status.state is not State.READY:
            raise self._service.not_ready()
        if cause is Cause.DRAIN:
            raise Unavailable("this instance is shutting down; send the request again", code="draining", retry_after=1)
        raise Unavailable(
            "no slot came free before the request's deadline; try again later",
            code="deadline_exceeded",
            retry_after=self._service.admission.retry_after(),
        )

    def next(self) -> Result | bytes | Signal | Rest:
        """The next thing the engine says."""
        while True:
            item = self.call.next()
            if not isinstance(item, Cause):
                return item
            # The engine was told as well and will say END; a client that has gone need not wait for it.
            if item is Cause.DISCONNECT:
                return Signal.END

    def _verdict(self, status: int) -> str:
        if self.call.cause is not None:
            return self.call.cause.value
        if self.call.failed:
            return "engine_error"
        return "ok" if status < 400 else ("engine_error" if status >= 500 else "refused")

    def close(self, outcome: str = "") -> None:
        """Give everything back and write the request's one log line. Does nothing the second time."""
        if self._over:
            return
        self._over = True
        call, service = self.call, self._service
        call.done = True
        service.watcher.remove(call)
        service.admission.leave(call)
        self.outcome = outcome or self._verdict(200)
        total = time.monotonic() - call.arrived
        metrics = service.metrics
        metrics.requests.labels(self._route, self.outcome).inc()
        metrics.seconds.labels(self._route).observe(total)
        if call.granted_at is not None:
            metrics.queue.observe(call.granted_at - call.arrived)
        if call.first_at is not None:
            metrics.first.observe(call.first_at - call.arrived)
        cold = service.answered == 0
        service.answered += 1
        names = [card["id"] for card in service.engine.models()] or [""]
        fields = {
            "msg": "request",
            "route": self._route,
            "model": call.body["model"] if call.body.get("model") in names else names[0],
            "outcome": self.outcome,
            "request_id": call.request_id,
            "id": call.id,
            "stream": call.stream,
            "cold": cold,
            **self._fc,
            **call.usage,
            **{f"{name}_ms": value for name, value in self.times().items()},
        }
        log.info("request", extra={"fields": fields})
        self._span.end(fields)

    def times(self) -> dict[str, float]:
        """Milliseconds: waiting for a slot, until the first token, decoding, all so far."""
        call = self.call
        now = time.monotonic()
        spans: dict[str, float] = {}
        if call.granted_at is not None:
            spans["queue"] = (call.granted_at - call.arrived) * 1000
            if call.first_at is not None:
                spans["ttft"] = (call.first_at - call.granted_at) * 1000
                spans["decode"] = (now - call.first_at) * 1000
        spans |= {
            {"time_to_first_token": "ttft", "generation": "decode", "queue": "engine_queue"}[name]: value
            for name, value in call.timing.items()
        }
        spans["total"] = (now - call.arrived) * 1000
        return {name: round(value, 1) for name, value in spans.items()}


class Stream:
    """The body of a streamed answer: an iterator that gives everything back when it is closed."""

    def __init__(self, exchange: Exchange, first: bytes) -> None:
        self.exchange = exchange
        self._first: bytes | None = first
        self._tail: object = None
        self._ended = False
        self.change: Callable[[bytes], bytes] | None = None
        self._sock: socket.socket | None = None

    def shorten(self, sock: socket.socket) -> None:
        """Let chunks go straight onto `sock`, framed as HTTP/1.1 chunks, whenever this iterator is waited for."""
        call = self.exchange.call
        if self.change is None and call.soon is not None and sock.gettimeout() is None:
            self._sock = sock
            call.wire = Wire(sock, call.inbox, call.soon)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._chunk()
        return chunk if self.change is None else self.change(chunk)

    def _chunk(self) -> bytes:
        if self._ended:
            raise StopIteration
        item: object = self._first
        self._first = None
        if item is None:
            item, self._tail = self._tail, None
        if item is None:
            item = self._next()
        if isinstance(item, bytes):
            joined, self._tail = self.exchange.call.more(item)
            if isinstance(self._tail, Cause):
                self._tail = Signal.END if self._tail is Cause.DISCONNECT else None
            return joined
        self._ended = True
        if isinstance(item, Result):
            return sse_event(envelope(504, "the engine did not finish in time", code="deadline_exceeded"))
        raise StopIteration

    def _next(self) -> object:
        """The next item that this thread must write or end with, whatever goes straight onto the socket meanwhile."""
        wire = self.exchange.call.wire
        if wire is None or self._sock is None:
            return self.exchange.next()
        while True:
            wire.open()
            item = self.exchange.next()
            rest = wire.hold() if not isinstance(item, Rest) else item.data
            if rest:
                self._sock.sendall(rest)
            if not isinstance(item, Rest):
                return item

    def close(self) -> None:
        """Called by the server when the last byte is out or the client has gone."""
        if (wire := self.exchange.call.wire) is not None:
            wire.shut()
        if not self._ended:
            self.exchange.call.abort(Cause.DISCONNECT)
        # Clients may leave at the last event, before this thread has heard of it: that is no answer cut short.
        self.exchange.close("ok" if self._ended and self.exchange.call.whole else "")
