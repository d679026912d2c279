"""A chat body with something in every field, and ways to hide one value in each of its places."""

from collections.abc import Iterator
from typing import Any

BODY: dict[str, Any] = {
    "model": None,
    "messages": [{"role": "user", "content": "Hello", "name": "a"}],
    "max_tokens": 2,
    "temperature": 0.5,
    "stop": ["x"],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/a", "pattern": "a"}}}],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "structured_outputs": {"regex": "a", "json": "{}"},
    "stream_options": {"include_usage": True},
    "chat_template": None,
    "user": "u",
}
RESPONSE: dict[str, Any] = {
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
    "instructions": "a",
    "max_output_tokens": 2,
    "tools": [{"type": "function", "name": "f", "parameters": {"$ref": "#/a"}}],
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    "metadata": {"a": "b"},
    "previous_response_id": None,
}
MESSAGE: dict[str, Any] = {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    "system": [{"type": "text", "text": "a"}],
    "max_tokens": 2,
    "tools": [{"name": "f", "input_schema": {"$ref": "#/a"}}],
    "stop_sequences": ["x"],
    "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    "metadata": {"user_id": "u"},
}


def poisoned(value: Any, poison: str) -> Iterator[Any]:
    """The body again and again, each time with the poison in place of one value or as one more name."""
    yield poison
    if isinstance(value, dict):
        yield {**value, poison: 1}
        for name, inner in value.items():
            for changed in poisoned(inner, poison):
                yield {**value, name: changed}
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            for changed in poisoned(inner, poison):
                yield [*value[:at], changed, *value[at + 1 :]]
