"""The service's moving parts, put together once per process, and the acts that concern them all: begin, fail, drain.

Knows nothing of HTTP; the blueprints hold one of these.
"""

import json
import logging
import threading

from chatbot_llm.engine.base import Engine, Phase, State
from chatbot_llm.errors import Unavailable, envelope
from chatbot_llm.observability import telemetry
from chatbot_llm.serving.admission import Admission
from chatbot_llm.serving.deadlines import GRACE_S, Watcher
from chatbot_llm.serving.request import Cause, Result
from chatbot_llm.settings import Settings

log = logging.getLogger(__name__)

#: FC's limits for a start, seconds: the port must answer, the initializer must return (FC quota page).
LISTEN_BUDGET_S, INITIALIZE_BUDGET_S = 120, 300


class Service:
    def __init__(self, settings: Settings, engine: Engine, metrics: telemetry.Metrics) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.admission = Admission(settings.max_running, settings.max_waiting)
        self.watcher = Watcher()
        self.answered = 0
        self._draining = threading.Lock()
        self._listen_s = 0.0
        metrics.running.set_function(lambda: self.admission.counts()[0])
        metrics.waiting.set_function(lambda: self.admission.counts()[1])
        metrics.ready.set_function(lambda: float(self.ready))
        metrics.frozen.set_function(lambda: self.watcher.frozen_s)
        engine.on_change(self._engine_changed)

    def begin(self) -> None:
        """Start watching and loading. The port is already open when this is called."""
        self._listen_s = round(telemetry.process_age_s(), 3)
        self.watcher.start()
        self.engine.start()

    def close(self) -> None:
        """End the engine and the watching. A process that is about to end only needs the engine to."""
        self.engine.stop()
        self.watcher.close()

    @property
    def ready(self) -> bool:
        return self.engine.status().state is State.READY and not self.admission.draining

    def phases(self) -> dict[str, float]:
        """Seconds spent in each part of the start so far."""
        return {Phase.LISTEN.value: self._listen_s, **(self.engine.status().phases or {})}

    def not_ready(self) -> Unavailable:
        """What a caller is told who cannot be served now."""
        status = self.engine.status()
        if status.state in (State.FAILED, State.STOPPED):
            return Unavailable(
                f"the engine has {status.state}: {status.reason}", code="engine_unavailable", retry_after=5
            )
        where = f" (phase {status.phase}, {status.phase_s:.0f} s)" if status.phase else ""
        return Unavailable(f"the model is still loading{where}; try again later", code="loading", retry_after=10)

    def drain(self, limit_s: float) -> bool:
        """Refuse new work and let running requests finish within `limit_s` seconds; then cut what is left.

        True when nothing had to be cut. Callers that come later wait for the first.
        """
        self.admission.drain()
        with self._draining:
            if self.admission.wait_empty(limit_s):
                return True
            left = self.admission.inside()
            log.warning("cutting %d requests short after %.0f s of draining", len(left), limit_s)
            for call in left:
                call.abort(Cause.DRAIN)
            self.admission.wait_empty(GRACE_S)
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
        reason = self.engine.status().reason or "the engine was stopped"
        body = json.dumps(envelope(503, f"the engine is {state}: {reason}", code="engine_unavailable")).encode()
        for call in self.admission.close():
            call.put(Result(503, body))
