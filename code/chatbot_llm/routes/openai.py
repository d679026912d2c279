"""The OpenAI surface: /chat, /generate, /v1/*. Turns HTTP into a `Call` and a `Call`'s answer into HTTP, no more."""

import json
import socket
import time
from typing import Any

from flask import Blueprint, Response, request

from chatbot_llm import __version__
from chatbot_llm.errors import ApiError, BadRequest
from chatbot_llm.exchange import Exchange
from chatbot_llm.observability import telemetry
from chatbot_llm.routes import generate as generation
from chatbot_llm.routes import validation
from chatbot_llm.routes.auth import EVENT
from chatbot_llm.routes.generate import StreamTexts, add_text
from chatbot_llm.serving.request import Call, Kind, Result
from chatbot_llm.serving.service import Service
from chatbot_llm.settings import on_function_compute

#: Header by which a caller may shorten its deadline, seconds.
TIMEOUT_HEADER = "x-request-timeout"
#: Headers of the platform that go into the request log.
_FC_HEADERS = {"x-fc-request-id": "fc_request_id", "x-fc-control-path": "fc_control_path"}
_TRACE_HEADERS = ("traceparent", "tracestate")


def blueprint(service: Service) -> Blueprint:
    """Routes of the OpenAI surface."""
    api = Blueprint("api", __name__)

    @api.post("/chat")
    @api.post("/v1/chat/completions")
    def chat() -> Response:
        """OpenAI chat completions."""
        return _respond(*_run(service, "chat"))

    @api.post("/v1/completions")
    def completions() -> Response:
        """OpenAI completions."""
        return _respond(*_run(service, "completion"))

    @api.post("/generate")
    def generate() -> Response:
        """Raw completion: the OpenAI completion object plus the list `text`."""
        exchange, answer = _run(service, "completion", text=True)
        body, prompts = exchange.call.body, exchange.prompts
        if isinstance(answer, Result):
            if answer.status == 200:
                answer = Result(200, add_text(answer.body, prompts, bool(body.get("echo"))))
        else:
            answer.change = StreamTexts(prompts, int(body.get("n") or 1), bool(body.get("echo")))
        return _respond(exchange, answer)

    @api.post("/tokenize")
    def tokenize() -> Response:
        """Token ids and count of a prompt or of messages."""
        return _respond(*_run(service, "tokenize"))

    @api.post("/detokenize")
    def detokenize() -> Response:
        """The text of token ids."""
        return _respond(*_run(service, "detokenize"))

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


def _run(service: Service, kind: Kind, text: bool = False) -> tuple[Exchange, Any]:
    arrived = time.monotonic()
    body = _body()
    validation.check(kind, body, service.settings)
    name = body.get("model")
    cards = service.engine.models()
    if name is not None and cards and name not in {card["id"] for card in cards}:
        raise _no_model(service)
    call = Call(
        kind,
        body,
        deadline=arrived + _deadline(service.settings.deadline_s),
        request_id=telemetry.clean_id(request.headers.get("x-request-id")),
        trace={name: value for name in _TRACE_HEADERS if (value := telemetry.clean_trace(request.headers.get(name)))},
        arrived=arrived,
    )
    known = _FC_HEADERS if on_function_compute() else {}
    fc = {field: telemetry.clean_id(request.headers.get(name)) for name, field in known.items()}
    exchange = Exchange(service, call, request.path, {name: value for name, value in fc.items() if value})
    if text:
        prompts = generation.each(body.get("prompt", ""))
        exchange.prompts = [one if isinstance(one, str) else service.engine.text_of(one) for one in prompts]
        generation.check(body, exchange.prompts, len(request.get_data()))
    sock = request.environ.get("gunicorn.socket")
    return exchange, exchange.run(sock if isinstance(sock, socket.socket) else None)


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
    if request.environ.get(EVENT):  # an event's answer comes whole
        body.pop("stream", None)
        body.pop("stream_options", None)
    return body


def _deadline(most: float) -> float:
    """Seconds this request may take. Raises BadRequest when the header is no positive number."""
    asked = request.headers.get(TIMEOUT_HEADER)
    if asked is None:
        return most
    try:
        seconds = float(asked)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise BadRequest(f"{TIMEOUT_HEADER}: must be a positive number of seconds", param=TIMEOUT_HEADER)
    return min(most, seconds)


def _no_model(service: Service) -> ApiError:
    served = ", ".join(card["id"] for card in service.engine.models()) or "none yet"
    return ApiError(
        f"this model is not served here; served: {served}",
        status=404,
        param="model",
        code="model_not_found",
    )


def _respond(exchange: Exchange, answer: Any) -> Response:
    if isinstance(answer, Result):
        response = Response(answer.body, answer.status, mimetype="application/json")
    else:
        sock, event = request.environ.get("gunicorn.socket"), request.environ.get(EVENT)
        if isinstance(sock, socket.socket) and request.environ.get("SERVER_PROTOCOL") == "HTTP/1.1" and not event:
            answer.shorten(sock)
        response = Response(answer, mimetype="text/event-stream", direct_passthrough=True)
        # Proxies must hand every event on at once.
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"
    spans = exchange.times()
    response.headers["Server-Timing"] = ", ".join(f"{name};dur={value}" for name, value in spans.items())
    response.headers["x-request-id"] = exchange.call.request_id or exchange.call.id
    return response


def _json(value: Any) -> Response:
    return Response(json.dumps(value), mimetype="application/json")
