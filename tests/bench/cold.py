"""Cold disk: a start that finds nothing in the page cache, as the first start from an image's layers does."""

import ctypes
import mmap
import os
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.servers import ROOT, model_path, running

DROP = Path("/proc/sys/vm/drop_caches")


def measure(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Starts of the service and of vLLM's server in turn; after each, what the page cache holds of their files.

    Empty where the page cache cannot be dropped (it takes root).
    """
    if not os.access(DROP, os.W_OK):
        say("skipped: only root may drop the page cache")
        return []
    cells = []
    for turn in range(rounds):
        for name in ("service", "vllm") if turn % 2 == 0 else ("vllm", "service"):
            cells.append({"round": turn, "peer": name, **start(name)})
            say("{peer}: first token {first_token_s:.1f} s, {files} files, {mb:.0f} MB".format(**cells[-1]))
    return cells


def start(name: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """One cold start: seconds to ready and first token, files that were read, and MB of them."""
    os.sync()
    DROP.write_text("3")
    with running(name, env) as server:
        cached = list(resident())
        return {
            "ready_s": server.ready_s,
            "first_token_s": server.first_token_s,
            "files": len(cached),
            "mb": sum(cached) / 1e6,
        }


def resident() -> Iterator[int]:
    """Bytes in the page cache of each file that has some, of the interpreter's libraries, the code and the model."""
    paths = sysconfig.get_paths()
    roots = [paths["stdlib"], paths["platstdlib"], paths["purelib"], str(ROOT / "code"), model_path()]
    # One of these folders may lie in another; each file counts once.
    for path in {Path(folder, name) for root in roots for folder, _, names in os.walk(root) for name in names}:
        if size := _cached(path):
            yield size


_mincore = ctypes.CDLL(None, use_errno=True).mincore
_mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def _cached(path: Path) -> int:
    if path.is_symlink() or not path.stat().st_size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        pages = np.zeros((len(view) + mmap.PAGESIZE - 1) // mmap.PAGESIZE, np.uint8)
        failed = _mincore(view.ctypes.data, len(view), pages.ctypes.data)
        del view
        if failed:
            raise OSError(ctypes.get_errno(), "mincore", str(path))
        return int((pages & 1).sum()) * mmap.PAGESIZE
