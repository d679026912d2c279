"""What the image's build has vLLM note is what a start then finds: no second import of vLLM in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.image import warm_modelinfo

# What vLLM warns of while being imported is its own. It is imported once for all tests of this group.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("vllm")]

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


def test_a_start_finds_what_the_build_has_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "models/org/name"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(CONFIG))
    baked, empty = tmp_path / "baked", tmp_path / "empty"
    environment = {**os.environ, "VLLM_CACHE_ROOT": str(baked), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, warm_modelinfo.__file__, str(tmp_path / "models")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.stdout.splitlines()[-1] == "warm_modelinfo: Qwen2ForCausalLM is noted", done.stderr[-3000:]
    assert len(list(baked.rglob("*.json"))) == 1

    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.models import registry

    class SecondImport(BaseException):
        pass

    def import_again(_: object) -> None:
        raise SecondImport

    def start(cache: Path) -> Any:
        """A start up to where vLLM knows its model."""
        monkeypatch.setenv("VLLM_CACHE_ROOT", str(cache))
        return EngineArgs(model=str(model), dtype="float32", skip_tokenizer_init=True).create_model_config()

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(registry, "_run_in_subprocess", import_again)
    with pytest.raises(SecondImport):
        start(empty)
    found = start(baked)
    assert (found.architecture, found.runner_type) == ("Qwen2ForCausalLM", "generate")
