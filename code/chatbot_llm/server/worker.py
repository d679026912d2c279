"""gunicorn's threaded worker, held to more promises: no thread waits for a client, SIGTERM drains, death is told.

A connection gets a thread when its request is wholly here; until then, and after its last answer, the poller keeps it.
Bound to gunicorn 27, whose methods this overrides; the tests in `tests/contract` hold every one of them against the
real gunicorn.
"""

import errno
import json
import logging
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker

from chatbot_llm.app import service_of
from chatbot_llm.arrival import Arrival, judge
from chatbot_llm.engine.base import State
from chatbot_llm.errors import envelope
from chatbot_llm.serving.service import Service

log = logging.getLogger(__name__)

#: Exit status of a worker whose engine is dead (sysexits.h, EX_SOFTWARE); the master then ends too (`child_exit`).
HALT = 70
#: How long answers to in-flight calls may take after the engine has died, seconds.
LAST_WORDS_S = 2.0
#: How long a client may take to close a connection that the service has closed, seconds.
LINGER_S = 2.0
#: Most bytes taken from one socket at a time.
GULP = 1 << 18


class Worker(ThreadWorker):  # type: ignore[misc]
    """One per instance: it holds the engine."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answering = 0
        self._count = threading.Lock()
        fields = self.cfg.limit_request_fields * (self.cfg.limit_request_field_size + 4)
        self._most_head = self.cfg.limit_request_line + fields

    @property
    def service(self) -> Service:
        return service_of(self.wsgi)

    # taking requests in

    def accept(self, listener: Any) -> None:
        if self.nr_conns >= self.worker_connections - 1:
            self._evict()
        super().accept(listener)

    def _evict(self) -> None:
        """Close the oldest connection that is waited for, so that clients who only hold connections shut nobody out."""
        for conns in (self.pending_conns, self.keepalived_conns):
            if conns:
                conn = conns.popleft()
                with suppress(OSError, KeyError, ValueError):
                    self.poller.unregister(conn.sock)
                self.service.watcher.reading(conn.sock, None)
                self.nr_conns -= 1
                conn.close()
                return

    def handle(self, conn: TConn) -> Any:
        """Serve the connection's next request if it is wholly here, else hand it back to the poller."""
        watcher, settings = self.service.watcher, self.service.settings
        if not conn.initialized:
            _notice_dead_peers(conn.sock, settings.read_timeout_s)
            conn.init()
            conn.came = conn.left = conn.told = False
        try:
            data, open_ = _take(conn)
        except OSError:
            data, open_ = b"", False
        if conn.left:
            return self._wait_or_close(conn, open_)
        arrival = judge(data, self._most_head, settings.max_body_bytes)
        if arrival is Arrival.EXPECTS and not conn.told:
            conn.told = True
            with suppress(OSError):
                conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if arrival in (Arrival.PARTIAL, Arrival.EXPECTS):
            if data and not conn.came:
                conn.came = True
                watcher.reading(conn.sock, time.monotonic() + settings.read_timeout_s)
            return self._wait_or_close(conn, open_)
        conn.came = conn.told = False
        conn.unread = arrival is Arrival.TOO_LARGE
        watcher.reading(conn.sock, time.monotonic() + settings.read_timeout_s)  # what could not be judged may block
        with self._count:
            self._answering += 1
        try:
            keep = super().handle(conn)
        finally:
            watcher.reading(conn.sock, None)
            with self._count:
                self._answering -= 1
        return keep or self._leave(conn)

    def _wait_or_close(self, conn: TConn, open_: bool) -> Any:
        if open_ and self.alive:
            return _DEFER
        self.service.watcher.reading(conn.sock, None)
        return False

    def _leave(self, conn: TConn) -> Any:
        """End our side, and let the poller wait for the client's: gunicorn's own loop would stand still meanwhile."""
        try:
            conn.sock.shutdown(socket.SHUT_WR if self.alive else socket.SHUT_RDWR)
        except OSError:
            return False
        if not self.alive:
            return False
        conn.left = True
        self.service.watcher.reading(conn.sock, time.monotonic() + LINGER_S)
        return _DEFER

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        return not conn.unread and super()._keepalive_after(conn, keepalive)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        req.version = min(req.version, (1, 1))  # gunicorn answers in the client's version; RFC 9110 2.5: in our own
        try:
            return super().handle_request(req, conn)
        except TimeoutError as error:  # the kernel gave the client up; gunicorn knows such an end by another number
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from None

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """gunicorn's own refusals, in the envelope. Neither log nor answer repeats what the client sent."""
        status, text = refusal(exc)
        if status == 500:
            log.error("unexpected error outside of the app", exc_info=exc)
        else:
            log.info("refused a request that is not HTTP: %s", type(exc).__name__)
        body = json.dumps(envelope(status, text)).encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        with suppress(OSError):
            client.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)

    @property
    def answering(self) -> int:
        """Requests whose answer is not out yet."""
        return self._answering

    # ending

    def _cap_keepalive(self, deadline: float) -> None:
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:  # else a connection that never sent anything would hold up the exit
            conn.timeout = min(conn.timeout, deadline)

    def handle_exit(self, sig: int, frame: Any) -> None:
        threading.Thread(target=self._drain, name="drain", daemon=True).start()
        super().handle_exit(sig, frame)

    def _drain(self) -> None:
        self.service.drain(self.service.settings.drain_s)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT, SIGINT, a second SIGTERM, the master's death: end at once."""
        self.service.engine.stop(timeout=0.5)
        os._exit(0)


