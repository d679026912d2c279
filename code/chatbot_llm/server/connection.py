"""uvicorn's HTTP/1.1 connection, held to bounds and times, because uvicorn sets none; its refusals in the envelope.

Bounded here: bytes of a head, header fields, chunks of a body, requests sent ahead, connections (those that were never
used give way first, begun uploads last). Bytes of a body and of all bodies: door.py. Times, all by the one ticker, so
that frozen time does not count: until a request is wholly here, from its first byte, or from the connection's when it
has none; for a reader that takes nothing; for a client that goes on sending what was refused. Between two requests it
is uvicorn's keep-alive.
"""

import asyncio
import functools
import heapq
import json
import logging
import math
import resource
import socket
import time
from enum import IntEnum
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from chatbot_llm.engine.protocols import of_path
from chatbot_llm.errors import ApiError
from chatbot_llm.server.door import LINGER_S, Door
from chatbot_llm.settings import Settings

log = logging.getLogger(__name__)

#: FC takes 4 KB of path and query and 8 KB of headers (fc-docs 01/09); its own come on top.
MAX_URL = 4096 + 64
MAX_FIELD, MAX_FIELDS, MAX_HEAD = 8190, 64, 16 << 10
#: Chunks of one body. Honest clients send pieces of many KB; a chunk costs some microseconds whatever its size.
MAX_CHUNKS = 10_000
#: Requests that may be sent ahead of their answers on one connection.
MAX_PIPELINED = 8
#: Connections, as far as the process may have so many files; and how many unused ones are closed at once for new ones.
MAX_CONNECTIONS, ROOM = 1024, 16
#: How long a client that has shut its sending side is answered, seconds. It cannot be told from one that has gone.
HALF_CLOSED_S = 0.2

_TOO_LONG = (414, "the request line is longer than 4 KB")
_TOO_MANY = (431, "the headers are larger than 8 KB, or there are more than 64")
_CHUNKS = (413, f"the body comes in more than {MAX_CHUNKS} chunks: send larger ones")
_NOT_HTTP = (400, "the request is not valid HTTP/1.1")
_DRAINING = (503, "this instance is shutting down; send the request again")


class Use(IntEnum):
    """What a connection is used for, the first to give way first."""

    NEVER_USED = 0
    IDLE = 1
    HEAD = 2
    BODY = 3
    ANSWERING = 4


class _Refused(Exception):
    """Stops the parser amid its piece."""


