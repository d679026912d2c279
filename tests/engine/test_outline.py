"""What is noted of transformers' models is used only where it is right, and never in the way."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chatbot_llm.engine.patches import outline
from chatbot_llm.engine.patches.outline import Outline

FOUND: Outline = {frozenset(): {"a.config": {"AConfig"}}, frozenset({"torch"}): {"a.model": {"A", "AModel"}}}
PREFIXED: Outline = {frozenset(): {"m.a.config": {"AConfig"}}, frozenset({"torch"}): {"m.a.model": {"A", "AModel"}}}


class Transformers:
    """A package at `folder`, and its function, which counts what it is asked."""

    def __init__(self, folder: Path, version: str = "5.0.0") -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.package = ModuleType("transformers")
        self.package.__file__ = str(folder / "__init__.py")
        self.package.__version__ = version  # type: ignore[attr-defined]
        self.models = folder / "models"
        self.define = outline.noted(self._usual, self.package)

    def _usual(self, module_path: Any, prefix: str | None = None) -> Outline:
        self.asked.append((str(module_path), prefix))
        return {needs: {module: set(names) for module, names in modules.items()} for needs, modules in FOUND.items()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_sources_are_read_once_for_both_questions_and_for_every_later_process(tmp_path: Path) -> None:
    one, later = Transformers(tmp_path), Transformers(tmp_path)
    for process in (one, later):
        assert process.define(process.models, prefix="m") == PREFIXED
        assert process.define(str(process.models / "__init__.py")) == FOUND
    assert (len(one.asked), len(later.asked)) == (1, 0)


def test_what_a_caller_does_to_its_answer_is_nobody_elses(tmp_path: Path) -> None:
    transformers = Transformers(tmp_path)
    for _ in range(3):
        answer = transformers.define(transformers.models / "__init__.py")
        assert answer == FOUND
        answer[frozenset()].clear()


def test_other_folders_are_read_as_ever(tmp_path: Path) -> None:
    transformers = Transformers(tmp_path)
    transformers.define(transformers.models)
    transformers.define(transformers.models / "bert" / "__init__.py", "x")
    assert transformers.asked[1:] == [(str(transformers.models / "bert" / "__init__.py"), "x")]


def test_another_version_has_a_note_of_its_own_and_one_that_changes_has_none(tmp_path: Path, cache: Path) -> None:
    for version in ("5.0.0", "5.1.0", "5.2.0.dev0"):
        for _ in range(2):
            transformers = Transformers(tmp_path, version)
            transformers.define(transformers.models)
        assert len(transformers.asked) == (1 if "dev" in version else 0)
    assert sorted(file.name for file in (cache / "outlines").iterdir()) == [
        "transformers-5.0.0.marshal",
        "transformers-5.1.0.marshal",
    ]


@pytest.mark.parametrize("damage", [b"", b"\xe7\x00", b"half a note"])
def test_a_damaged_note_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    note = outline.note("5.0.0")
    note.parent.mkdir(parents=True)
    note.write_bytes(damage)
    transformers = Transformers(tmp_path)
    for _ in range(2):
        assert transformers.define(transformers.models) == FOUND
    assert len(transformers.asked) == 1


def test_where_nothing_can_be_written_nothing_is_noted_and_nothing_is_left(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = Transformers(tmp_path)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError("no space left on device")

        patch.setattr(os, "replace", full)
        assert transformers.define(transformers.models) == FOUND
        assert list((cache / "outlines").iterdir()) == []
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/proc/nowhere")
    assert Transformers(tmp_path).define(transformers.models) == FOUND


def test_the_finder_is_there_once_at_most_and_finds_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [finder for finder in sys.meta_path if not isinstance(finder, outline._Finder)]
    monkeypatch.setattr(sys, "meta_path", others)
    monkeypatch.delitem(sys.modules, "transformers.utils.import_utils", raising=False)
    before = len(others)
    outline.remember()
    outline.remember()
    assert len(sys.meta_path) == before + 1
    assert sys.meta_path[0].find_spec("json.tool", None) is None
