"""`GET /openapi.json`: what the routes take and give, for client generators, gateways and fuzzers.

The engine's own shapes (vLLM's, OpenAI's) stay open: only what this service decides itself is spelled out. Which
fields a request may hold comes from fields.py.
"""

import json
from typing import Any

from flask import Blueprint, Response

from chatbot_llm import __version__
from chatbot_llm.rag.documents import MAX_DOCUMENTS, POLICIES
from chatbot_llm.routes import fields

JSON = dict[str, Any]

_ERRORS = {
    400: "The request is wrong; the message says what to change.",
    401: "No API key, or a wrong one.",
    403: "The route belongs to the platform.",
    404: "No such model or route.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    429: "As many requests run and wait as may; Retry-After says when to try again.",
    500: "The engine failed.",
    503: "Loading, draining or dead; Retry-After says when to try again.",
    504: "The deadline came before an answer.",
}


def _ref(name: str) -> JSON:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], **properties: JSON) -> JSON:
    return {"type": "object", "required": required, "properties": properties}


def _enum(*values: str) -> JSON:
    return {"type": "string", "enum": list(values)}


TEXT: JSON = {"type": "string"}
WHOLE: JSON = {"type": "integer"}
FLAG: JSON = {"type": ["boolean", "null"]}
NUMBER: JSON = {"type": ["number", "null"]}
COUNT: JSON = {"type": ["integer", "null"], "minimum": 1}
STRINGS: JSON = {"type": "array", "items": TEXT}
ANY: JSON = {}

#: From one code point of a text up to another.
_PLACE: JSON = {"start_index": WHOLE, "end_index": WHOLE}
#: What the answer is to rest on.
_DOCUMENTS: JSON = {
    "documents": {
        "type": ["array", "null"],
        "items": _ref("Document"),
        "maxItems": MAX_DOCUMENTS,
        "description": "What the answer is to rest on, best first; it then has annotations and grounding.",
    },
    "documents_policy": {"enum": [*POLICIES, None], "description": "What becomes of documents that do not fit."},
    "documents_instruction": {
        "type": ["string", "null"],
        "description": "In place of the service's own; empty: none.",
    },
}
#: Fields that chat and completion requests share.
_SAMPLING: JSON = {
    "model": {"type": ["string", "null"], "description": "One of GET /v1/models; left out, the first of them."},
    "max_tokens": COUNT,
    "n": COUNT,
    "stream": FLAG,
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": "boolean"}}},
    "temperature": {"type": ["number", "null"], "minimum": 0},
    "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
    "seed": {"type": ["integer", "null"]},
    "stop": {"anyOf": [TEXT, STRINGS, {"type": "null"}]},
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
}

#: What a chat and a response share beside that, and a message and its counting.
TOOLS: JSON = {
    "tools": {"type": ["array", "null"], "items": {"type": "object"}},
    "tool_choice": {"anyOf": [_enum("none", "auto", "required"), {"type": ["object", "null"]}]},
}
MESSAGE: JSON = {
    "system": {"type": ["string", "null"]},
    "tools": {"type": ["array", "null"], "items": {"type": "object"}},
    "tool_choice": {"type": ["object", "null"]},
}

