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


def _record(**properties: JSON) -> JSON:
    """An object that has all of these."""
    return _object([*properties], **properties)


def _list(items: JSON, **bounds: int) -> JSON:
    return {"type": "array", **bounds, "items": items}


def _enum(*values: str) -> JSON:
    return {"type": "string", "enum": list(values)}


def _request(kind: str, required: list[str], **properties: JSON) -> JSON:
    """Every field that a request of this kind may hold, and no other: obeyed, without effect, or refused and why."""

    def shape(field: fields.Field) -> JSON:
        if field.use == "refused":
            return {"enum": [None, *field.neutral], "description": f"Refused: {field.why}."}
        return {"description": f"Without effect: {field.why}."} if field.why else {}

    known = {name: shape(field) for name, field in fields.PROTOCOLS[kind].items()}
    return {**_object(required, **{**known, **properties}), "additionalProperties": False}


def _completion(kind: str, **content: JSON) -> JSON:
    """An answer whose choices hold `content`."""
    return _record(
        id=TEXT,
        object=_enum(kind),
        created=WHOLE,
        model=TEXT,
        choices=_list(_object(["index", *content, "finish_reason"], index=WHOLE, **content)),
        usage=_ref("Usage"),
    )


TEXT: JSON = {"type": "string"}
NAME: JSON = {"type": ["string", "null"]}
WHOLE: JSON = {"type": "integer"}
FLAG: JSON = {"type": ["boolean", "null"]}
NUMBER: JSON = {"type": ["number", "null"]}
COUNT: JSON = {"type": ["integer", "null"], "minimum": 1}
MAP: JSON = {"type": ["object", "null"]}
STRINGS: JSON = _list(TEXT)
OBJECTS: JSON = _list({"type": "object"})

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
    "documents_instruction": {**NAME, "description": "In place of the service's own; empty: none."},
}
#: Fields that chat and completion requests share.
_SAMPLING: JSON = {
    "model": {**NAME, "description": "One of GET /v1/models; left out, the first of them."},
    "max_tokens": COUNT,
    "n": COUNT,
    "stream": FLAG,
    "stream_options": {**MAP, "properties": {"include_usage": {"type": "boolean"}}},
    "temperature": {**NUMBER, "minimum": 0},
    "top_p": {**NUMBER, "exclusiveMinimum": 0, "maximum": 1},
    "seed": {"type": ["integer", "null"]},
    "stop": {"anyOf": [TEXT, STRINGS, {"type": "null"}]},
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
}

#: What a chat and a response share beside that, and a message and its counting.
TOOLS: JSON = {
    "tools": {"type": ["array", "null"], "items": {"type": "object"}},
    "tool_choice": {"anyOf": [_enum("none", "auto", "required"), MAP]},
}
MESSAGE: JSON = {
    "messages": _list(_ref("Turn"), minItems=1),
    "system": NAME,
    "tools": TOOLS["tools"],
    "tool_choice": MAP,
}
_TEXT_BLOCK = _record(type=_enum("text"), text=TEXT)

