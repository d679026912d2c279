"""FC's event call: `POST /invoke`, from the console's "Test", `s invoke`, the SDK and event triggers.

FC hands over the event as bytes and gives back the body alone: status and headers are lost. So an event becomes one
request to the same routes, and an error's body also names its status. An answer comes whole: `stream` is taken out of
an event, as nobody could read a stream there. Accepted events:

    {"messages": [...], ...}                     what POST /chat takes
    {"prompt": "...", ...}                       what POST /generate takes
    {"input": ..., ...}                          what POST /v1/responses takes
    {"messages": [...], "system": ..., ...}      what POST /v1/messages takes, told by a field that no chat has
    {"path": "/v1/models", "method": "GET", "headers": {...}, "body": ...}      any HTTP request;
        also "httpMethod" or FC's "rawPath" + "requestContext"; "body" is a string, an object,
        or base64 with "isBase64Encoded": true
"""

import base64
import codecs
import json
import re
from typing import Any

from flask import Blueprint, Flask, Response, request
from werkzeug.test import EnvironBuilder

from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.errors import BadRequest, require, wrong
from chatbot_llm.routes import validation
from chatbot_llm.routes.auth import EVENT

HINT = (
    "this event is not one this function understands; send "
    '{"messages": [{"role": "user", "content": "Hello"}]} for a chat, '
    '{"prompt": "Hello", "max_tokens": 16} for a raw completion, {"input": "Hello"} for a response, or '
    '{"path": "/v1/models", "method": "GET"} for any other route'
)
_METHODS = ("GET", "POST", "HEAD", "OPTIONS")
#: A path as HTTP has it; FC: path and query have 4 KB at most. `//x` would be read as the host x.
_PATH = re.compile(r"/(?!/)[^\x00-\x20]{0,4095}")


def blueprint(app: Flask) -> Blueprint:
    """The route `/invoke`, which calls the other routes of `app`."""
    events = Blueprint("events", __name__)

    @events.post("/invoke")
    def invoke() -> Response:
        """Run one event as one request."""
        method, path, headers, body = read_event(request.get_data())
        for name in ("x-request-id", "x-fc-request-id"):
            if value := request.headers.get(name):
                headers.setdefault(name, value)
        try:
            builder = EnvironBuilder(path=path, method=method, headers=list(headers.items()), data=body)
            environ = builder.get_environ()
        except (ValueError, TypeError, UnicodeError):
            raise BadRequest("the event's path, method or headers cannot be made into a request") from None
        environ[EVENT] = True
        with app.request_context(environ):
            response = app.full_dispatch_request()
        return response

    @events.after_app_request
    def name_status(response: Response) -> Response:
        """Write the status of an error into its body, where FC's caller can see it."""
        if request.path != "/invoke" or response.status_code < 400 or response.mimetype != "application/json":
            return response
        body = json.loads(response.get_data())
        body.get("error", body)["status"] = response.status_code
        response.set_data(json.dumps(body, ensure_ascii=False).encode())
        return response

    return events


def read_event(raw: bytes) -> tuple[str, str, dict[str, str], bytes]:
    """(method, path, headers, body) of an event. Raises BadRequest with a hint for anything else."""
    if not raw.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        raise BadRequest(HINT, code="unknown_event")  # the console's `hello world`, a bare string, nothing at all
    event = validation.read_json(raw)
    given = {name: value for name, value in event.items() if value is not None}
    for protocol in PROTOCOLS.values():
        if protocol.claims(given):
            return "POST", protocol.paths[0], {"content-type": "application/json"}, raw
    context = event.get("requestContext")
    http = context.get("http") if isinstance(context, dict) else None
    http = http if isinstance(http, dict) else {}
    path = event.get("path") or event.get("rawPath") or http.get("path")
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise BadRequest(HINT, code="unknown_event")
    body = _body(event)
    method = str(event.get("method") or event.get("httpMethod") or http.get("method") or ("POST" if body else "GET"))
    require(method.upper() in _METHODS, "method", f"one of {', '.join(_METHODS)}")
    headers = event.get("headers") or {}
    require(isinstance(headers, dict), "headers", "must be an object of strings")
    clean = {str(name).lower(): str(value) for name, value in headers.items()}
    # Only the platform says where a call came from.
    clean = {name: value for name, value in clean.items() if not name.startswith("x-fc-") and name != "content-length"}
    if body:
        clean.setdefault("content-type", "application/json")
    return method.upper(), path, clean, body


def _body(event: dict[str, Any]) -> bytes:
    body = event.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        return json.dumps(body).encode()
    if not event.get("isBase64Encoded"):
        return body.encode()
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:  # binascii.Error, or letters that are not ASCII
        raise wrong("body", f"not base64 ({error})") from None
