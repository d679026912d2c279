"""What the service says of itself, read from its source: settings and defaults, engine flags by profile.

Its modules are not imported: that would ask an operator's environment for the service's own dependencies.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from infra import ROOT

PACKAGE = ROOT / "code" / "chatbot_llm"
PREFIX = "CHATBOT_"
DEFAULT_PORT = 8000  # vLLM's own default for --port, and the image's


def _constant(node: ast.expr) -> Any:
    """The value of a literal, or of one as JSON; None for anything else that must be computed."""
    try:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "json.dumps":
            return json.dumps(ast.literal_eval(node.args[0]))
        return ast.literal_eval(node)
    except ValueError:
        return None


def _annotated(body: Sequence[ast.stmt]) -> dict[str, ast.expr]:
    """Name -> value of every `name: type = value`."""
    return {ast.unparse(one.target): one.value for one in body if isinstance(one, ast.AnnAssign) and one.value}


def _dict(node: ast.expr) -> list[tuple[Any, ast.expr]]:
    assert isinstance(node, ast.Dict)
    return [(_constant(key), value) for key, value in zip(node.keys, node.values, strict=True) if key]


@cache
def settings() -> Mapping[str, Any]:
    """Variable name -> default of every setting (None where the default is not a plain literal)."""
    tree = ast.parse((PACKAGE / "settings.py").read_text(encoding="utf-8"))
    (model,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    fields = _annotated(model.body).items()
    defaults = {name: field.args[0] if isinstance(field, ast.Call) else field for name, field in fields}
    return {PREFIX + name.upper(): _constant(default) for name, default in defaults.items()}


@cache
def profiles() -> Mapping[str, Mapping[str, Any]]:
    """Profile -> its default vLLM flags (None where a flag has no value or a computed one)."""
    tables = _annotated(ast.parse((PACKAGE / "engine" / "profiles.py").read_text(encoding="utf-8")).body)
    chosen = {name: tables.get(ast.unparse(table), table) for name, table in _dict(tables["FLAGS"])}
    return {name: {flag: _constant(value) for flag, value in _dict(table)} for name, table in chosen.items()}


def flag(name: str, command: Sequence[str], profile: str) -> str | None:
    """Value of vLLM flag `name`: the last in `command`, else the profile's, else None (vLLM's default)."""
    value = profiles().get(profile, {}).get(name)
    for place, word in enumerate(command):
        key, equals, inline = word.partition("=")
        if key.replace("_", "-") == name:
            value = inline if equals else "".join(command[place + 1 : place + 2])
    return value
