"""What a request body may ask for: size, depth and reach. Runs before the engine sees anything.

vLLM refuses most nonsense itself; here stands what it would accept and this service must not: unbounded work, code from
outside, and anything that would make the server fetch from a place the client names.
"""

import json
from typing import Any

from chatbot_llm.errors import BadRequest
from chatbot_llm.settings import Settings

#: Deepest nesting of a body; the deepest honest one, a tool schema, stays below 20.
MAX_DEPTH = 64
#: Longest regular expression or grammar, characters: compiling one grows faster than its length.
MAX_PATTERN = 1_000
#: Largest JSON schema, characters.
MAX_SCHEMA = 20_000
#: Largest count in a pattern or schema ({n,m}, minItems, maxLength ...): the automaton has that many states.
MAX_REPEAT = 1_000
MAX_TOOLS = 64
#: Most alternatives a structured output may choose from.
MAX_CHOICE = 256
#: Fields that bring code or internals with them.
REFUSED = (
    "chat_template",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
    "cache_salt",
    "priority",
    "request_id",
    "use_beam_search",
)


def read_json(raw: bytes) -> dict[str, Any]:
    """Parse a request body. Raises BadRequest saying what is wrong with it."""

    def constant(name: str) -> None:
        raise BadRequest(f"the body is not JSON: {name} is not a JSON number")

    try:
        body = json.loads(raw.decode(), parse_constant=constant)
        # A lone surrogate is a legal JSON escape but no text: tokenizers break on it.
        json.dumps(body, ensure_ascii=False).encode()
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except UnicodeError:
        raise BadRequest("the body is not valid UTF-8 text") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def check(body: dict[str, Any], settings: Settings) -> None:
    """Refuse what this service will not do. Raises BadRequest."""
    if _depth(body) > MAX_DEPTH:
        raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
    for name in REFUSED:
        if body.get(name) is not None and body[name] is not False:
            raise BadRequest(f"{name}: this field is not accepted here; leave it out", param=name)
    if isinstance(extras := body.get("chat_template_kwargs"), dict) and "chat_template" in extras:
        raise BadRequest("chat_template_kwargs: chat_template is not accepted here", param="chat_template_kwargs")
    for name in ("max_tokens", "max_completion_tokens"):
        _at_most(body, name, settings.max_tokens_cap)
    for name in ("n", "best_of"):
        _at_most(body, name, settings.max_choices)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) and len(prompt) > settings.max_choices:
        raise BadRequest(f"prompt: at most {settings.max_choices} prompts in one request", param="prompt")
    if (length := _text_length((body.get("messages"), prompt))) > settings.max_prompt_chars:
        raise BadRequest(
            f"the text has {length} characters; at most {settings.max_prompt_chars} are accepted",
            param="messages" if "messages" in body else "prompt",
            code="context_length_exceeded",
        )
    _no_media(body.get("messages"))
    _structures(body)


def _at_most(body: dict[str, Any], name: str, most: int) -> None:
    value = body.get(name)
    if isinstance(value, int | float) and value > most:
        raise BadRequest(f"{name}: at most {most}", param=name)


def _depth(value: Any) -> int:
    """Nesting depth without recursion; stops counting beyond what is allowed."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level, depth = inner, depth + 1
    return depth


def _text_length(value: Any) -> int:
    """Characters of all strings, and four for each number (a token id), in a bounded structure."""
    total, stack = 0, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, int | float):
            total += 4
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
    return total


def _no_media(messages: Any) -> None:
    """Only text parts: an image part would make the server fetch the address in it."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            kind = part.get("type", "text") if isinstance(part, dict) else "text"
            if kind not in ("text", "refusal", "thinking", "input_text", "output_text"):
                raise BadRequest(f"messages: only text is accepted, not {kind!s:.40}", param="messages")


def _structures(body: dict[str, Any]) -> None:
    """Bound everything that is compiled into an automaton: schemas, patterns, grammars, choices."""
    tools = body.get("tools")
    if isinstance(tools, list) and len(tools) > MAX_TOOLS:
        raise BadRequest(f"tools: at most {MAX_TOOLS}", param="tools")
    for name in ("tools", "response_format", "structured_outputs"):
        value = body.get(name)
        if value is None:
            continue
        if len(json.dumps(value)) > MAX_SCHEMA:
            raise BadRequest(f"{name}: larger than {MAX_SCHEMA} characters", param=name)
        _schema(value, name)


def _schema(value: Any, name: str) -> None:
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.items())
        elif isinstance(item, list):
            if key in ("choice", "enum") and len(item) > MAX_CHOICE:
                raise BadRequest(f"{name}: {key} has more than {MAX_CHOICE} entries", param=name)
            stack.extend((key, inner) for inner in item)
        elif isinstance(item, str):
            if key in ("$ref", "$dynamicRef", "$recursiveRef") and not item.startswith("#"):
                raise BadRequest(f"{name}: {key} may only point into the same schema, as #/...", param=name)
            if key in ("regex", "pattern", "grammar", "structural_tag"):
                _pattern(item, key, name)
        elif isinstance(item, int | float) and key.startswith(("min", "max")) and abs(item) > MAX_REPEAT:
            if key in ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"):
                raise BadRequest(f"{name}: {key} may be at most {MAX_REPEAT}", param=name)


def _pattern(text: str, key: str, name: str) -> None:
    if len(text) > MAX_PATTERN:
        raise BadRequest(f"{name}: {key} is longer than {MAX_PATTERN} characters", param=name)
    product = 1
    for piece in text.split("{")[1:]:
        for number in piece.split("}")[0].split(","):
            if number.strip().isdigit():
                product *= max(1, min(int(number), MAX_REPEAT + 1))
    if product > MAX_REPEAT:
        raise BadRequest(f"{name}: the counts in {key} multiply to more than {MAX_REPEAT}", param=name)