SCHEMAS: JSON = {
    "Error": _record(
        error=_object(
            ["message", "type", "param", "code"],
            message=TEXT,
            type=TEXT,
            param=NAME,
            code=NAME,
            status={**WHOLE, "description": "Inside /invoke only: the HTTP status its caller would not see."},
        )
    ),
    "Message": _object(
        ["role"],
        role=_enum("system", "developer", "user", "assistant", "tool"),
        content={"anyOf": [TEXT, _list(_TEXT_BLOCK)]},
    ),
    "Document": {
        **_object(["text"], id=TEXT, title=TEXT, text={**TEXT, "minLength": 1}),
        "additionalProperties": False,
    },
    "ChatRequest": _request(
        "chat",
        ["messages"],
        messages=_list(_ref("Message"), minItems=1),
        **_DOCUMENTS,
        max_completion_tokens=COUNT,
        response_format=MAP,
        **TOOLS,
        **_SAMPLING,
    ),
    "CompletionRequest": _request(
        "completion",
        ["prompt"],
        prompt={"anyOf": [TEXT, {**STRINGS, "minItems": 1}, _list(WHOLE, minItems=1)]},
        **_SAMPLING,
    ),
    "ResponsesRequest": _request(
        "responses",
        ["input"],
        input={"anyOf": [{**TEXT, "minLength": 1}, _list({"type": "object"}, minItems=1)]},
        instructions=NAME,
        **_DOCUMENTS,
        max_output_tokens=COUNT,
        text=MAP,
        metadata={**MAP, "additionalProperties": TEXT},
        **{name: _SAMPLING[name] for name in ("model", "stream", "temperature", "top_p", "seed")},
        **TOOLS,
    ),
    "Response": _record(
        id=TEXT,
        object=_enum("response"),
        created_at=WHOLE,
        model=TEXT,
        status=_enum("completed", "incomplete"),
        output=OBJECTS,
        store={"type": "boolean", "description": "Always false: nothing is stored."},
    ),
    "MessagesRequest": _request(
        "messages",
        ["messages", "max_tokens"],
        **MESSAGE,
        max_tokens={**WHOLE, "minimum": 1},
        stop_sequences={"anyOf": [STRINGS, {"type": "null"}]},
        **{name: _SAMPLING[name] for name in ("model", "stream", "temperature", "top_p")},
    ),
    "CountRequest": _request("count", ["messages"], **MESSAGE),
    "Turn": _record(
        role=_enum("user", "assistant"),
        content={"anyOf": [TEXT, _list({"anyOf": [_ref("TextBlock"), _ref("DocumentBlock")]})]},
    ),
    "TextBlock": _TEXT_BLOCK,
    "DocumentBlock": _object(
        ["type", "source"],
        type=_enum("document"),
        title=NAME,
        source=_record(type=_enum("text"), data={**TEXT, "minLength": 1}),
        citations={**MAP, "properties": {"enabled": {"type": "boolean"}}},
    ),
    "AnthropicMessage": _record(
        id=TEXT,
        type=_enum("message"),
        role=_enum("assistant"),
        model=TEXT,
        content=OBJECTS,
        usage={"type": "object"},
    ),
    "MessagesError": _record(type=_enum("error"), error=_record(type=TEXT, message=TEXT)),
    "Usage": _record(prompt_tokens=WHOLE, completion_tokens=WHOLE),
    "Annotation": _record(
        type=_enum("url_citation"),
        kind=_enum("mark", "verbatim"),
        url_citation=_record(**_PLACE, title=TEXT, url=TEXT),
        document=_object(["number", "id"], number=WHOLE, id=TEXT, **_PLACE),
    ),
    "Grounding": _record(
        documents=STRINGS,
        left_out=STRINGS,
        verbatim_share={"type": "number", "minimum": 0, "maximum": 1},
        unknown_citations=_list(_record(number=WHOLE, **_PLACE)),
        unsupported_quotes=_list(_record(**_PLACE)),
    ),
    "Answer": {
        "description": "With documents in the request; streamed, they come with the delta that ends a choice.",
        **_object(
            [],
            annotations={"anyOf": [_list(_ref("Annotation")), {"type": "null"}]},
            grounding=_ref("Grounding"),
        ),
    },
    "ChatCompletion": _completion("chat.completion", message=_ref("Answer")),
    "Completion": _completion("text_completion", text=TEXT),
    "Generated": {"allOf": [_ref("Completion"), _record(text=STRINGS)]},
    "Model": _object(["id", "object"], id=TEXT, object=_enum("model"), max_model_len=WHOLE),
    "Models": _record(object=_enum("list"), data=_list(_ref("Model"))),
    "Tokens": _record(tokens=_list(WHOLE), count=WHOLE),
    "Health": _record(state=TEXT, ready={"type": "boolean"}, running=WHOLE, waiting=WHOLE),
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
                body={"anyOf": [TEXT, MAP]},
                isBase64Encoded={"type": "boolean"},
            ),
        ],
    },
}

_HEADERS: list[JSON] = [
    {"name": "x-request-id", "in": "header", "schema": TEXT, "description": "Echoed, logged and passed to the engine."},
    {
        "name": "x-request-timeout",
        "in": "header",
        "schema": {"type": "number", "exclusiveMinimum": 0},
        "description": "Shortens the request's deadline, seconds.",
    },
]


