"""vLLM's worker for CPUs, but that nothing waits for its KV cache to be filled with zeros.

The kernel gives out memory that is zero already, page by page as it is touched. `torch.zeros` touches all of it in one
thread: 0.1 to 1.9 s a GiB here, most where a virtual machine has never used that memory before. Instead a thread of
its own does it bit by bit while the engine goes on; a page that is needed earlier comes when it is needed. vLLM
has looked before whether so much memory is free.

Runs in the engine's process.
"""

import ctypes
import logging
import mmap
import threading
import time
from contextlib import suppress
from typing import Any

import torch
from vllm.v1.worker.cpu_worker import CPUWorker

from chatbot_llm.engine.patches import replaced

#: Below vLLM's, whose logging is set up in its processes.
log = logging.getLogger("vllm.chatbot_llm.cpu_worker")

#: What is smaller is not worth a mapping of its own, bytes.
LARGE = 64 << 20
#: Touched at once, bytes: a huge page. Whoever maps memory in this process waits that long.
STEP = 2 << 20
#: Seconds it rests after a step, for each CPU second that the engine has used meanwhile. A lower priority instead would
#: let a busy machine stop it in the midst of a step, and with it whoever maps memory.
REST = 10
#: linux/mman.h, since Linux 5.14; Python does not name it.
_MADV_POPULATE_WRITE = 23


class Worker(CPUWorker):  # type: ignore[misc]
    """See above."""

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        """Allocate the KV cache."""
        with replaced(torch, "zeros", zeros):
            super().initialize_from_config(kv_cache_config)


_zeros = torch.zeros


def zeros(*size: Any, **how: Any) -> torch.Tensor:
    """`torch.zeros`; a large buffer of bytes gets its pages later."""
    if len(size) != 1 or not isinstance(size[0], int) or size[0] < LARGE or how.get("dtype") is not torch.int8:
        return _zeros(*size, **how)
    memory = mmap.mmap(-1, size[0], flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    log.info("the KV cache gets its %.1f GiB while the engine goes on", size[0] / 2**30)
    buffer = torch.frombuffer(memory, dtype=torch.int8)
    threading.Thread(target=_populate, args=(buffer,), name="populate", daemon=True).start()
    return buffer


def _populate(buffer: torch.Tensor) -> None:
    """Have every page given out, whatever is written to it meanwhile. What fails is left to its first use."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise  # the interpreter goes on meanwhile; mmap's own would hold it
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for at in range(0, buffer.numel(), STEP):
        before = _others()
        if madvise(buffer.data_ptr() + at, min(STEP, buffer.numel() - at), _MADV_POPULATE_WRITE):
            return
        time.sleep(REST * max(0.0, _others() - before))


def _others() -> float:
    """CPU seconds of this process but for this thread."""
    return time.process_time() - time.thread_time()
