"""What goes to the model, whatever its protocol: the routes, and how HTTP becomes a request to the engine.

What a protocol takes, gives and refuses is in `engine/protocols`; which routes it has, too.
"""

import functools
import json
import time
from typing import Any

from flask import Blueprint, Response, request

from chatbot_llm import __version__
from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.engine.protocols.base import EngineRequest, Protocol
from chatbot_llm.errors import ApiError, require
from chatbot_llm.observability import logs
from chatbot_llm.rag import forms
from chatbot_llm.routes import auth, generate, validation
from chatbot_llm.routes.deferred import Deferred, Streamed
from chatbot_llm.serving.request import Request
from chatbot_llm.serving.service import Service
from chatbot_llm.settings import on_function_compute

#: Header by which a caller may shorten its deadline, seconds.
TIMEOUT_HEADER = "x-request-timeout"
#: Headers of the platform that go into the request log.
_FC_HEADERS = {"x-fc-request-id": "fc_request_id", "x-fc-control-path": "fc_control_path"}
_TRACE_HEADERS = ("traceparent", "tracestate")


def blueprint(service: Service) -> Blueprint:
    """Every protocol's routes, and what may be asked about the models."""
    api = Blueprint("api", __name__)
    for protocol in PROTOCOLS.values():
        for path in protocol.paths:
            api.add_url_rule(path, path, functools.partial(run, service, protocol), methods=["POST"])

    @api.get("/v1/models")
    def models() -> Response:
        """Names served."""
        cards = service.engine.models()
        if not cards:
            raise service.not_ready()
        return _json({"object": "list", "data": cards})

    @api.get("/v1/models/<path:name>")
    def model(name: str) -> Response:
        """One served model."""
        for card in service.engine.models():
            if card["id"] == name:
                return _json(card)
        raise _no_model(service)

    @api.get("/version")
    def version() -> Response:
        """Versions of the service, the engine and the model."""
        names = [card["id"] for card in service.engine.models()]
        return _json({"version": __version__, **service.engine.version(), "models": names})

    return api


def run(service: Service, protocol: Protocol) -> Response:
    """Judge the body of a request in this protocol and leave the rest to the loop. Raises ApiError."""
    arrived = time.monotonic()
    body = _body()
    validation.check(protocol.kind, body, service.settings)
    name = body.get("model")
    cards = service.engine.models()
    if name is not None and cards and name not in {card["id"] for card in cards}:
        raise _no_model(service)
    with_text, prompts = request.path == "/generate", list[str]()
    if with_text:
        given = generate.each(body.get("prompt", ""))
        prompts = [item if isinstance(item, str) else service.engine.text_of(item) for item in given]
        generate.check(body, prompts, len(request.get_data()))
    known = _FC_HEADERS if on_function_compute() else {}
    platform = {field: logs.clean_id(request.headers.get(name)) for name, field in known.items()}
    platform["key"] = auth.key_id(request, service.settings)
    one = Request(
        service,
        EngineRequest(
            protocol,
            body,
            request_id=logs.clean_id(request.headers.get("x-request-id")),
            trace={name: text for name in _TRACE_HEADERS if (text := logs.clean_trace(request.headers.get(name)))},
        ),
        route=request.path,
        arrived=arrived,
        deadline=arrived + _deadline(service.settings.deadline_s),
        platform={name: value for name, value in platform.items() if value},
        documents=forms.read(protocol.kind, body),
    )
    one.prepare()

    async def produce(response: Deferred) -> bytes | Streamed:
        answer = await one.run()
        spans = one.times()
        response.headers["Server-Timing"] = ", ".join(f"{name};dur={value}" for name, value in spans.items())
        response.headers["x-request-id"] = one.engine_request.request_id or one.engine_request.id
        if isinstance(answer, bytes):
            return generate.add_text(answer, prompts, bool(body.get("echo"))) if with_text else answer
        response.mimetype = "text/event-stream"
        # Proxies must hand every event on at once.
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"
        if with_text:
            answer.change = generate.StreamTexts(prompts, int(body.get("n") or 1), bool(body.get("echo")))
        return answer

    return Deferred(produce)


def _body() -> dict[str, Any]:
    if request.mimetype != "application/json":
        raise ApiError(
            "send the body as `Content-Type: application/json`",
            status=415,
            code="unsupported_media_type",
        )
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(
            "send the body as it is: compressed bodies (Content-Encoding) are not read here",
            status=415,
            code="unsupported_media_type",
        )
    body = validation.read_json(request.get_data())
    if request.environ.get(auth.EVENT):  # an event's answer comes whole
        body.pop("stream", None)
        body.pop("stream_options", None)
    return body


def _deadline(most: float) -> float:
    """Seconds this request may take. Raises BadRequest when the header is no positive number."""
    if TIMEOUT_HEADER not in request.headers:
        return most
    seconds = request.headers.get(TIMEOUT_HEADER, -1.0, type=float)
    require(0 < seconds < float("inf"), TIMEOUT_HEADER, "must be a positive number of seconds")
    return min(most, seconds)


def _no_model(service: Service) -> ApiError:
    served = ", ".join(card["id"] for card in service.engine.models()) or "none yet"
    return ApiError(
        f"this model is not served here; served: {served}",
        status=404,
        param="model",
        code="model_not_found",
    )


def _json(value: object) -> Response:
    return Response(json.dumps(value), mimetype="application/json")
