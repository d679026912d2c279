"""What a request body may ask for: size, depth, reach, and fields that do what their sender believes.

Runs before the engine sees anything and costs time in proportion to the body. vLLM refuses most nonsense itself; here
stands what it would accept and this service must not. What a schema costs is measured later (`engine/schema_check.py`).
A message names the place in the caller's words and repeats no value: bodies hold secrets.
"""

import json
import math
from typing import Any

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map

from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.engine.protocols.base import Protocol
from chatbot_llm.errors import BadRequest, require, wrong
from chatbot_llm.routes import fields, generate, structures
from chatbot_llm.settings import Settings

#: Deepest nesting of a body; the deepest honest one, a tool schema, stays below 20.
MAX_DEPTH = 64
#: Engines keep numbers in 64 bits.
MAX_NUMBER = 2**63 - 1
#: More messages, or content parts, than fit into any context served here (each costs about five tokens).
MAX_MESSAGES = 2_000
#: Most of anything a list field may hold: OpenAI's limits of tools and stop sequences, vLLM's of bad words.
MAX_ITEMS = {
    "tools": 128,
    "stop": 4,
    "stop_token_ids": 256,
    "bad_words": 128,
    "logit_bias": 1_024,
    "allowed_token_ids": 1_024,
    "structured_outputs.choice": 1_000,
}
#: Roles a chat template writes down; it drops a message of any other without a word.
ROLES = ("system", "developer", "user", "assistant", "tool")
#: vLLM's validators reach into these before they look at their type.
_LISTS = ("messages", "tools", "documents")
_OBJECTS = "response_format structured_outputs stream_options chat_template_kwargs text reasoning output_config".split()
#: Fields that hold schemas; their numbers may be as large as JSON's.
_SCHEMAS = ("tools", "response_format", "structured_outputs", "text", "output_config")
_TEXT_PARTS = ("text", "refusal", "thinking", "input_text", "output_text")
_MEDIA = ("image", "audio", "video", "url", "embeds", "file")


def read_json(raw: bytes) -> dict[str, Any]:
    """Parse a request body, with or without a byte order mark. Raises BadRequest saying what is wrong with it."""

    def constant(name: str) -> None:
        raise BadRequest(f"the body is not JSON: {name} is not a JSON number")

    try:
        body = json.loads(raw.decode("utf-8-sig"), parse_constant=constant)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except UnicodeError:
        raise BadRequest("the body is not valid UTF-8 text") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except UnicodeError:  # a legal JSON escape but no text: tokenizers break on it
        raise BadRequest(
            "the body holds a lone surrogate (half of a UTF-16 pair, such as \\ud83d without its other half), which is "
            "no text in UTF-8; text was probably cut between the halves"
        ) from None
    return body


def check(kind: str, body: dict[str, Any], settings: Settings) -> None:
    """Refuse what this service will not do; `kind` is a protocol's. Raises BadRequest, in that protocol's words.

    Takes out of the body what is null, which asks for nothing, and makes whole numbers of such as 2.0.
    """
    protocol = PROTOCOLS[kind]
    _own(protocol, body, settings)
    view = protocol.as_chat(body)
    try:
        _as_chat(view, settings)
    except BadRequest as error:
        raise protocol.in_words(error) from None


def _own(protocol: Protocol, body: dict[str, Any], settings: Settings) -> None:
    """What is judged of the body as it is: its size, its fields and their form."""
    for name in [name for name, value in body.items() if value is None]:
        del body[name]
    if (length := measure(body)) > settings.max_prompt_chars:
        raise BadRequest(
            f"the text has {length} characters; at most {settings.max_prompt_chars} are accepted",
            param="messages" if "messages" in body else protocol.prompt,
            code="context_length_exceeded",
        )
    require(isinstance(body.get("model", ""), str), "model", "must be a string")
    known = fields.PROTOCOLS[protocol.kind]
    fields.check(body, {**known, "script": fields.OBEYED} if settings.engine == "scripted" else known)
    for name in _LISTS:
        require(isinstance(body.get(name, []), list), name, "must be a list")
    for name in _OBJECTS:
        require(isinstance(body.get(name, {}), dict), name, "must be an object")
    for name in ("stream", "echo"):  # read here and by vLLM, which takes "false" for false
        require(isinstance(body.get(name, False), bool), name, "must be true or false")
    for name in ("stream_options", "text", "reasoning", "output_config"):
        if name in body:
            fields.check(body[name], fields.INSIDE[name], name)
    if "prompt" in body:
        prompts = generate.each(body["prompt"])
        texts = all(isinstance(one, str) for one in prompts)
        tokens = all(isinstance(one, list) and one and all(type(token) is int for token in one) for one in prompts)
        shapes = "must be a string, a list of strings, token ids, or a list of lists of token ids; no list may be empty"
        require(prompts and (texts or tokens), "prompt", shapes)


