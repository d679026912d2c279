"""What a request body may ask for: size, depth and reach. Runs before the engine sees anything.

vLLM refuses most nonsense itself; here stands what it would accept and this service must not: unbounded work, code from
outside, and anything that would make the server fetch from a place the client names. No message repeats a value of the
body: bodies hold secrets.
"""

import json
import re
from typing import Any

from chatbot_llm.errors import BadRequest
from chatbot_llm.settings import Settings

Body = dict[str, Any]

#: Deepest nesting of a body; the deepest honest one, a tool schema, stays below 20.
MAX_DEPTH = 64
#: Engines keep numbers in 64 bits.
MAX_NUMBER = 2**63 - 1
#: More messages, or content parts, than fit into any context served here (each costs about five tokens).
MAX_MESSAGES = 2_000
#: Longest regular expression or grammar, characters.
MAX_PATTERN = 1_000
#: Most `?`, `*`, `+`, `{...}` and empty alternatives in one pattern: the time to compile grows with their square;
#: twenty optional dots take xgrammar about a second, sixty more than ten.
MAX_QUANTIFIERS = 20
#: Largest product of the counts in one pattern: its automaton has at least that many states.
MAX_REPEAT = 128
#: Sum of characters times counts over all patterns of a request: 10,000 compile in about a second.
MAX_PATTERN_WORK = 10_000
#: Largest JSON schema, characters.
MAX_SCHEMA = 20_000
#: Most of anything a list field may hold. OpenAI's limits: 128 tools, 4 stop sequences.
MAX_ITEMS = {
    "tools": 128,
    "stop": 16,
    "stop_token_ids": 256,
    "bad_words": 256,
    "logit_bias": 1_024,
    "documents": 256,
}
#: Most alternatives of one `choice` or `enum`.
MAX_CHOICE = 256
#: Largest count a JSON schema may set: what is bounded by counting is unrolled.
MAX_COUNT = {
    "minLength": 10_000,
    "maxLength": 10_000,
    "minItems": 1_000,
    "maxItems": 1_000,
    "minProperties": 1_000,
    "maxProperties": 1_000,
}
#: Fields that bring code or internals with them, or cost far more than an answer.
REFUSED = (
    "chat_template",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
    "priority",
    "request_id",
    "use_beam_search",
    "prompt_embeds",
    # Scores of a whole prompt: tokens x vocabulary in float32, 1.2 GB for a chunk of 2048 tokens of Qwen2.5.
    "prompt_logprobs",
)
#: vLLM's validators reach into these before they look at their type.
_SHAPES: dict[str, type] = {
    "messages": list,
    "tools": list,
    "response_format": dict,
    "structured_outputs": dict,
    "stream_options": dict,
    "chat_template_kwargs": dict,
}
_STRUCTURES = ("tools", "response_format", "structured_outputs")
_PATTERN_KEYS = ("regex", "pattern", "grammar", "whitespace_pattern")
_TEXT_PARTS = ("text", "refusal", "thinking", "input_text", "output_text")
_MEDIA = ("image", "audio", "video", "url", "embeds", "file")
_QUANTIFIER = re.compile(r"(?<!\()\?|[*+{]|\|(?=[|)])|\(\||\"\"")
_COUNTS = re.compile(r"\{\s*(\d+)\s*(?:,\s*(\d*)\s*)?\}")


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
    if (length := _measure(body)) > settings.max_prompt_chars:
        raise BadRequest(
            f"the text has {length} characters; at most {settings.max_prompt_chars} are accepted",
            param="messages" if "messages" in body else "prompt",
            code="context_length_exceeded",
        )
    if not isinstance(body.get("model"), str | None):
        raise BadRequest("model: must be a string", param="model")
    for name, shape in _SHAPES.items():
        if not isinstance(body.get(name), shape | None):
            raise BadRequest(f"{name}: must be {'a list' if shape is list else 'an object'}", param=name)
    for name in REFUSED:
        if body.get(name) is not None and body[name] is not False:
            raise BadRequest(f"{name}: this field is not accepted here; leave it out", param=name)
    if body.get("echo") and body.get("logprobs"):
        raise BadRequest("logprobs: not together with echo, which would score the whole prompt", param="logprobs")
    if isinstance(extras := body.get("chat_template_kwargs"), dict) and "chat_template" in extras:
        raise BadRequest("chat_template_kwargs: chat_template is not accepted here", param="chat_template_kwargs")
    for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
        _at_most(body, name, settings.max_tokens_cap)
    for name in ("n", "best_of"):
        _at_most(body, name, settings.max_choices)
    for name, most in MAX_ITEMS.items():
        if isinstance(body.get(name), list | dict) and len(body[name]) > most:
            raise BadRequest(f"{name}: at most {most}", param=name)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) and len(prompt) > settings.max_choices:
        raise BadRequest(f"prompt: at most {settings.max_choices} prompts in one request", param="prompt")
    _messages(body.get("messages"))
    _structures(body)


