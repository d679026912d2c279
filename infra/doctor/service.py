"""What the service says of itself, read from its source: settings and defaults, engine flags by profile.

Its modules are not imported: that would ask an operator's environment for the service's own dependencies.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from infra import ROOT

PACKAGE = ROOT / "code" / "chatbot_llm"
PREFIX = "CHATBOT_"
DEFAULT_PORT = 8000  # vLLM's own default for --port, and the image's


def _constant(node: ast.expr | None) -> Any:
    """The value of a literal, or None for anything that must be computed."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


def _annotated(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr | None]]:
    for statement in body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, statement.value


@cache
def settings() -> Mapping[str, Any]:
    """Variable name -> default of every setting (None where the default is not a plain literal)."""
    tree = ast.parse((PACKAGE / "settings.py").read_text(encoding="utf-8"))
    (model,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    found = {}
    for name, value in _annotated(model.body):
        is_field = isinstance(value, ast.Call) and bool(value.args)
        found[PREFIX + name.upper()] = _constant(value.args[0]) if is_field else _constant(value)  # type: ignore[union-attr]
    return found


@cache
def profiles() -> Mapping[str, Mapping[str, Any]]:
    """Profile -> its default vLLM flags (None where a flag has no value or a computed one)."""
    tree = ast.parse((PACKAGE / "engine" / "profiles.py").read_text(encoding="utf-8"))
    tables = dict(_annotated(tree.body))
    chosen = tables["FLAGS"]
    assert isinstance(chosen, ast.Dict)
    return {
        _constant(key): _flags(tables.get(value.id) if isinstance(value, ast.Name) else value)
        for key, value in zip(chosen.keys, chosen.values, strict=True)
    }


def _flags(table: ast.expr | None) -> dict[str, Any]:
    assert isinstance(table, ast.Dict)
    return {_constant(key): _constant(value) for key, value in zip(table.keys, table.values, strict=True)}


def flag(name: str, command: Sequence[str], profile: str) -> str | None:
    """Value of vLLM flag `name`: the last in `command`, else the profile's, else None (vLLM's default)."""
    value = profiles().get(profile, {}).get(name)
    for place, word in enumerate(command):
        key, equals, inline = word.partition("=")
        if key.replace("_", "-") == name:
            value = inline if equals else "".join(command[place + 1 : place + 2])
    return value