def _of(schema: JSON) -> JSON:
    return {"application/json": {"schema": schema}}


def _answers(content: JSON, *statuses: int, error: str = "Error") -> JSON:
    answers: JSON = {"200": {"description": "The answer.", "content": content}}
    return answers | {str(one): {"description": _ERRORS[one], "content": _of(_ref(error))} for one in statuses}


def _post(summary: str, takes: JSON, gives: JSON, streams: bool = False, error: str = "Error") -> JSON:
    content = _of(gives) | ({"text/event-stream": {}} if streams else {})
    return {
        "post": {
            "summary": summary,
            "parameters": _HEADERS,
            "requestBody": {"required": True, "content": _of(takes)},
            "responses": _answers(content, 400, 401, 403, 404, 413, 415, 429, 500, 503, 504, error=error),
        }
    }


def _get(summary: str, content: JSON, *statuses: int, method: str = "get", **more: Any) -> JSON:
    return {method: {"summary": summary, "responses": _answers(content, *statuses), **more}}


_OPEN: JSON = {"security": []}
_ANY = _of({"type": "object"})
_CHAT = _post("OpenAI chat completion.", _ref("ChatRequest"), _ref("ChatCompletion"), streams=True)
_PROMPT = {"anyOf": [_record(prompt=TEXT), _record(messages={"type": "array"})]}
_TOKENS = _record(tokens=_list({"type": "integer", "minimum": 0}))
_MODEL_NAME = {"name": "name", "in": "path", "required": True, "schema": TEXT}
_INVOKE = _post("One event as one request (Function Compute).", _ref("Event"), {})["post"]
_HEALTH = {"200": "Ready.", "503": "Loading, draining, or dead."}

PATHS: JSON = {
    "/chat": _CHAT,
    "/v1/chat/completions": _CHAT,
    "/generate": _post("A raw completion, plus the list `text`.", _ref("CompletionRequest"), _ref("Generated"), True),
    "/v1/completions": _post("OpenAI completion.", _ref("CompletionRequest"), _ref("Completion"), True),
    "/v1/responses": _post("OpenAI response, not stored.", _ref("ResponsesRequest"), _ref("Response"), True),
    "/v1/messages": _post(
        "Anthropic message.", _ref("MessagesRequest"), _ref("AnthropicMessage"), True, "MessagesError"
    ),
    "/v1/messages/count_tokens": _post(
        "Tokens of an Anthropic message.", _ref("CountRequest"), _record(input_tokens=WHOLE), error="MessagesError"
    ),
    "/tokenize": _post("Token ids of a prompt or of messages.", _PROMPT, _ref("Tokens")),
    "/detokenize": _post("The text of token ids.", _TOKENS, {"type": "object"}),
    "/v1/models": _get("The served models.", _of(_ref("Models")), 401, 503),
    "/v1/models/{name}": _get("One served model.", _of(_ref("Model")), 401, 404, 503, parameters=[_MODEL_NAME]),
    "/version": _get("Versions of service, engine and model.", _ANY, 401),
    "/health": {
        "get": {
            "summary": "200 only when a request sent now would be answered.",
            "responses": {
                status: {"description": text, "content": _of(_ref("Health"))} for status, text in _HEALTH.items()
            },
            **_OPEN,
        }
    },
    "/metrics": _get("Prometheus text.", {"text/plain": {"schema": TEXT}}, 401),
    "/openapi.json": _get("This description.", _ANY, **_OPEN),
    # Whatever the route inside the event answers.
    "/invoke": {
        "post": _INVOKE
        | {"responses": {"default": {"description": "The answer, without its status.", "content": {"*/*": {}}}}}
    },
    "/initialize": _get("Block until the engine is ready (Function Compute).", _ANY, 401, 403, 500, 503, method="post"),
    "/pre-stop": _get("Drain (Function Compute).", _ANY, 401, 403),
}


def describe() -> JSON:
    """The OpenAPI 3.1 description of this service."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "chatbot-llm", "version": __version__, "license": {"name": "Apache-2.0"}},
        "security": [{"bearer": []}, {"api_key": []}, {"x_api_key": []}, {}],
        "paths": PATHS,
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