def _as_chat(body: dict[str, Any], settings: Settings) -> None:
    """What is judged in a chat's words, whatever the protocol: limits, roles, parts, and what must be obeyed."""
    for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
        _at_most(body, name, settings.max_tokens_cap)
    _at_most(body, "n", settings.max_choices)
    for name, most in MAX_ITEMS.items():
        outer, _, inner = name.partition(".")
        value = body.get(outer, {}).get(inner) if inner else body.get(outer)
        if isinstance(value, list | dict) and len(value) > most:
            raise wrong(name, f"at most {most}, not {len(value)}")
    if body.get("echo") and (body.get("logprobs") or body.get("top_logprobs")):
        raise wrong("logprobs", "not together with echo, which would score the whole prompt")
    if "chat_template" in body.get("chat_template_kwargs", {}):
        raise wrong("chat_template_kwargs", "chat_template is not accepted here")
    if len(generate.each(body.get("prompt"))) > settings.max_choices:
        raise wrong("prompt", f"at most {settings.max_choices} prompts in one request")
    _messages(body.get("messages", ()))
    structures.check(body, settings)


def _at_most(body: dict[str, Any], name: str, most: int) -> None:
    if (value := body.get(name)) is None:
        return
    if isinstance(value, float) and value.is_integer():
        body[name] = value = int(value)
    # vLLM's models would read "9" as a number, too late for this bound.
    require(type(value) is int, name, "must be an integer")
    require(value <= most, name, f"at most {most}")


def measure(body: dict[str, Any]) -> int:
    """Characters of all strings in the body, and four for each number (a token id).

    Raises BadRequest for what is nested too deeply and for numbers no engine can hold. Does not recurse.
    """
    total = 0
    for name, field in body.items():
        most = math.inf if name in _SCHEMAS else MAX_NUMBER
        depth, level = 0, [[field]]
        while level:
            inner: list[Any] = []
            for item in level:
                for value in item.values() if isinstance(item, dict) else item:
                    if isinstance(value, str):
                        total += len(value)
                    elif isinstance(value, dict | list):
                        inner.append(value)
                    elif isinstance(value, int | float):
                        total += 4
                        if abs(value) > most or value in (math.inf, -math.inf):
                            raise BadRequest("the body holds a number that does not fit into 64 bits")
            level, depth = inner, depth + 1
            if depth > MAX_DEPTH:
                raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
    return total


def _messages(messages: Any) -> None:
    """Only text, and only roles that a template knows. An image part would make the server fetch the address in it."""
    parts = 0
    for at, message in enumerate(messages):
        place = f"messages[{at}]"
        require(isinstance(message, dict), place, "must be an object with role and content")
        role, content = message.get("role"), message.get("content")
        if role == "function" or message.get("function_call"):
            raise wrong(place, "send tool_calls and messages of role tool instead of functions")
        require(role in ROLES, f"{place}.role", f"must be one of {', '.join(ROLES)}")
        require(isinstance(content, str | list | None), f"{place}.content", "must be a string or a list of parts")
        listed = content if isinstance(content, list) else []
        parts += max(1, len(listed))
        require(parts <= MAX_MESSAGES, "messages", f"at most {MAX_MESSAGES} messages and content parts")
        for number, part in enumerate(listed):
            _part(part, f"{place}.content[{number}]")
        _past_calls(message.get("tool_calls"), f"{place}.tool_calls")


def _part(part: Any, place: str) -> None:
    if isinstance(part, str):
        return
    require(isinstance(part, dict), place, "must be an object with type and text")
    for name in [name for name, value in part.items() if value is None]:
        del part[name]
    # vLLM also takes a part without a type, by the name of its field.
    if part.get("type", "text") not in _TEXT_PARTS or any(word in key for key in part for word in _MEDIA):
        raise wrong(place, "only parts of type text are accepted")
    if part.get("type") in ("text", "input_text", "output_text") and not isinstance(part.get("text"), str):
        raise wrong(f"{place}.text", "must be a string")


def _past_calls(calls: Any, place: str) -> None:
    """Tool calls that the conversation already holds; templates read their arguments as JSON."""
    require(isinstance(calls, list | None), place, "must be a list")
    for at, call in enumerate(calls or ()):
        call = call if isinstance(call, dict) else {}
        function, named = call.get("function"), f"{place}[{at}]"
        require(isinstance(call.get("id", ""), str), f"{named}.id", "must be a string")
        require(call.get("type", "function") == "function", f"{named}.type", "must be function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRequest(f"{named}.function: must be an object with name and arguments", param=place)
        arguments = function.get("arguments") or "{}"
        try:
            sound = isinstance(arguments, dict) or isinstance(json.loads(arguments), dict)
        except (TypeError, ValueError, RecursionError):
            sound = False
        require(sound, f"{named}.function.arguments", "must be a JSON object, written as a string")


def missing(method: str, path: str, routes: Map) -> str:
    """What a caller is told about a path that is no route: most have forgotten the /v1 of their base URL."""
    message = f"there is no route {method} {path[:200]}"
    must = "not end" if path.startswith("/v1/v1/") else "end"  # Anthropic's clients write the /v1 themselves
    other = path.removeprefix("/v1") if must == "not end" else f"/v1{path}"
    try:
        routes.bind("").match(other, method)
    except HTTPException:
        return message
    return f"{message}, but there is {other[:200]}: the base URL must {must} in /v1"