SCHEMAS: JSON = {
    "Error": _object(
        ["error"],
        error=_object(
            ["message", "type", "param", "code"],
            message=TEXT,
            type=TEXT,
            param={"type": ["string", "null"]},
            code={"type": ["string", "null"]},
            status={**WHOLE, "description": "Inside /invoke only: the HTTP status its caller would not see."},
        ),
    ),
    "Message": _object(
        ["role"],
        role=_enum("system", "developer", "user", "assistant", "tool"),
        content={"anyOf": [TEXT, {"type": "array", "items": _object(["type", "text"], type=_enum("text"), text=TEXT)}]},
    ),
    "Document": {
        **_object(["text"], id=TEXT, title=TEXT, text={"type": "string", "minLength": 1}),
        "additionalProperties": False,
    },
    "ChatRequest": _object(
        ["messages"],
        messages={"type": "array", "minItems": 1, "items": _ref("Message")},
        **_DOCUMENTS,
        max_completion_tokens=COUNT,
        response_format={"type": ["object", "null"]},
        **TOOLS,
        **_SAMPLING,
    ),
    "CompletionRequest": _object(
        ["prompt"],
        prompt={"anyOf": [TEXT, {**STRINGS, "minItems": 1}, {"type": "array", "minItems": 1, "items": WHOLE}]},
        **_SAMPLING,
    ),
    "ResponsesRequest": _object(
        ["input"],
        input={"anyOf": [{**TEXT, "minLength": 1}, {"type": "array", "minItems": 1, "items": {"type": "object"}}]},
        instructions={"type": ["string", "null"]},
        **_DOCUMENTS,
        max_output_tokens=COUNT,
        text={"type": ["object", "null"]},
        metadata={"type": ["object", "null"], "additionalProperties": TEXT},
        **{name: _SAMPLING[name] for name in ("model", "stream", "temperature", "top_p", "seed")},
        **TOOLS,
    ),
    "Response": _object(
        ["id", "object", "created_at", "model", "status", "output", "store"],
        id=TEXT,
        object=_enum("response"),
        created_at=WHOLE,
        model=TEXT,
        status=_enum("completed", "incomplete"),
        output={"type": "array", "items": {"type": "object"}},
        store={"type": "boolean", "description": "Always false: nothing is stored."},
    ),
    "MessagesRequest": _object(
        ["messages", "max_tokens"],
        messages={"type": "array", "minItems": 1, "items": _ref("Turn")},
        **MESSAGE,
        max_tokens={**WHOLE, "minimum": 1},
        stop_sequences={"anyOf": [STRINGS, {"type": "null"}]},
        **{name: _SAMPLING[name] for name in ("model", "stream", "temperature", "top_p")},
    ),
    "CountRequest": _object(["messages"], messages={"type": "array", "minItems": 1, "items": _ref("Turn")}, **MESSAGE),
    "Turn": _object(
        ["role", "content"],
        role=_enum("user", "assistant"),
        content={"anyOf": [TEXT, {"type": "array", "items": {"anyOf": [_ref("TextBlock"), _ref("DocumentBlock")]}}]},
    ),
    "TextBlock": _object(["type", "text"], type=_enum("text"), text=TEXT),
    "DocumentBlock": _object(
        ["type", "source"],
        type=_enum("document"),
        title={"type": ["string", "null"]},
        source=_object(["type", "data"], type=_enum("text"), data={"type": "string", "minLength": 1}),
        citations={"type": ["object", "null"], "properties": {"enabled": {"type": "boolean"}}},
    ),
    "Said": _object(
        ["id", "type", "role", "model", "content", "usage"],
        id=TEXT,
        type=_enum("message"),
        role=_enum("assistant"),
        model=TEXT,
        content={"type": "array", "items": {"type": "object"}},
        usage={"type": "object"},
    ),
    "MessagesError": _object(
        ["type", "error"], type=_enum("error"), error=_object(["type", "message"], type=TEXT, message=TEXT)
    ),
    "Usage": _object(["prompt_tokens", "completion_tokens"], prompt_tokens=WHOLE, completion_tokens=WHOLE),
    "Annotation": _object(
        ["type", "kind", "url_citation", "document"],
        type=_enum("url_citation"),
        kind=_enum("mark", "verbatim"),
        url_citation=_object(["start_index", "end_index", "title", "url"], **_PLACE, title=TEXT, url=TEXT),
        document=_object(["number", "id"], number=WHOLE, id=TEXT, **_PLACE),
    ),
    "Grounding": _object(
        ["documents", "left_out", "verbatim_share", "unknown_citations", "unsupported_quotes"],
        documents=STRINGS,
        left_out=STRINGS,
        verbatim_share={"type": "number", "minimum": 0, "maximum": 1},
        unknown_citations={"type": "array", "items": _object(["number", *_PLACE], number=WHOLE, **_PLACE)},
        unsupported_quotes={"type": "array", "items": _object([*_PLACE], **_PLACE)},
    ),
    "Answer": {
        "description": "With documents in the request; streamed, they come with the delta that ends a choice.",
        **_object(
            [],
            annotations={"anyOf": [{"type": "array", "items": _ref("Annotation")}, {"type": "null"}]},
            grounding=_ref("Grounding"),
        ),
    },
    "ChatCompletion": _object(
        ["id", "object", "created", "model", "choices", "usage"],
        id=TEXT,
        object=_enum("chat.completion"),
        created=WHOLE,
        model=TEXT,
        choices={
            "type": "array",
            "items": _object(["index", "message", "finish_reason"], index=WHOLE, message=_ref("Answer")),
        },
        usage=_ref("Usage"),
    ),
    "Completion": _object(
        ["id", "object", "created", "model", "choices", "usage"],
        id=TEXT,
        object=_enum("text_completion"),
        created=WHOLE,
        model=TEXT,
        choices={"type": "array", "items": _object(["index", "text", "finish_reason"], index=WHOLE, text=TEXT)},
        usage=_ref("Usage"),
    ),
    "Generated": {"allOf": [_ref("Completion"), _object(["text"], text=STRINGS)]},
    "Model": _object(["id", "object"], id=TEXT, object=_enum("model"), max_model_len=WHOLE),
    "Models": _object(["object", "data"], object=_enum("list"), data={"type": "array", "items": _ref("Model")}),
    "Tokens": _object(["tokens", "count"], tokens={"type": "array", "items": WHOLE}, count=WHOLE),
    "Health": _object(
        ["state", "ready", "running", "waiting"], state=TEXT, ready={"type": "boolean"}, running=WHOLE, waiting=WHOLE
    ),
    "Event": {
        "description": "What POST /chat, /generate, /v1/responses or /v1/messages takes, or any request "
        "as path, method, headers and body.",
        "anyOf": [
            *map(_ref, ("ChatRequest", "CompletionRequest", "ResponsesRequest", "MessagesRequest")),
            _object(
                ["path"],
                path={"type": "string", "pattern": "^/"},
                method=_enum("GET", "POST", "HEAD", "OPTIONS"),
                headers={"type": "object", "additionalProperties": TEXT},
                body={"anyOf": [TEXT, {"type": ["object", "null"]}]},
                isBase64Encoded={"type": "boolean"},
            ),
        ],
    },
}


