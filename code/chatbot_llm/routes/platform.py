"""The platform's surface: /health, /initialize, /pre-stop, /metrics. They answer while everything else is busy."""

import json
from dataclasses import asdict

from flask import Blueprint, Response

from chatbot_llm.engine.base import State
from chatbot_llm.errors import ApiError
from chatbot_llm.routes.deferred import Deferred
from chatbot_llm.serving.service import INITIALIZE_BUDGET_S, Service

#: Content type of the Prometheus text format.
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def blueprint(service: Service) -> Blueprint:
    """Routes the platform calls."""
    platform = Blueprint("platform", __name__)

    @platform.get("/health")
    def health() -> Response:
        """200 only when a request sent now would be answered; else 503 with state and phase."""
        status = service.engine.status()
        shown = {key: value for key, value in asdict(status).items() if key in ("state", "phase", "phase_s", "reason")}
        if service.admission.draining and status.state is State.READY:
            shown["state"] = "draining"
        running, waiting = service.admission.counts()
        shown |= {"ready": service.ready, "running": running, "waiting": waiting, "start_phases_s": service.phases()}
        response = Response(json.dumps(shown), 200 if service.ready else 503, mimetype="application/json")
        if not service.ready:
            response.headers["Retry-After"] = "5"
        return response

    @platform.post("/initialize")
    def initialize() -> Response:
        """Answer once the engine is ready (200) or has failed (500, the reason)."""

        async def produce(_: Response) -> bytes:
            status = await service.engine.wait(INITIALIZE_BUDGET_S)
            if status.state in (State.FAILED, State.STOPPED):
                raise ApiError(f"the engine has {status.state}: {status.reason}", code="engine_unavailable")
            if status.state is not State.READY:
                raise service.not_ready()
            return json.dumps({"state": status.state, "start_phases_s": service.phases()}).encode()

        return Deferred(produce)

    @platform.get("/pre-stop")
    def pre_stop() -> Response:
        """Refuse new work, let running requests finish within the drain limit, then 200."""

        async def produce(_: Response) -> bytes:
            whole = await service.drain()
            return json.dumps({"state": "drained", "cut_short": not whole}).encode()

        return Deferred(produce)

    @platform.get("/metrics")
    def metrics() -> Response:
        """Prometheus text: vLLM's series and the service's own."""
        return Response(service.metrics.render(), content_type=METRICS_TYPE)

    return platform
