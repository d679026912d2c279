"""What vLLM notes about the model's class at build time: the Dockerfile's stage, and the script under a stand-in vLLM.

With the real vLLM: tests/engine/test_modelinfo_of_vllm.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_dockerfile import ROOT, environment_of, final_environment, stages

from infra.image import warm_modelinfo

WRITES = """
import os, pathlib
class Model:
    def inspect_model_cls(self):
        folder = pathlib.Path(os.environ["VLLM_CACHE_ROOT"], "modelinfos")
        folder.mkdir()
        (folder / "x-Qwen2ForCausalLM.json").write_text("{}")
class ModelRegistry:
    models = {"Qwen2ForCausalLM": Model()}
"""


def build(tmp_path: Path, registry: str, config: str = '{"architectures": ["Qwen2ForCausalLM"]}') -> tuple[int, str]:
    """Run the script as the Dockerfile does, with a vLLM whose registry is `registry`: (status, its output)."""
    package = tmp_path / "site/vllm/model_executor/models"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "registry.py").write_text(registry)
    model = tmp_path / "models/org/name"
    model.mkdir(parents=True)
    (model / "config.json").write_text(config)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "VLLM_CACHE_ROOT": str(tmp_path / "warm/vllm")}
    command = [sys.executable, warm_modelinfo.__file__, str(tmp_path / "models")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def stage() -> list[tuple[str, str]]:
    (found,) = [stage for stage in stages() if stage[0][1].endswith(" AS warm")]
    return found


def test_it_runs_on_the_images_packages_against_the_baked_models() -> None:
    assert stage()[0][1] == "packages AS warm"
    assert ("COPY", "infra/image/warm_modelinfo.py /tmp/") in stage()
    (run,) = [words for instruction, words in stage() if instruction == "RUN"]
    mounted = re.search(r"--mount=type=bind,from=weights,source=/models,target=(\S+)", run)
    assert mounted and f" python /tmp/warm_modelinfo.py {mounted[1]} && " in run
    assert (ROOT / "infra/image/warm_modelinfo.py").is_file()


def test_the_image_looks_where_the_build_has_written_and_nothing_later_covers_it() -> None:
    root = final_environment()["VLLM_CACHE_ROOT"]
    assert environment_of(stage())["VLLM_CACHE_ROOT"] == f"/warm{root}"
    copies = [words for instruction, words in stages()[-1] if instruction == "COPY"]
    later = [words.split()[-1] for words in copies[copies.index("--link --from=warm /warm /") + 1 :]]
    assert not [target for target in later if root.startswith(target)]


def test_an_older_note_that_a_t4_has_left_does_not_replace_this_builds() -> None:
    (run,) = [words for instruction, words in stage() if instruction == "RUN"]
    assert ("COPY", "infra/image/warm/ /kept/") in stage()
    assert run.index("warm_modelinfo.py") < run.index("cp -rn /kept/. /warm/opt/warm")


def test_the_architecture_is_read_from_the_model_that_was_baked(tmp_path: Path) -> None:
    for name, found in (("a/b", ["Two", "One"]), ("a/c", ["Two"])):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps({"architectures": found}))
    assert warm_modelinfo.architectures(tmp_path) == ["One", "Two"]


def test_what_vllm_notes_is_told(tmp_path: Path) -> None:
    status, output = build(tmp_path, WRITES)
    assert status == 0 and output == "warm_modelinfo: Qwen2ForCausalLM is noted\n"
    assert (tmp_path / "warm/vllm/modelinfos/x-Qwen2ForCausalLM.json").exists()


@pytest.mark.parametrize(
    ("registry", "reason"),
    [
        ("raise ImportError('libcuda.so.1: cannot open shared object file')", "libcuda.so.1: cannot open"),
        ("import os; os.abort()", "status -6: no output"),
        ("class ModelRegistry: models = {}", "KeyError: 'Qwen2ForCausalLM'"),
        (WRITES.replace(".write_text", ".with_name"), "no error but wrote nothing to"),
    ],
    ids=["no driver", "crash", "unknown architecture", "silence"],
)
def test_when_nothing_is_noted_the_build_goes_on_and_says_what_it_costs(
    registry: str, reason: str, tmp_path: Path
) -> None:
    status, output = build(tmp_path, registry)
    assert status == 0
    (sentence,) = [line for line in output.splitlines() if line.startswith("warm_modelinfo: ")]
    assert "nothing was noted about Qwen2ForCausalLM" in sentence and "9 s more of a cold start" in sentence
    assert reason in sentence
    assert (tmp_path / "warm/vllm").is_dir(), "COPY --from needs it, filled or not"


def test_a_vllm_that_hangs_does_not_hold_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_modelinfo, "LIMIT_S", 0.01)
    assert warm_modelinfo.warm("Qwen2ForCausalLM", tmp_path) == "vLLM did not end within 0.01 s"


def test_a_build_without_a_model_fails(tmp_path: Path) -> None:
    status, output = build(tmp_path, WRITES, config='{"architectures": []}')
    assert status == 1 and "config.json" in output