def _with_its_fields(kind: str, schema: JSON) -> JSON:
    """Every field that a request of this kind may hold, and no other: obeyed, without effect, or refused and why."""

    def shape(field: fields.Field) -> JSON:
        if field.use == "refused":
            return {"enum": [None, *field.neutral], "description": f"Refused: {field.why}."}
        return {"description": f"Without effect: {field.why}."} if field.why else {}

    known = {name: shape(field) for name, field in fields.PROTOCOLS[kind].items()}
    return {**schema, "properties": {**known, **schema["properties"]}, "additionalProperties": False}


for _name, _kind in (
    ("ChatRequest", "chat"),
    ("CompletionRequest", "completion"),
    ("ResponsesRequest", "responses"),
    ("MessagesRequest", "messages"),
    ("CountRequest", "count"),
):
    SCHEMAS[_name] = _with_its_fields(_kind, SCHEMAS[_name])

_HEADERS: list[JSON] = [
    {"name": "x-request-id", "in": "header", "schema": TEXT, "description": "Echoed, logged and passed to the engine."},
    {
        "name": "x-request-timeout",
        "in": "header",
        "schema": {"type": "number", "exclusiveMinimum": 0},
        "description": "Shortens the request's deadline, seconds.",
    },
]


def _answers(content: JSON, *statuses: int, error: str = "Error") -> JSON:
    said: JSON = {"200": {"description": "The answer.", "content": content}}
    for status in statuses:
        said[str(status)] = {
            "description": _ERRORS[status],
            "content": _of(_ref(error)),
        }
    return said


def _of(schema: JSON) -> JSON:
    return {"application/json": {"schema": schema}}


def _post(summary: str, takes: JSON, gives: JSON, streams: bool = False, error: str = "Error") -> JSON:
    content = _of(gives) | ({"text/event-stream": {}} if streams else {})
    return {
        "summary": summary,
        "parameters": _HEADERS,
        "requestBody": {"required": True, "content": _of(takes)},
        "responses": _answers(content, 400, 401, 403, 404, 413, 415, 429, 500, 503, 504, error=error),
    }


