"""What an answer with tools may look like, as a grammar: the calls that Qwen2.5 was trained to write.

vLLM's own grammars of tool calls are in a form that only xgrammar reads; these are llguidance's (its docs/syntax.md).
"""

import json
from collections.abc import Mapping
from typing import Any

from chatbot_llm.errors import require

#: The name under which vLLM knows the parser of these calls.
PARSER = "hermes_calls"
OPEN, CLOSE = "<tool_call>", "</tool_call>"
#: Arguments are written as Python's `json.dumps` does, the form of the training data: where any white space may stand,
#: a small model writes blanks for ever.
_AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def wanted(prepared: Any, free: frozenset[int]) -> str:
    """The grammar that vLLM's parsed request wants for its tools and `tool_choice`; "" where it needs none of ours.

    `free` tools, by index, may have any arguments. Raises BadRequest for a choice that is not among the tools.
    """
    choice = prepared.tool_choice
    if not prepared.tools or choice == "none":
        return ""
    functions = [getattr(tool, "function", tool) for tool in prepared.tools]  # in Responses a tool is the function
    schemas = {function.name: None if at in free else function.parameters for at, function in enumerate(functions)}
    named = not isinstance(choice, str | None)
    if named:
        name = getattr(choice, "function", choice).name
        require(name in schemas, "tool_choice", f"no tool is called {name}")
        schemas = {name: schemas[name]}
    forced = named or choice == "required"
    constraint = None if forced else prepared.extract_structured_outputs()
    otherwise = _expression(constraint)
    if constraint is not None and not otherwise:
        return ""  # a grammar of the caller's own, for text alone
    several = not named and prepared.parallel_tool_calls is not False
    return grammar(schemas, forced=forced, several=several, otherwise=otherwise)


def _expression(constraint: Any) -> str:
    """What a request wants of its text, as a Lark expression; "" for nothing, or for a grammar of the caller's own."""
    if constraint is None:
        return ""
    if constraint.choice:
        return " | ".join(json.dumps(one) for one in constraint.choice)
    schema = {"type": "object"} if constraint.json_object else constraint.json
    return f"%json {schema if isinstance(schema, str) else json.dumps(schema)}" if schema is not None else ""


def grammar(schemas: Mapping[str, Any], *, forced: bool, several: bool, otherwise: str = "") -> str:
    """A grammar of calls of these functions, by name, whose arguments obey their schemas (None: any object).

    `forced`: there is a call, and no text; else there may be text, or what `otherwise` says, in place of calls.
    `several`: more than one call.
    """
    calls = [f"call_{at}" for at in range(len(schemas))]
    rules = [f"call: {' | '.join(calls)}"]
    for call, (name, schema) in zip(calls, schemas.items(), strict=True):
        begin = f'{{"name": {json.dumps(name)}, "arguments": '
        obeyed = json.dumps({**(schema or {"type": "object"}), "x-guidance": _AS_TRAINED})
        rules.append(f'{call}: "\\n"? {json.dumps(begin)} %json {obeyed} "}}" "\\n"? {json.dumps(CLOSE)}')
    # Nothing between two calls, as in vLLM's own grammars: after a line break a small model begins the next.
    first = f"({json.dumps(OPEN)} call){'+' if several else ''}"
    if forced or otherwise:
        rules.append(f"start: {' | '.join(filter(None, (first, otherwise)))}")
    else:
        rules += [
            f"start: {'(opened call)* TEXT' if several else 'opened call | TEXT'}",
            f"opened[lazy]: TEXT {json.dumps(OPEN)}",
            r"TEXT: /(.|\n)*/",
        ]
    return "\n".join(["%llguidance {}", *rules])


def without_half_call(content: str | None) -> str | None:
    """The text of an answer that max_tokens has cut inside a tool call; vLLM's stream holds the half call back, too."""
    text, begun, call = (content or "").partition(OPEN)
    return content if not begun or CLOSE in call else text.strip() or None
