"""What the image's build has vLLM note is what a start then finds: no second import of vLLM in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.image import warm_modelinfo

pytestmark = pytest.mark.engine

#: As in the baked model's config.json; vLLM needs no weights to get as far as the class.
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}
#: A start up to where vLLM knows its model, with each cache; what would import vLLM once more tells so instead.
START = """
import os, sys
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.models import registry
class Second(BaseException):
    pass
def second_import(_):
    raise Second
registry._run_in_subprocess = second_import
for root in sys.argv[2:]:
    os.environ["VLLM_CACHE_ROOT"] = root
    try:
        config = EngineArgs(model=sys.argv[1], dtype="float32", skip_tokenizer_init=True).create_model_config()
        print("knows", config.architecture, config.runner_type, flush=True)
    except Second:
        print("imports vLLM twice", flush=True)
"""


def run(root: Path, *command: str) -> list[str]:
    """The lines of a process that has `root` as vLLM's cache."""
    environment = {**os.environ, "VLLM_CACHE_ROOT": str(root), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    return (done.stdout or done.stderr).splitlines()


def test_a_start_finds_what_the_build_has_noted(tmp_path: Path) -> None:
    model = tmp_path / "models/org/name"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(CONFIG))
    baked, empty = tmp_path / "baked", tmp_path / "empty"
    assert (
        run(baked, warm_modelinfo.__file__, str(tmp_path / "models"))[-1] == "warm_modelinfo: Qwen2ForCausalLM is noted"
    )
    assert len(list(baked.rglob("*.json"))) == 1
    blind, found = run(empty, "-c", START, str(model), str(empty), str(baked))[-2:]
    assert blind == "imports vLLM twice", "this test sees nothing any more"
    assert found == "knows Qwen2ForCausalLM generate"
