"""With the note, transformers defines the same names as without it, and reads no model's source to know them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatbot_llm.engine.patches import outline
from launcher import ROOT

pytestmark = pytest.mark.engine

#: An import of transformers: how many sources of models it opens, and what it then defines.
IMPORT = """
import json, sys
opened = set()
def look(event, args):
    if event == "open" and "/transformers/models/" in str(args[0]) and str(args[0]).endswith(".py"):
        opened.add(args[0])
sys.addaudithook(look)
if sys.argv[1] == "noted":
    from chatbot_llm.engine.patches import outline
    outline.remember()
import transformers
from transformers import models
from transformers.utils.import_utils import define_import_structure
from pathlib import Path
sources = len(opened)
folder = Path(models.__file__).parent
def plain(structure):
    return sorted([sorted(needs), sorted((name, sorted(names)) for name, names in every.items())]
                  for needs, every in structure.items())
print(json.dumps({
    "sources": sources,
    "version": transformers.__version__,
    "names": [sorted(dir(transformers)), sorted(dir(models))],
    "answers": [plain(define_import_structure(folder, "models")), plain(define_import_structure(models.__file__)),
                plain(define_import_structure(folder / "llama" / "__init__.py"))],
    "class": str(transformers.LlamaConfig),
}))
"""


def imported(how: str, cache: Path) -> dict[str, Any]:
    environment = {**os.environ, "VLLM_CACHE_ROOT": str(cache), "PYTHONPATH": str(ROOT / "code")}
    command = [sys.executable, "-c", IMPORT, how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_it_defines_the_same_from_the_note_the_build_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = imported("usual", tmp_path)
    assert usual.pop("sources") > 1000, "this test sees nothing any more"
    environment = {**os.environ, "VLLM_CACHE_ROOT": str(tmp_path)}
    command = [sys.executable, "-I", outline.__file__]  # as in the Dockerfile: without the service's code
    build = subprocess.run(
        command,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert build.returncode == 0, build.stderr[-3000:]
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    assert build.stdout == f"outline: noted in {outline.note(usual['version'])}\n"
    noted = imported("noted", tmp_path)
    assert noted.pop("sources") == 0
    assert noted == usual
