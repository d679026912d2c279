"""The service's moving parts, put together once per process, and the acts that concern them all: begin, fail, drain.

Knows nothing of HTTP.
"""

import asyncio
import logging
import time

from chatbot_llm.engine.base import Phase, State
from chatbot_llm.engine.supervisor import Engine
from chatbot_llm.errors import Unavailable
from chatbot_llm.observability.metrics import Metrics, process_age_s
from chatbot_llm.serving.admission import Admission, Cause
from chatbot_llm.serving.deadlines import Deadlines
from chatbot_llm.settings import Settings

log = logging.getLogger(__name__)

#: FC's limits for a start, seconds: the port must answer, the initializer must return (FC quota page).
LISTEN_BUDGET_S, INITIALIZE_BUDGET_S = 120, 300
#: How long an engine may take to hand over what it has of a request that was cut, and its client to read it, seconds.
GRACE_S = 5.0


class Service:
    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.deadlines = Deadlines()
        self.admission = Admission(
            settings.max_running, settings.max_waiting, lambda: time.monotonic() - self.deadlines.frozen_s
        )
        self.answered = 0
        self._ticker: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[bool] | None = None
        self._listen_s = 0.0
        metrics.running.set_function(lambda: self.admission.counts()[0])
        metrics.waiting.set_function(lambda: self.admission.counts()[1])
        metrics.ready.set_function(lambda: float(self.ready))
        metrics.frozen.set_function(lambda: self.deadlines.frozen_s)
        engine.on_change(self._engine_changed)

    def begin(self) -> None:
        """Start ticking and loading, on the running loop. The port is already open when this is called."""
        self._listen_s = round(process_age_s(), 3)
        self._ticker = asyncio.get_running_loop().create_task(self.deadlines.run(), name="ticker")
        self.engine.start()

    async def close(self) -> None:
        """End the engine and the ticker."""
        await self.engine.stop()
        if self._ticker is not None:
            self._ticker.cancel()

    @property
    def ready(self) -> bool:
        return self.engine.status().state is State.READY and not self.admission.draining

    def phases(self) -> dict[str, float]:
        """Seconds spent in each part of the start so far."""
        return {Phase.LISTEN.value: self._listen_s, **self.engine.status().phases}

    def not_ready(self) -> Unavailable:
        """What a caller is answered who cannot be served now."""
        status = self.engine.status()
        if status.state in (State.FAILED, State.STOPPED):
            return Unavailable(
                f"the engine has {status.state}: {status.reason}", code="engine_unavailable", retry_after=5
            )
        where = f" (phase {status.phase}, {status.phase_s:.0f} s)" if status.phase else ""
        return Unavailable(f"the model is still loading{where}; try again later", code="loading", retry_after=10)

    async def drain(self) -> bool:
        """Refuse new work and let what is inside finish within the drain limit; then cut what is left.

        True when nothing had to be cut. Whoever drains later waits for the first.
        """
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(), name="drain")
        return await asyncio.shield(self._draining)

    async def _drain(self) -> bool:
        limit_s = self.settings.drain_s
        self.admission.drain()
        if await self.admission.wait_empty(limit_s):
            return True
        left = self.admission.inside()
        log.warning("cutting %d requests short after %.0f s of draining", len(left), limit_s)
        for request in left:
            request.end(Cause.DRAIN)
        await self.admission.wait_empty(GRACE_S)
        return False

    def _engine_changed(self, state: State) -> None:
        if state is State.READY:
            phases = self.phases()
            for name, seconds in phases.items():
                self.metrics.startup.labels(name).set(seconds)
            total = round(sum(phases.values()), 3)
            budget = {"listen_budget_s": LISTEN_BUDGET_S, "initialize_budget_s": INITIALIZE_BUDGET_S}
            log.info("ready", extra={"fields": {"msg": "ready", "start_s": total, "phases_s": phases, **budget}})
            self.admission.open()
            return
        self.admission.close()
        for request in self.admission.inside():
            request.end(Cause.ENGINE)
