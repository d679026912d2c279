"""The house keeps its shape: who may import what."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ROOT / "code" / "chatbot_llm"
FILES = sorted(CODE.rglob("*.py"))
#: From the top down: a room imports from those that stand behind it, never from one before.
ROOMS = [
    "__main__",
    "server",
    "app",
    "routes",
    "serving",
    "rag",
    "engine",
    "engine.patches",
    "observability",
    "settings",
    "sse",
    "errors",
]
#: Programs of their own.
APART = {"progress"}


def name_of(path: Path) -> str:
    parts = path.relative_to(CODE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def own_imports(path: Path) -> set[str]:
    """The modules of this service that a file imports, by their names below the package."""
    known = {name_of(other) for other in FILES} - {name_of(path), ""}
    return {name for full in imports(path) if (name := full.removeprefix("chatbot_llm.")) in known and name != full}


def room_of(module: str) -> str:
    return next(room for room in sorted(ROOMS, key=len, reverse=True) if f"{module}.".startswith(f"{room}."))


def users_of(library: str) -> set[str]:
    return {name_of(path) for path in FILES if any(name.split(".")[0] == library for name in imports(path))}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_arrows_point_down(path: Path) -> None:
    if name_of(path) in APART | {""}:
        return
    place = ROOMS.index(room_of(name_of(path)))
    assert [name for name in own_imports(path) if ROOMS.index(room_of(name)) < place] == []


def test_no_module_is_imported_by_what_it_imports() -> None:
    TopologicalSorter({name_of(path): own_imports(path) for path in FILES}).prepare()


def test_each_library_has_its_place() -> None:
    assert users_of("vllm") == {"engine.vllm_engine"}
    assert users_of("gunicorn") == {"__main__"}
    assert {room_of(name) for name in users_of("uvicorn") | users_of("uvicorn_worker")} == {"server"}
    assert {room_of(name) for name in users_of("flask")} == {"server", "app", "routes"}
    assert users_of("infra") == set()


def test_no_private_name_of_gunicorn_is_used() -> None:
    for path in (*FILES, ROOT / "code" / "gunicorn.conf.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gunicorn"):
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], path


def test_code_is_a_source_root_and_no_package() -> None:
    assert not (ROOT / "code" / "__init__.py").exists()