def _at_most(body: dict[str, Any], name: str, most: int) -> None:
    value = body.get(name)
    # vLLM's models would read "9" and 9.0 as numbers, too late for this bound.
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise BadRequest(f"{name}: must be an integer", param=name)
    if value is not None and value > most:
        raise BadRequest(f"{name}: at most {most}", param=name)


def _measure(body: dict[str, Any]) -> int:
    """Characters of all strings in the body, and four for each number (a token id).

    Raises BadRequest for what is nested too deeply and for numbers no engine can hold. Does not recurse.
    """
    total, depth, level = 0, 0, [body]
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
                    if not -MAX_NUMBER <= value <= MAX_NUMBER:
                        raise BadRequest("the body holds a number that does not fit into 64 bits")
        level, depth = inner, depth + 1
        if depth > MAX_DEPTH:
            raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
    return total


def _messages(messages: Any) -> None:
    """Only text parts: an image part would make the server fetch the address in it."""
    if not isinstance(messages, list):
        return
    parts = 0
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        parts += max(1, len(content) if isinstance(content, list) else 1)
        if parts > MAX_MESSAGES:
            raise BadRequest(f"messages: at most {MAX_MESSAGES} messages and content parts", param="messages")
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict):
                continue
            # vLLM also takes a part without a type, by the name of its field.
            if part.get("type", "text") not in _TEXT_PARTS or any(word in key for key in part for word in _MEDIA):
                raise BadRequest("messages: only parts of type text are accepted", param="messages")


def _structures(body: dict[str, Any]) -> None:
    """Bound everything that is compiled into an automaton: schemas, patterns, grammars, choices."""
    work = 0
    for name in _STRUCTURES:
        value = body.get(name)
        if not isinstance(value, dict | list):
            continue
        if len(json.dumps(value)) > MAX_SCHEMA:
            raise BadRequest(f"{name}: larger than {MAX_SCHEMA} characters", param=name)
        work += _schema(value, name)
    if work > MAX_PATTERN_WORK:
        raise BadRequest("the patterns in this request are too long, or their counts too large, to be compiled")


def _schema(value: Any, name: str) -> int:
    """Check a schema or whatever holds one; returns the work its patterns make (characters times counts)."""
    work = 0
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, item = stack.pop()
        if key == "patternProperties" and isinstance(item, dict):
            work += sum(_pattern(pattern, key, name) for pattern in item)
        if isinstance(item, dict):
            stack.extend(item.items())
        elif isinstance(item, list):
            if key in ("choice", "enum") and len(item) > MAX_CHOICE:
                raise BadRequest(f"{name}: {key} has more than {MAX_CHOICE} entries", param=name)
            stack.extend((key, inner) for inner in item)
        elif isinstance(item, str):
            if key in ("$ref", "$dynamicRef", "$recursiveRef") and not item.startswith("#"):
                raise BadRequest(f"{name}: {key} may only point into the same schema, as #/...", param=name)
            if key in ("json", "structural_tag"):
                stack.append(("", _inner_json(item, key, name)))
            if key in _PATTERN_KEYS:
                work += _pattern(item, key, name)
        elif key in MAX_COUNT and isinstance(item, int | float) and item > MAX_COUNT[key]:
            raise BadRequest(f"{name}: {key} may be at most {MAX_COUNT[key]}", param=name)
    return work


def _inner_json(text: str, key: str, name: str) -> Any:
    """vLLM also takes a schema as a string of JSON; it is bound by the same rules."""
    try:
        inner = json.loads(text)
        if isinstance(inner, dict):
            _measure(inner)
    except (ValueError, RecursionError):
        raise BadRequest(f"{name}: {key} is not JSON", param=name) from None
    return inner


def _pattern(text: str, key: str, name: str) -> int:
    if len(text) > MAX_PATTERN:
        raise BadRequest(f"{name}: {key} is longer than {MAX_PATTERN} characters", param=name)
    if len(_QUANTIFIER.findall(text)) > MAX_QUANTIFIERS:
        raise BadRequest(f"{name}: {key} has more than {MAX_QUANTIFIERS} quantifiers", param=name)
    product = 1
    for counts in _COUNTS.finditer(text):
        product *= max(1, *(min(int(digits[:9]), MAX_REPEAT + 1) for digits in counts.groups() if digits))
        if product > MAX_REPEAT:
            raise BadRequest(f"{name}: the counts in {key} multiply to more than {MAX_REPEAT}", param=name)
    return len(text) * product
