"""Let vLLM note at build time what it would otherwise ask of the model's class at the start of every new instance.

    VLLM_CACHE_ROOT=DIR python warm_modelinfo.py /models

vLLM imports the class of an architecture in a process of its own, torch and all, only to learn what the class can do,
and keeps the answer in VLLM_CACHE_ROOT/modelinfos under a hash of the class's source file. No GPU takes part in that,
so the image brings the answer along for what the config.json of each baked model names.

vLLM 0.32's CUDA wheel does it without a driver (libcuda), too. Should another refuse on a build machine, the build goes
on and says what that costs.

Runs inside the image build, where nothing else of infra/ is: with the standard library and the vLLM installed there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

#: Importing takes most of a minute on a slow machine; what takes this long hangs.
LIMIT_S = 600
COST = "so every new instance imports vLLM twice, about 9 s more of a cold start; the image works all the same"
#: vLLM's own way from an architecture to the file, the same as that of a start.
INSPECT = """
import sys
from vllm.model_executor.models.registry import ModelRegistry
ModelRegistry.models[sys.argv[1]].inspect_model_cls()
"""


def architectures(models: Path) -> list[str]:
    """What vLLM looks up for the models below `models`/<org>/<name>."""
    configs = [json.loads(path.read_text()) for path in models.glob("*/*/config.json")]
    return sorted({name for config in configs for name in config["architectures"]})


def warm(architecture: str, folder: Path) -> str:
    """Inspect in a process that may die or hang without harm. Returns why nothing was noted; empty if it was."""
    before = set(folder.glob("*.json"))
    command = [sys.executable, "-c", INSPECT, architecture]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"vLLM did not end within {LIMIT_S} s"
    if done.returncode != 0:
        logged = done.stderr.strip().splitlines() or ["no output"]
        return f"vLLM ended with status {done.returncode}: {logged[-1].strip()}"
    return "" if set(folder.glob("*.json")) - before else f"vLLM reported no error but wrote nothing to {folder}"


def main() -> int:
    models, root = Path(sys.argv[1]), Path(os.environ["VLLM_CACHE_ROOT"])
    root.mkdir(parents=True, exist_ok=True)  # the image copies it, filled or not
    names = architectures(models)
    if not names:
        print(f"warm_modelinfo: {models} holds no <org>/<name>/config.json with architectures", file=sys.stderr)
        return 1
    for name in names:
        if problem := warm(name, root / "modelinfos"):
            print(f"warm_modelinfo: nothing was noted about {name}, {COST}. Reason: {problem}", file=sys.stderr)
        else:
            print(f"warm_modelinfo: {name} is noted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
