"""How many requests may run, how many may wait, and in which order: first come, first served; why one leaves early.

While the engine loads nobody runs, everybody waits inside their own request (FC freezes an instance that has no request
in flight). No HTTP and no engine in here. All on the event loop.
"""

import asyncio
import math
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from chatbot_llm.errors import Overloaded, Unavailable

#: Bounds of Retry-After, seconds: a client should neither hammer nor give up.
RETRY_MIN, RETRY_MAX = 1, 120
#: Weight of the newest service time in the running mean.
SMOOTHING = 0.2
#: Assumed service time before anything was measured, seconds.
FIRST_GUESS_S = 5.0


class Cause(StrEnum):
    """Why a request ended before the model was done."""

    DEADLINE = "deadline"
    DISCONNECT = "disconnect"
    DRAIN = "drain"
    ENGINE = "engine_error"


class Admitted(Protocol):
    """What can hold a slot."""

    def end(self, cause: Cause) -> None:
        """End it early."""


class Admission:
    """Slots for `max_running` requests and places for `max_waiting` more. `clock`: seconds, frozen time left out."""

    def __init__(self, max_running: int, max_waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_running = max_running
        self.max_waiting = max_waiting
        self.draining = False
        self._clock, self._since, self._shared_s = clock, clock(), 0.0
        #: What runs, and what `_share_s` said when it was let in.
        self._running: dict[Admitted, float] = {}
        self._waiting: dict[Admitted, asyncio.Future[None]] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._open = False
        self._closed = False
        self._service_s = FIRST_GUESS_S

    async def enter(self, request: Admitted) -> None:
        """Return once `request` has a slot. Raises Overloaded (429) or, draining or closed, Unavailable (503).

        Whoever calls this calls `leave` in the end, also when waiting was cancelled.
        """
        if self.draining:
            raise Unavailable(
                "this instance is shutting down; send the request again", code="draining", retry_after=RETRY_MIN
            )
        if self._closed:
            raise Unavailable("the engine is gone; send the request again", code="engine_unavailable", retry_after=5)
        if self._open and not self._waiting and len(self._running) < self.max_running:
            self._running[request] = self._share_s()
            self._empty.clear()
        elif len(self._waiting) < self.max_waiting + (0 if self._open else self.max_running):
            granted = self._waiting[request] = asyncio.get_running_loop().create_future()
            self._empty.clear()
            await granted
        else:
            raise Overloaded(
                f"{len(self._running)} requests are running and {len(self._waiting)} are waiting; try again later",
                code="overloaded",
                retry_after=self.retry_after(),
            )

    def leave(self, request: Admitted, service_s: float | None = None) -> None:
        """Give back the slot, held for `service_s` seconds, or the place. Calling it twice does no harm."""
        if request in self._running:
            self._share_s()
            del self._running[request]
            if service_s is not None:
                self._service_s += SMOOTHING * (service_s - self._service_s)
        elif self._waiting.pop(request, None) is None:
            return
        self._fill()
        if not self._running and not self._waiting:
            self._empty.set()

    def open(self) -> None:
        """The engine is ready: let those who waited in."""
        self._open = True
        self._fill()

    def close(self) -> None:
        """The engine is gone: nobody gets a slot any more."""
        self._open, self._closed = False, True

    def drain(self) -> None:
        """Refuse what comes from now on; what is in stays in."""
        self.draining = True

    async def wait_empty(self, timeout: float) -> bool:
        """Return True once nothing runs or waits, False when `timeout` seconds were not enough."""
        try:
            await asyncio.wait_for(self._empty.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def inside(self) -> list[Admitted]:
        """Everything that runs or waits."""
        return [*self._running, *self._waiting]

    def counts(self) -> tuple[int, int]:
        """(running, waiting)"""
        return len(self._running), len(self._waiting)

    def card_s(self, request: Admitted) -> float:
        """Seconds of the card that a running request has had: of each second its share, 1/n while n run."""
        return self._share_s() - self._running[request] if request in self._running else 0.0

    def _share_s(self) -> float:
        """A clock that goes by 1/n of a second in a second in which n run, and stands while none does."""
        now = self._clock()
        if self._running:
            self._shared_s += (now - self._since) / len(self._running)
        self._since = now
        return self._shared_s

    def retry_after(self) -> int:
        """Whole seconds after which a slot is likely to be free, from measured service times."""
        ahead = len(self._waiting) + 1
        return min(RETRY_MAX, max(RETRY_MIN, math.ceil(self._service_s * ahead / self.max_running)))

    def _fill(self) -> None:
        while self._open and self._waiting and len(self._running) < self.max_running:
            request = next(iter(self._waiting))
            granted = self._waiting.pop(request)
            self._running[request] = self._share_s()
            if not granted.done():  # else its task was cancelled, and is about to leave
                granted.set_result(None)
