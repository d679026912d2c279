"""One ticker on the loop for everything that must be over by some time: requests, and connections that are waited for.

Frozen time does not count: FC stops the whole instance between requests, and a SIGSTOP does the same. A tick that comes
much later than it should was a freeze, and every deadline moves by it.
"""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Protocol

log = logging.getLogger(__name__)

#: Longest sleep between two ticks, seconds.
TICK_S = 0.5
#: A tick that comes this much later than it should was a freeze, seconds.
FREEZE_S = 3.0


class Timed(Protocol):
    """`deadline` is on the clock of `time.monotonic`, in seconds."""

    deadline: float

    def expire(self) -> None:
        """The deadline has come; this is called once."""

    def thawed(self, gap: float) -> None:
        """The process was frozen for `gap` seconds: none of this one's times shall have seen it."""


class Deadlines:
    def __init__(self) -> None:
        self.frozen_s = 0.0
        self._timed: set[Timed] = set()
        self._sooner = asyncio.Event()

    def add(self, timed: Timed) -> None:
        self._timed.add(timed)
        if timed.deadline - time.monotonic() < TICK_S:
            self._sooner.set()

    def remove(self, timed: Timed) -> None:
        self._timed.discard(timed)

    async def run(self) -> None:
        """Tick until cancelled."""
        last = time.monotonic()
        while True:
            nearest = min((timed.deadline for timed in self._timed), default=last + TICK_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._sooner.wait(), min(TICK_S, max(0.005, nearest - last)))
            self._sooner.clear()
            now = time.monotonic()
            if (gap := now - last - TICK_S) >= FREEZE_S:
                self._thaw(gap)
            last = now
            for timed in [timed for timed in self._timed if timed.deadline <= now]:
                self._timed.discard(timed)
                timed.expire()

    def _thaw(self, gap: float) -> None:
        self.frozen_s += gap
        for timed in self._timed:
            timed.thawed(gap)
        log.info("the process was frozen for about %.0f s; deadlines moved with it", gap)
