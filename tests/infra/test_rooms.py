"""infra/: imports point down only, every command has its file, and what runs in the image stands alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from infra import ROOT
from infra.__main__ import COMMANDS

BELOW = {
    "commands": {"commands", "doctor", "fc", "errors"},
    "doctor": {"doctor", "fc", "errors"},
    "image": {"image", "commands", "doctor", "fc", "errors"},  # of which commands import nothing
    "fc": {"fc", "errors"},
    "errors": set[str](),
}
FILES = [path for room in BELOW for path in (ROOT / "infra").glob(f"{room}/*.py")]


def imported(source: str) -> set[str]:
    """Rooms of infra that a file imports, wherever in it; ROOT comes from infra itself."""
    modules = [
        f"{node.module}.{alias.name}" if node.module == "infra" else str(node.module)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    return {module.split(".")[1] for module in modules if module.startswith("infra.")} - {"ROOT"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_room_imports_only_what_lies_below_it(path: Path) -> None:
    assert imported(path.read_text(encoding="utf-8")) <= BELOW[path.parent.name]


def test_the_command_line_imports_no_command_itself() -> None:
    assert imported((ROOT / "infra" / "__main__.py").read_text(encoding="utf-8")) == {"errors"}


def test_every_command_has_one_file_of_its_name() -> None:
    for name, (module, _) in COMMANDS.items():
        assert module.rsplit(".", 1)[1] == name.replace("-", "_")


def test_what_is_copied_into_the_build_needs_no_other_file_of_infra() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = set(re.findall(r"infra/image/(\w+)\.py", dockerfile))
    assert {"bake", "transfer", "prove_sm75", "warm_modelinfo"} <= copied
    for name in copied - {"size"}:  # named in a comment
        source = (ROOT / "infra" / "image" / f"{name}.py").read_text(encoding="utf-8")
        assert set(re.findall(r"^from infra\.(\S+)", source, re.M)) <= {f"image.{other}" for other in copied}


def test_the_image_holds_no_example_and_code_is_no_package() -> None:
    copied = re.findall(r"^COPY (.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    assert not [words for words in copied if "examples" in words or words.split()[0].rstrip("/") == "code"]
    assert "code/examples" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert not list((ROOT / "code").glob("__init__.py")) + list((ROOT / "code" / "examples").rglob("__init__.py"))
