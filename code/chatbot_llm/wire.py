"""The short way of a stream's chunks: from the engine's loop straight onto the socket, while the client keeps up.

A thread that sleeps until the next chunk must be woken for each, which costs more than writing it. So the request's
thread writes the head and the first chunk, and then sleeps until something but a chunk comes. When the client is slower
than the engine, the socket takes no more: from there on chunks go through the call's inbox again and the thread waits
for the client, until it has caught up. Chunks of one turn of the loop are sent together.

Knows the framing of HTTP/1.1 chunks (RFC 9112, 7.1) and nothing else of HTTP.
"""

import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rest:
    """Bytes that the socket did not take at once, framed already: they must be out before anything else."""

    data: bytes


class Wire:
    """One stream's socket. `soon(f)` calls `f` in the engine's loop after what runs there now."""

    def __init__(
        self, sock: socket.socket, inbox: "queue.SimpleQueue[Any]", soon: Callable[[Callable[[], None]], object]
    ) -> None:
        self._sock = sock
        self._inbox = inbox
        self._soon = soon
        self._lock = threading.Lock()
        self._pending: list[bytes] = []
        self._open = False
        self._shut = False

    def open(self) -> None:
        """In the request's thread, all that it has taken from the inbox being out: chunks may go straight out."""
        with self._lock:
            self._open = not self._shut and self._inbox.empty()

    def take(self, chunk: bytes) -> bool:
        """In the engine's loop: whether the chunk goes this way."""
        with self._lock:
            if not self._open:
                return False
            self._pending.append(chunk)
            if len(self._pending) == 1:
                self._soon(self.flush)
            return True

    def hold(self) -> bytes:
        """In the request's thread, before it writes: nobody else does until `open`. Returns what must be out first."""
        with self._lock:
            self._open = False
            return self._send()

    def flush(self) -> None:
        """Send what is pending, without waiting; what does not go goes to the request's thread."""
        with self._lock:
            if rest := self._send():
                self._open = False
                self._inbox.put(Rest(rest))

    def _send(self) -> bytes:
        if not self._pending:
            return b""
        data = b"".join(self._pending)
        self._pending.clear()
        frame = b"%X\r\n%b\r\n" % (len(data), data)
        try:
            return frame[self._sock.send(frame, socket.MSG_DONTWAIT) :]
        except OSError:  # full, or broken: the thread's own write will tell
            return frame

    def shut(self) -> None:
        """Nothing goes this way any more: the socket may be closed, and its number given to another."""
        with self._lock:
            self._shut, self._open = True, False
            self._pending.clear()