class _UntilClose(RequestResponseCycle):
    """HTTP/1.0 knows no chunks: an answer without a length lasts until the connection is closed."""

    async def send(self, message: Any) -> None:
        self.chunked_encoding = False
        self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class Connection(HttpToolsProtocol):
    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._door: Door = config.app
        self._deadlines = self._door.service.deadlines
        self._limit_s = self._door.service.settings.read_timeout_s
        self.deadline = self._read_by = self._write_by = math.inf
        self._reading: Use | None = None
        self._head_bytes = self._fields = self._chunks = 0
        self._refusal = _NOT_HTTP
        #: Nothing more is read; the last answer, as long as others must go out before it.
        self._deaf = False
        self._last_answer = b""
        self._half_closed: asyncio.TimerHandle | None = None
        self._unanswered: list[RequestResponseCycle] = []

    @property
    def use(self) -> Use:
        """What the connection is used for now."""
        if len(self._unanswered) > (self._reading is Use.BODY):
            return Use.ANSWERING
        if self._deaf:
            return Use.NEVER_USED
        if self._reading is not None:
            return self._reading
        return Use.NEVER_USED if self.cycle is None else Use.IDLE

    # opening and closing

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= most_connections(self._door.service.settings):
            self._make_room()
        super().connection_made(transport)
        _notice_dead_peers(transport.get_extra_info("socket"), self._limit_s)
        self._wait(read_s=self._limit_s)

    def _make_room(self) -> None:
        """Close what is worth least, so that clients who only hold connections shut nobody out."""
        held = [other for other in self.connections if isinstance(other, Connection) and other.use < Use.ANSWERING]
        for place, other in enumerate(heapq.nsmallest(ROOM, held, key=lambda other: (other.use, other._read_by))):
            if place == 0 or other.use is Use.NEVER_USED:
                self.connections.discard(other)
                other.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for cycle in self._unanswered:  # uvicorn tells the newest alone
            cycle.disconnected = True
            cycle.message_event.set()
        self._unset_keepalive_if_required()  # after a reset uvicorn leaves that timer, which is long
        self._deadlines.remove(self)
        if self._half_closed is not None:
            self._half_closed.cancel()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: it gets what is answered at once, then it counts as gone."""
        if self.use < Use.BODY:
            return False
        self._half_closed = self.loop.call_later(HALF_CLOSED_S, self.transport.close)
        return True

    def shutdown(self) -> None:
        """The server ends: what is being answered goes on within the drain limit, everything else ends here."""
        if self._deaf and not self._last_answer:
            self.transport.abort()
        elif self.use is Use.BODY and not self.cycle.response_started:
            self._refuse(*_DRAINING)
            self.transport.close()
        else:
            super().shutdown()

    # reading

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        amid_body = self._reading is Use.BODY
        super().data_received(data)
        if self._reading is Use.HEAD and not amid_body:  # parts of a field that is not whole are nowhere else counted
            self._head_bytes += len(data)
            if self._head_bytes > MAX_URL + MAX_HEAD and not self._deaf:
                self._refuse(*_TOO_MANY)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading = Use.HEAD
        self._head_bytes = self._fields = self._chunks = 0
        self._wait(read_s=self._limit_s)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL:
            self._stop(_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not Use.HEAD:
            return  # a trailer: who reads headers has read them
        self._fields += 1
        self._head_bytes += len(name) + len(value)
        if self._fields > MAX_FIELDS or len(name) + len(value) > MAX_FIELD or self._head_bytes > MAX_HEAD:
            self._stop(_TOO_MANY)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            self._stop(_NOT_HTTP)
        super().on_headers_complete()
        self._reading = Use.BODY
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = _UntilClose
        self._unanswered.append(self.cycle)
        if len(self.pipeline) < MAX_PIPELINED:
            self.flow.resume_reading()  # else it would not be noticed that the client has gone

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            self._stop(_CHUNKS)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading = None
        self._wait(read_s=math.inf)

    # refusing

    def _stop(self, refusal: tuple[int, str]) -> None:
        self._refusal = refusal
        raise _Refused

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser stops."""
        self._refuse(*self._refusal)

    def _refuse(self, status: int, text: str) -> None:
        """Read no more, and answer so once all answers are out that are due before; then close."""
        log.info("refused what a client sent: %s", text)
        self._deaf = True
        path = getattr(self, "url", b"").partition(b"?")[0].decode("latin-1")
        body = json.dumps(of_path(path).envelope(ApiError(text, status=status))).encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        self._last_answer = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        if self._reading is Use.BODY:  # this is the answer to a request that has begun, and its only one
            if self.cycle.response_started:
                self.transport.close()
                return
            if self.pipeline:
                self.pipeline.popleft()
            self._unanswered.remove(self.cycle)
            self.cycle.disconnected = self.cycle.response_complete = True
            self.cycle.message_event.set()
        self._close_if_done()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unanswered = [cycle for cycle in self._unanswered if not cycle.response_complete]
        if not self.transport.is_closing():
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._unanswered:
            return
        if self._last_answer:
            self.transport.write(self._last_answer)
            self.transport.write_eof()
            self._last_answer = b""
            self._wait(read_s=LINGER_S)
        elif self._half_closed is not None:
            self.transport.close()

    # times

    def _wait(self, *, read_s: float | None = None, write_s: float | None = None) -> None:
        """Bound reading or writing, in seconds from now; `inf` takes the bound away."""
        now = time.monotonic()
        if read_s is not None:
            self._read_by = now + read_s
        if write_s is not None:
            self._write_by = now + write_s
        self.deadline = min(self._read_by, self._write_by)
        if self.deadline < math.inf:
            self._deadlines.add(self)
        else:
            self._deadlines.remove(self)

    def expire(self) -> None:
        if self._write_by > self._read_by and self.flow.read_paused:
            self._wait(read_s=self._limit_s)  # it is not the client who is late
        else:
            self.transport.abort()

    def thawed(self, gap: float) -> None:
        self._read_by += gap
        self._write_by += gap
        self.deadline += gap

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait(write_s=self._limit_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wait(write_s=math.inf)


@functools.cache
def most_connections(settings: Settings) -> int:
    """So many that everybody who may run or wait can, and the process has files left for its engine."""
    wanted = max(MAX_CONNECTIONS, 2 * (settings.max_running + settings.max_waiting))
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


def _notice_dead_peers(sock: socket.socket, within_s: float) -> None:
    """Let the kernel close a connection whose other end is gone without a word, or reads nothing for `within_s`."""
    third = max(1, int(within_s / 3))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, third)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, third)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(within_s * 1000))
