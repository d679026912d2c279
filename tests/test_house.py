"""The house keeps its shape: who may import what, how long a file may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ROOT / "code" / "chatbot_llm"
FILES = [
    path
    for folder in (ROOT / "code", ROOT / "infra")
    for path in folder.rglob("*.py")
    if "node_modules" not in path.parts
]


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def users_of(library: str) -> set[str]:
    return {
        path.name for path in FILES if CODE in path.parents and any(m.split(".")[0] == library for m in imports(path))
    }


def test_only_one_file_imports_vllm_and_one_in_the_engines_process() -> None:
    assert users_of("vllm") == {"vllm_engine.py", "cpu_worker.py"}
    assert not [path.name for path in FILES if "chatbot_llm.engine.patches.cpu_worker" in imports(path)]


@pytest.mark.parametrize("room", ["admission.py", "calls.py", "watch.py", "service.py", "exchange.py", "errors.py"])
def test_a_requests_life_knows_nothing_of_http_libraries(room: str) -> None:
    assert not {m.split(".")[0] for m in imports(CODE / room)} & {"flask", "werkzeug", "gunicorn"}


def test_the_engine_room_knows_nothing_of_the_rooms_above_it() -> None:
    above = {f"chatbot_llm.{name}" for name in ("app", "api", "events", "lifecycle", "service", "exchange", "worker")}
    for path in (CODE / "engine").glob("*.py"):
        assert not imports(path) & above, path.name


def test_the_service_does_not_need_the_operators_tools() -> None:
    assert users_of("infra") == set()


def test_code_is_a_source_root_and_no_package() -> None:
    assert not (ROOT / "code" / "__init__.py").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_outgrows_a_reader(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 300