def refusal(error: Exception) -> tuple[int, str]:
    """(status, message) for what gunicorn's parser refused; 500 for anything that is not the client's doing."""
    if isinstance(error, LimitRequestLine):
        return 414, "the request line is longer than 4 KB"
    if isinstance(error, LimitRequestHeaders):
        return 431, "the headers are larger than 8 KB, or there are more than 64"
    if isinstance(error, ExpectationFailed):
        return 417, "Expect: only 100-continue is understood"
    if isinstance(error, UnsupportedTransferCoding):
        return 501, "Transfer-Encoding: only chunked is understood"
    if isinstance(error, ParseException) and not isinstance(error, InvalidResponseHeader | InvalidResponseHeaderName):
        return 400, "the request is not valid HTTP/1.1"
    return 500, "an unexpected error; the log has its details"


def _notice_dead_peers(sock: socket.socket, within_s: float) -> None:
    """Let the kernel close a connection whose other end is gone without a word, or reads nothing for `within_s`."""
    third = max(1, int(within_s / 3))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, third)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, third)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(within_s * 1000))


def _take(conn: TConn) -> tuple[bytes, bool]:
    """Everything that has come of the next request, and whether more may come. Never waits."""
    unreader, sock = conn.parser.unreader, conn.sock
    sock.setblocking(False)
    pieces = [unreader.take_buffered()]
    open_ = True
    with suppress(BlockingIOError):
        pieces.append(sock.recv(GULP))
        open_ = pieces[-1] != b""
    data = b"".join(pieces)
    if not conn.left:
        unreader.unread(data)
    return data, open_


def begin(worker: Worker) -> None:
    """Load behind the open port; a dead engine ends the process, so that FC replaces the instance."""
    service = worker.service
    was_ready = threading.Event()

    def engine_changed(state: State) -> None:
        if state is State.READY:
            was_ready.set()
        if state is State.FAILED:
            wait = 0.2 if was_ready.is_set() else LAST_WORDS_S  # FC may be about to call /initialize
            threading.Thread(target=_give_up, args=(worker, wait), name="give-up").start()

    service.engine.on_change(engine_changed)
    service.begin()


def _give_up(worker: Worker, wait_s: float) -> None:
    """End the process once everybody has been told why."""
    from chatbot_llm.engine.supervisor import kill_children

    end = time.monotonic() + LAST_WORDS_S
    time.sleep(wait_s)
    while worker.answering and time.monotonic() < end:
        time.sleep(0.02)
    reason = worker.service.engine.status().reason
    log.critical("ending this process: %s", reason)
    print(f"chatbot-llm: {reason}", file=sys.stderr, flush=True)
    kill_children()
    os._exit(HALT)
