"""What a checked request wants enforced on its answer."""

import json
from collections.abc import Iterator
from typing import Any


def demanded(body: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(place, kind, text) of whatever must be obeyed."""
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        yield "response_format.json_schema.schema", "json", json.dumps(wanted["json_schema"]["schema"])
    for name, value in (body.get("structured_outputs") or {}).items():
        if name != "json_object":
            yield f"structured_outputs.{name}", name, value if isinstance(value, str) else json.dumps(value)
    for at, function in _functions(body):
        if function.get("strict"):
            yield f"tools[{at}].function.parameters", "json", json.dumps(function.get("parameters") or {})


def hinted(body: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """(which tool, schema) of every tool that is not strict."""
    for at, function in _functions(body):
        if not function.get("strict") and function.get("parameters"):
            yield at, json.dumps(function["parameters"])


def _functions(body: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    if body.get("tool_choice") != "none":
        yield from ((at, tool["function"]) for at, tool in enumerate(body.get("tools") or ()))


def patterns(schema: Any) -> Iterator[str]:
    """Every regular expression of a schema."""
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get("patternProperties"), dict):
                yield from item["patternProperties"]
            if isinstance(item.get("pattern"), str):
                yield item["pattern"]
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
