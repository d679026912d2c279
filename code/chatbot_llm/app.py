"""create_app: puts the rooms together, and gives every error and every answer its common form."""

import json
import logging
from typing import Any

from flask import Flask, Response, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from chatbot_llm.engine.base import Engine
from chatbot_llm.errors import ApiError, envelope
from chatbot_llm.observability import telemetry
from chatbot_llm.routes import auth as guard
from chatbot_llm.routes import cors, openapi, playground
from chatbot_llm.routes import invoke as events
from chatbot_llm.routes import openai as api
from chatbot_llm.routes import platform as lifecycle
from chatbot_llm.routes.validation import missing
from chatbot_llm.serving.service import Service
from chatbot_llm.settings import Settings

log = logging.getLogger(__name__)


def create_app(settings: Settings, engine: Engine, metrics: telemetry.Metrics | None = None) -> Flask:
    """The WSGI app. The engine is not started here; `service_of(app).begin()` does that once the port is open."""
    app = Flask("chatbot_llm", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map.merge_slashes = False  # //chat is no route; a redirect would name whatever host the caller sent
    service = Service(settings, engine, metrics or telemetry.Metrics())
    app.extensions["chatbot_llm"] = service
    app.register_blueprint(lifecycle.blueprint(service))
    app.register_blueprint(api.blueprint(service))
    app.register_blueprint(events.blueprint(app))
    app.register_blueprint(playground.blueprint(settings))
    app.register_blueprint(openapi.blueprint())

    @app.before_request
    def admit() -> None:
        try:
            guard.check(request, settings)
            request.get_data()  # the whole request is here, or is refused as too large
        finally:
            if sock := request.environ.get("gunicorn.socket"):
                service.watcher.reading(sock, None)

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        if "x-request-id" not in response.headers and (
            given := telemetry.clean_id(request.headers.get("x-request-id"))
        ):
            response.headers["x-request-id"] = given
        cors.allow(request, response, settings)
        return response

    @app.errorhandler(ApiError)
    def api_error(error: ApiError) -> Response:
        return _error(error.status, error.envelope(), error.retry_after)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        texts = {
            404: missing(request.method, request.path, app.url_map),
            405: f"{request.path[:200]} does not take {request.method}",
            413: f"the body is larger than {settings.max_body_bytes} bytes",
        }
        response = _error(status, envelope(status, texts.get(status, error.description or error.name)))
        for name, value in error.get_headers():
            if name == "Allow":
                response.headers["Allow"] = value
        return response

    @app.errorhandler(ParseException)
    def not_http(error: ParseException) -> Response:
        return _error(400, envelope(400, "the body's chunks are not valid HTTP/1.1"))

    @app.errorhandler(Exception)
    def surprise(error: Exception) -> Response:
        log.error("unexpected error in %s", request.path[:200], exc_info=error)
        return _error(500, envelope(500, "an unexpected error; the log has its details", code="internal_error"))

    return app


def service_of(app: Flask) -> Service:
    service: Service = app.extensions["chatbot_llm"]
    return service


def _error(status: int, body: dict[str, Any], retry_after: int | None = None) -> Response:
    response = Response(json.dumps(body, ensure_ascii=False).encode(), status, mimetype="application/json")
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if status in (413, 415):
        response.headers["Connection"] = "close"
    return response
