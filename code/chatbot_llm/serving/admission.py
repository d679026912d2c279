"""How many requests may run, how many may wait, until when, and in which order.

First come, first served. A call that may run finds `Signal.GRANTED` in its inbox. While the engine loads nobody runs,
everybody waits inside their own call (FC freezes an instance that has no request in flight).
No HTTP and no engine in here.
"""

import math
import threading
import time
from collections import deque

from chatbot_llm.errors import Overloaded, Unavailable
from chatbot_llm.serving.request import Call, Signal

#: Bounds of Retry-After, seconds: a client should neither hammer nor give up.
RETRY_MIN, RETRY_MAX = 1, 120
#: Weight of the newest service time in the running mean.
SMOOTHING = 0.2
#: Assumed service time before anything was measured, seconds.
FIRST_GUESS_S = 5.0


class Admission:
    """Slots for `max_running` calls and places for `max_waiting` more."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self.max_running = max_running
        self.max_waiting = max_waiting
        self._lock = threading.Condition()
        self._running: set[Call] = set()
        self._waiting: deque[Call] = deque()
        self._open = False
        self._closed = False
        self._draining = False
        self._service_s = FIRST_GUESS_S

    def enter(self, call: Call) -> None:
        """Take a slot or a place in the queue. Raises Overloaded (429) or, draining, Unavailable (503)."""
        with self._lock:
            if self._draining:
                raise Unavailable(
                    "this instance is shutting down; send the request again", code="draining", retry_after=RETRY_MIN
                )
            if self._closed:
                raise Unavailable(
                    "the engine is gone; send the request again", code="engine_unavailable", retry_after=5
                )
            if self._open and not self._waiting and len(self._running) < self.max_running:
                self._grant(call)
            elif len(self._waiting) < self.max_waiting + (0 if self._open else self.max_running):
                self._waiting.append(call)
            else:
                raise Overloaded(
                    f"{len(self._running)} requests are running and {len(self._waiting)} are waiting; try again later",
                    code="overloaded",
                    retry_after=self._retry_after(),
                )

    def leave(self, call: Call) -> None:
        """Give back the slot or the place. Calling it twice does no harm."""
        with self._lock:
            if call in self._running:
                self._running.discard(call)
                if call.granted_at is not None:
                    self._service_s += SMOOTHING * (time.monotonic() - call.granted_at - self._service_s)
            elif call in self._waiting:
                self._waiting.remove(call)
            self._fill()
            self._lock.notify_all()

    def open(self) -> None:
        """The engine is ready: let those who waited in."""
        with self._lock:
            self._open = True
            self._fill()

    def close(self) -> list[Call]:
        """The engine is gone: nobody gets a slot any more. Returns the calls that were waiting."""
        with self._lock:
            self._open, self._closed = False, True
            waiting = list(self._waiting)
            self._waiting.clear()
            return waiting

    def drain(self) -> None:
        """Refuse what comes from now on; what is in stays in."""
        with self._lock:
            self._draining = True

    def wait_empty(self, timeout: float) -> bool:
        """Block until nothing runs or waits; False when `timeout` seconds were not enough."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._running and not self._waiting, timeout)

    def inside(self) -> list[Call]:
        with self._lock:
            return [*self._running, *self._waiting]

    def retry_after(self) -> int:
        """Whole seconds after which a slot is likely to be free, from measured service times."""
        with self._lock:
            return self._retry_after()

    @property
    def draining(self) -> bool:
        return self._draining

    def counts(self) -> tuple[int, int]:
        """(running, waiting)"""
        with self._lock:
            return len(self._running), len(self._waiting)

    def _retry_after(self) -> int:
        ahead = len(self._waiting) + 1
        return min(RETRY_MAX, max(RETRY_MIN, math.ceil(self._service_s * ahead / self.max_running)))

    def _grant(self, call: Call) -> None:
        self._running.add(call)
        call.granted_at = time.monotonic()
        call.put(Signal.GRANTED)

    def _fill(self) -> None:
        while self._open and self._waiting and len(self._running) < self.max_running:
            self._grant(self._waiting.popleft())
