"""What a request wants enforced on its answer: tools, response_format, structured_outputs. Their form, not their cost.

A schema that must be obeyed is `response_format`, `structured_outputs` and a tool with `strict: true`. Any other tool's
schema is a hint: it may be as odd as it likes.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from chatbot_llm.errors import BadRequest, require, wrong
from chatbot_llm.routes import fields
from chatbot_llm.settings import Settings

#: Largest JSON schema, characters: what OpenAI allows for all names and values of one.
MAX_SCHEMA = 120_000
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
#: Keywords whose values are data, not schemas.
_DATA = ("enum", "const", "default", "examples")
_RAW = ("regex", "grammar")
#: Keywords that hold schemas by name.
_NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
#: Formats that the grammar library follows beside a pattern. A `time` has an offset, which zod's pattern forbids.
_BESIDE = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
#: Formats that stand for the pattern with look-around that zod puts beside them.
_STAND_FOR = ("email", "duration")
#: Formats that say what a text is for and nothing of its form.
_PURPOSES = ("password", "binary", "byte", "path", "file-path", "directory-path")
_UUID = "^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"


def check(body: dict[str, Any], settings: Settings) -> None:
    """Raises BadRequest naming the place."""
    _tools(body)
    _response_format(body)
    _structured_outputs(body, settings)


def _tools(body: dict[str, Any]) -> None:
    tools = body.get("tools", ())
    _sized(tools, "tools")
    for at, tool in enumerate(tools):
        place = f"tools[{at}]"
        tool = tool if isinstance(tool, dict) else {}
        function: Any = tool.get("function")
        require(tool.get("type", "function") == "function", f"{place}.type", "only tools of type function are accepted")
        named = isinstance(function, dict) and isinstance(function.get("name"), str)
        require(named, f"{place}.function", "must be an object with a name")
        require(isinstance(function.get("strict"), bool | None), f"{place}.function.strict", "must be true or false")
        if not isinstance(parameters := function.get("parameters"), dict | None):
            raise BadRequest(f"{place}.function.parameters: must be a JSON schema, an object", param=place)
        _references(parameters, f"{place}.function.parameters")
        _tidy(parameters)
        if function.get("strict"):
            _counts(parameters, f"{place}.function.parameters")


def _response_format(body: dict[str, Any]) -> None:
    wanted, place = body.get("response_format"), "response_format"
    if wanted is None:
        return
    fields.check(wanted, fields.INSIDE[place], place)
    kind = wanted.get("type")
    known = kind in ("text", "json_object", "json_schema")
    require(known, f"{place}.type", "must be text, json_object or json_schema")
    inner = wanted.get("json_schema")
    if kind != "json_schema":
        require(inner is None, f"{place}.json_schema", 'needs "type": "json_schema" beside it')
        return
    place = "response_format.json_schema"
    require(isinstance(inner, dict), place, "must be an object with name and schema")
    fields.check(inner, fields.INSIDE[place], place)
    require(isinstance(inner.get("name"), str), f"{place}.name", "must be a string")
    _schema(inner.get("schema"), f"{place}.schema")


def _structured_outputs(body: dict[str, Any], settings: Settings) -> None:
    wanted, place = body.get("structured_outputs"), "structured_outputs"
    if wanted is None:
        return
    for name in [name for name, value in wanted.items() if value is None]:
        del wanted[name]
    fields.check(wanted, fields.INSIDE[place], place)
    kinds = [name for name in wanted if fields.INSIDE[place][name] is fields.OBEYED]
    require(len(kinds) == 1, place, "must hold exactly one of json, choice, json_object")
    if body.get("response_format", {}).get("type", "text") != "text":
        raise wrong(place, "not together with response_format")
    (kind,) = kinds
    value, named = wanted[kind], f"{place}.{kind}"
    if kind in _RAW:
        # A grammar of the caller's own is a program that runs in the engine, for every token of everyone.
        require(
            settings.raw_grammars,
            named,
            "not accepted here; use a JSON schema (response_format) or structured_outputs.choice "
            "(the operator can allow it: CHATBOT_RAW_GRAMMARS)",
        )
        require(isinstance(value, str) and value.strip(), named, "must be a string with something in it")
        _sized(value, named)
    elif kind == "json_object":
        require(value is True, named, "must be true, or left out")
    elif kind == "choice":
        listed = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
        require(listed, named, "must be a list of strings")
        _sized(value, named)
    elif kind == "json":
        if isinstance(value, str):  # vLLM takes a schema in a string, too
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise wrong(named, "is not JSON") from None
        _schema(value, named)


def _schema(value: Any, place: str) -> None:
    """A schema that must be obeyed."""
    require(isinstance(value, dict), place, "must be a JSON schema, an object")
    _sized(value, place)
    _references(value, place)
    _counts(value, place)
    _tidy(value)


def _tidy(schema: Any) -> None:
    """Put a schema, in place, as the grammar library reads it.

    Bounds that every number keeps, `uniqueItems: false` and formats that say nothing of the form go. So does a format
    that the library does not follow beside a pattern, and a pattern that looks around beside the format it stands for.
    """
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        if not isinstance(item, dict):
            continue
        for key, value in list(item.items()):
            if key in _NAMED and isinstance(value, dict):
                stack.extend(value.values())
            elif key not in _DATA:
                stack.append(value)
            bound = key in _BOUNDS and isinstance(value, int | float) and abs(value) >= sys.float_info.max
            if bound or (key == "uniqueItems" and value is False):
                del item[key]
        form, pattern = item.get("format"), item.get("pattern")
        if not isinstance(form, str):
            continue
        if isinstance(pattern, str):
            if not re.search(r"\(\?<?[=!]", pattern):
                if form not in _BESIDE:
                    del item["format"]
            elif form in _STAND_FOR:
                del item["pattern"]
        elif form in _PURPOSES:
            del item["format"]
        elif re.fullmatch("uuid[1-8]", form):  # pydantic's UUID4
            item["pattern"] = _UUID.format(item.pop("format")[-1])


def _sized(value: Any, place: str) -> None:
    size = len(json.dumps(value, ensure_ascii=False))
    require(size <= MAX_SCHEMA, place, f"{size} characters, at most {MAX_SCHEMA}")


def _references(schema: Any, place: str) -> None:
    for where, key, value in _keywords(schema, place):
        if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str) and not value.startswith("#"):
            raise BadRequest(f"{where}: {key} may only point into the same schema, as #/...", param=place)


def _counts(schema: Any, place: str) -> None:
    for where, key, value in _keywords(schema, place):
        if key in _COUNTS and (
            isinstance(value, bool) or not (isinstance(value, int) or float(value).is_integer()) or value < 0
        ):
            raise BadRequest(f"{where}: {key} must be a whole number of at least 0", param=place)


def _keywords(schema: Any, place: str) -> Iterator[tuple[str, str, Any]]:
    """(place, keyword, value) of every keyword whose value is a number or a string."""
    stack = [(place, schema)]
    while stack:
        where, item = stack.pop()
        if isinstance(item, list):
            stack.extend((where, inner) for inner in item)
        elif isinstance(item, dict):
            for key, value in item.items():
                if isinstance(value, dict | list):
                    if key not in _DATA or isinstance(value, dict):
                        stack.append((f"{where}.{key}" if key.isidentifier() and len(key) < 40 else where, value))
                elif isinstance(value, int | float | str) and not (key in _COUNTS and isinstance(value, str)):
                    yield where, key, value