def _get(summary: str, content: JSON, *statuses: int, **more: Any) -> JSON:
    return {"summary": summary, "responses": _answers(content, *statuses), **more}


_OPEN: JSON = {"security": []}
_PLAIN: JSON = {"text/plain": {"schema": TEXT}}


def describe() -> JSON:
    """The OpenAPI 3.1 description of this service."""
    chat = _post("OpenAI chat completion.", _ref("ChatRequest"), _ref("ChatCompletion"), streams=True)
    invoke = _post("One event as one request (Function Compute).", _ref("Event"), ANY)
    # Whatever the route inside the event answers.
    invoke["responses"] = {"default": {"description": "The answer, without its status.", "content": {"*/*": {}}}}
    name = {"name": "name", "in": "path", "required": True, "schema": TEXT}
    prompt = {"anyOf": [_object(["prompt"], prompt=TEXT), _object(["messages"], messages={"type": "array"})]}
    tokens = _object(["tokens"], tokens={"type": "array", "items": {"type": "integer", "minimum": 0}})
    return {
        "openapi": "3.1.0",
        "info": {"title": "chatbot-llm", "version": __version__, "license": {"name": "Apache-2.0"}},
        "security": [{"bearer": []}, {"api_key": []}, {"x_api_key": []}, {}],
        "paths": {
            "/chat": {"post": chat},
            "/v1/chat/completions": {"post": chat},
            "/generate": {
                "post": _post(
                    "A raw completion, plus the list `text`.", _ref("CompletionRequest"), _ref("Generated"), True
                )
            },
            "/v1/completions": {
                "post": _post("OpenAI completion.", _ref("CompletionRequest"), _ref("Completion"), streams=True)
            },
            "/v1/responses": {
                "post": _post("OpenAI response, not stored.", _ref("ResponsesRequest"), _ref("Response"), streams=True)
            },
            "/v1/messages": {
                "post": _post("Anthropic message.", _ref("MessagesRequest"), _ref("Said"), True, error="MessagesError")
            },
            "/v1/messages/count_tokens": {
                "post": _post(
                    "Tokens of an Anthropic message.",
                    _ref("CountRequest"),
                    _object(["input_tokens"], input_tokens=WHOLE),
                    error="MessagesError",
                )
            },
            "/tokenize": {"post": _post("Token ids of a prompt or of messages.", prompt, _ref("Tokens"))},
            "/detokenize": {"post": _post("The text of token ids.", tokens, {"type": "object"})},
            "/v1/models": {"get": _get("The served models.", _of(_ref("Models")), 401, 503)},
            "/v1/models/{name}": {
                "get": _get("One served model.", _of(_ref("Model")), 401, 404, 503, parameters=[name])
            },
            "/version": {"get": _get("Versions of service, engine and model.", _of({"type": "object"}), 401)},
            "/health": {
                "get": {
                    "summary": "200 only when a request sent now would be answered.",
                    "responses": {
                        status: {"description": text, "content": _of(_ref("Health"))}
                        for status, text in (("200", "Ready."), ("503", "Loading, draining, or dead."))
                    },
                    **_OPEN,
                }
            },
            "/metrics": {"get": _get("Prometheus text.", _PLAIN, 401)},
            "/openapi.json": {"get": _get("This description.", _of({"type": "object"}), **_OPEN)},
            "/invoke": {"post": invoke},
            "/initialize": {
                "post": {
                    "summary": "Block until the engine is ready (Function Compute).",
                    "responses": _answers(_of({"type": "object"}), 401, 403, 500, 503),
                }
            },
            "/pre-stop": {"get": _get("Drain (Function Compute).", _of({"type": "object"}), 401, 403)},
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "api-key"},
                "x_api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def blueprint() -> Blueprint:
    """The route `/openapi.json`."""
    openapi = Blueprint("openapi", __name__)
    text = json.dumps(describe())

    @openapi.get("/openapi.json")
    def description() -> Response:
        """This description."""
        return Response(text, mimetype="application/json")

    return openapi
