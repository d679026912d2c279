"""What a checked request wants enforced on its answer, and what of it the grammar library could not enforce."""

import json
from collections.abc import Iterator
from typing import Any

#: Formats of strings that the grammar library knows.
FORMATS = frozenset(
    "email date time date-time duration ipv4 ipv6 hostname uuid uri uri-reference uri-template json-pointer "
    "relative-json-pointer".split()
)


def demanded(body: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(place, kind, text) of whatever must be obeyed."""
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        yield "response_format.json_schema.schema", "json", json.dumps(wanted["json_schema"]["schema"])
    elif wanted.get("type") == "structural_tag":
        yield "response_format", "structural_tag", json.dumps(wanted)
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


def unsupported(schema: Any) -> str:
    """The keyword of a schema that the grammar library would ignore or cannot hold, or "" (vLLM's list, as it is)."""
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        if not isinstance(item, dict):
            continue
        stack.extend(item.values())
        kinds = item.get("type")
        kinds = set(kinds if isinstance(kinds, list) else [kinds]) if isinstance(kinds, str | list) else set()
        lengths = [key for key in ("minLength", "maxLength") if key in item]
        if kinds & {"integer", "number"} and "multipleOf" in item:
            return "multipleOf"
        if "array" in kinds:
            for key in ("uniqueItems", "contains", "minContains", "maxContains"):
                if key in item:
                    return key
        if "string" in kinds and lengths and ("pattern" in item or "format" in item):
            return f"{lengths[0]} beside pattern or format"
        if "string" in kinds and "format" in item and item["format"] not in FORMATS:
            return "this format"
        if "object" in kinds and "propertyNames" in item:
            return "propertyNames"
        many = item.get("patternProperties")
        if "object" in kinds and isinstance(many, dict) and ("properties" in item or len(many) > 1):
            return "patternProperties beside properties or another pattern"
        if isinstance(item.get("allOf"), list) and len(item["allOf"]) > 1:
            return "allOf of several schemas"
    return ""
