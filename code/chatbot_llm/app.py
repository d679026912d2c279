"""create_app: puts the rooms together, and gives every error and every answer its common form."""

import json
import logging

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from chatbot_llm.engine.protocols import of_path
from chatbot_llm.engine.supervisor import Engine
from chatbot_llm.errors import ApiError
from chatbot_llm.observability import logs
from chatbot_llm.observability.metrics import Metrics
from chatbot_llm.routes import auth, cors, invoke, openapi, platform, playground, protocols
from chatbot_llm.routes.validation import missing
from chatbot_llm.serving.service import Service
from chatbot_llm.settings import Settings

log = logging.getLogger(__name__)

#: In an environment: the exception that this request is to be answered for.
REFUSAL = "chatbot.refusal"
#: In an environment: whoever sends it may do so.
ADMITTED = "chatbot.admitted"


def create_app(settings: Settings, engine: Engine, metrics: Metrics | None = None) -> Flask:
    """The Flask app, which the door asks. The engine is not started here: `Service.begin` does that on the loop."""
    app = Flask("chatbot_llm", static_folder=None)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map.merge_slashes = False  # //chat is no route; a redirect would name whatever host the caller sent
    service = Service(settings, engine, metrics or Metrics())
    app.extensions["chatbot_llm"] = service
    app.register_blueprint(platform.blueprint(service))
    app.register_blueprint(protocols.blueprint(service))
    app.register_blueprint(invoke.blueprint(app))
    app.register_blueprint(playground.blueprint(settings))
    app.register_blueprint(openapi.blueprint())

    @app.before_request
    def admit() -> None:
        if error := request.environ.get(REFUSAL):
            raise error
        if ADMITTED not in request.environ:
            auth.check(request, settings)

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        if "x-request-id" not in response.headers and (given := logs.clean_id(request.headers.get("x-request-id"))):
            response.headers["x-request-id"] = given
        cors.allow(request, response, settings)
        return response

    @app.errorhandler(ApiError)
    def api_error(error: ApiError) -> Response:
        return _error(error)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        texts = {
            404: missing(request.method, request.path, app.url_map),
            405: f"{request.path[:200]} does not take {request.method}",
        }
        response = _error(ApiError(texts.get(status, error.description or error.name), status=status))
        response.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
        return response

    @app.errorhandler(Exception)
    def surprise(error: Exception) -> Response:
        log.error("unexpected error in %s", request.path[:200], exc_info=error)
        return _error(ApiError("an unexpected error; the log has its details", code="internal_error"))

    return app


def _error(error: ApiError) -> Response:
    """An error in the form that the clients of this route read."""
    body = json.dumps(of_path(request.path).envelope(error), ensure_ascii=False).encode()
    response = Response(body, error.status, mimetype="application/json")
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
