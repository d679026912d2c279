"""One thread that watches what a request's own thread cannot while it waits: the clock and the other end.

A WSGI thread blocked on the engine or on a slow reader notices neither that its client has gone nor that its time is
over. The kernel tells (EPOLLRDHUP) and this thread passes it on as `Call.abort`. It also cuts connections whose client
takes too long: to send a request, to read an answer, to go.

Frozen time does not count: FC stops the whole instance between requests, and a SIGSTOP does the same. A gap between two
ticks that is longer than a tick can be was a freeze, and every deadline moves by it.
"""

import logging
import select
import socket
import threading
import time
from contextlib import suppress

from chatbot_llm.serving.request import Call, Cause, Result, Signal

log = logging.getLogger(__name__)

#: Longest sleep between two looks at the clock, seconds.
TICK_S = 0.5
#: A look that comes this much later than it should was a freeze, seconds.
FREEZE_S = 3.0
#: How long an aborted call may take to hand over what it has, and a client to read it, seconds.
GRACE_S = 5.0

_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Watcher:
    """Deadlines and hang-ups of everything in flight."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._poll = select.epoll()
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._poll.register(self._wake_r, select.EPOLLIN)
        self._calls: dict[Call, socket.socket | None] = {}
        self._by_fd: dict[int, Call] = {}
        self._bounded: dict[socket.socket, float] = {}
        self._overdue: dict[Call, float] = {}
        self._last = time.monotonic()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.frozen_s = 0.0

    def start(self) -> None:
        if self._thread is None:
            self._last = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop watching and give the descriptors back."""
        self._closed = True
        if self._thread is not None:
            self._wake()
            self._thread.join()
        for held in (self._poll, self._wake_r, self._wake_w):
            held.close()

    def add(self, call: Call, sock: socket.socket | None) -> None:
        """Watch a call, and its client when the socket is known."""
        with self._lock:
            self._calls[call] = sock
            if sock is not None:
                self._bounded.pop(sock, None)
                fd = sock.fileno()
                if fd >= 0:
                    self._by_fd[fd] = call
                    with suppress(FileExistsError):
                        self._poll.register(fd, select.EPOLLRDHUP)
            soon = call.deadline - time.monotonic() < TICK_S
        if soon:
            self._wake()

    def remove(self, call: Call) -> None:
        """The call is over. Its socket must still be open, or have been closed by its own thread."""
        with self._lock:
            sock = self._calls.pop(call, None)
            self._overdue.pop(call, None)
            if sock is None:
                return
            for fd in [fd for fd, other in self._by_fd.items() if other is call]:
                del self._by_fd[fd]
                with suppress(OSError):
                    self._poll.unregister(fd)

    def reading(self, sock: socket.socket, until: float | None) -> None:
        """A client is being waited for: cut `sock` at `until` (monotonic seconds); None: it has done its part."""
        with self._lock:
            if until is None:
                self._bounded.pop(sock, None)
            else:
                self._bounded[sock] = until

    def __len__(self) -> int:
        return len(self._calls)

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            self._wake_w.send(b"x")

    def _run(self) -> None:
        while not self._closed:
            try:
                events = self._poll.poll(self._pause())
            except OSError:
                log.exception("the watcher's poll failed")
                time.sleep(TICK_S)
                continue
            self._notice_freeze()
            for fd, event in events:
                if fd == self._wake_r.fileno():
                    self._wake_r.recv(4096)
                elif event & _GONE:
                    self._hung_up(fd)
            self._tick(time.monotonic())

    def _pause(self) -> float:
        with self._lock:
            nearest = min((call.deadline for call in self._calls if call not in self._overdue), default=None)
        if nearest is None:
            return TICK_S
        return max(0.005, min(TICK_S, nearest - time.monotonic()))

    def _notice_freeze(self) -> None:
        now = time.monotonic()
        gap, self._last = now - self._last - TICK_S, now
        if gap < FREEZE_S:
            return
        with self._lock:
            self.frozen_s += gap
            for call in self._calls:
                call.thawed(gap)
            for table in (self._overdue, self._bounded):
                for key in table:
                    table[key] += gap  # type: ignore[index]
        log.info("the process was frozen for about %.0f s; deadlines moved with it", gap)

    def _hung_up(self, fd: int) -> None:
        with self._lock:
            if not _is_gone(fd):
                return  # closed since, and the number given to another connection
            call = self._by_fd.pop(fd, None)
            with suppress(OSError):
                self._poll.unregister(fd)
        if call is not None:
            call.abort(Cause.DISCONNECT)

    def _tick(self, now: float) -> None:
        with self._lock:
            due = [call for call in self._calls if call.deadline <= now and call not in self._overdue]
            for call in due:
                self._overdue[call] = now + GRACE_S
            stuck = [call for call, until in self._overdue.items() if until <= now]
            cut = [self._calls[call] for call in stuck]
            for call in stuck:
                self._overdue[call] = now + GRACE_S
            slow = [sock for sock, until in self._bounded.items() if until <= now]
            for sock in slow:
                del self._bounded[sock]
        for call in due:
            call.abort(Cause.DEADLINE)
        for call in stuck:
            # Neither the engine nor the client moved: the thread must come free all the same.
            call.put(Result(504, b""))
            call.put(Signal.END)
        for sock_ in [*(s for s in cut if s is not None), *slow]:
            with suppress(OSError):
                sock_.shutdown(socket.SHUT_RDWR)


def _is_gone(fd: int) -> bool:
    look = select.poll()
    look.register(fd, select.POLLRDHUP)
    return bool(look.poll(0))
