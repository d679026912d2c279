"""The KV cache of the CPU engine is zero, holds what is written to it, and costs a start no time."""

import json
import os
import platform
import re
import subprocess
import sys
from typing import Any

import psutil
import pytest

from launcher import ROOT, Service, until

pytestmark = pytest.mark.engine

#: In a process of its own: vLLM's worker puts stand-ins into torch.
LOOK = """
import json, threading
import psutil, torch
from chatbot_llm.engine.patches import cpu_worker

def resident():
    return psutil.Process().memory_info().rss >> 20

def asked(*size, **how):
    before = set(threading.enumerate())
    made = cpu_worker.zeros(*size, **how)
    return made, [one for one in threading.enumerate() if one not in before]

size, before = (256 << 20) + 4096 + 1, resident()
cache, (thread,) = asked(size, dtype=torch.int8, device=torch.device("cpu"))
cache[5], cache[-1] = 7, -3
thread.join(60)
said = {
    "alive": thread.is_alive(),
    "mib": resident() - before,
    "shape": [list(cache.shape), str(cache.dtype), str(cache.device)],
    "sum": [cache.sum(dtype=torch.int64).item(), cache[5].item(), cache[-1].item()],
    "usual": [],
}
for size, dtype in [((8,), torch.int8), ((128 << 20,), torch.float16), ((256 << 20, 1), torch.int8)]:
    made, threads = asked(*size, dtype=dtype)
    said["usual"].append([list(made.shape) == list(size), made.dtype == dtype, not made.any().item(), len(threads)])
print(json.dumps(said))
"""

#: Before Linux 5.14 no page can be asked for: each comes when it is used.
asks_for_pages = pytest.mark.skipif(
    tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (5, 14),
    reason="this kernel is older than Linux 5.14, which brought MADV_POPULATE_WRITE",
)


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "code"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_large_buffer_is_zero_and_holds_what_was_written_before_its_pages_were_there(said: dict[str, Any]) -> None:
    assert said["shape"] == [[(256 << 20) + 4096 + 1], "torch.int8", "cpu"]
    assert said["sum"] == [7 - 3, 7, -3]


@asks_for_pages
def test_all_of_it_is_there_soon_after(said: dict[str, Any]) -> None:
    assert not said["alive"]
    assert 250 <= said["mib"] <= 300


def test_whatever_is_no_large_buffer_of_bytes_is_torchs_own(said: dict[str, Any]) -> None:
    assert said["usual"] == [[True, True, True, 0]] * 3


@asks_for_pages
def test_the_engines_process_uses_it_and_ends_up_with_all_of_its_memory(server: Service) -> None:
    (told,) = re.findall(r"the KV cache gets its ([\d.]+) GiB while the engine goes on", server.log())
    engine = next(one for one in server.worker.children() if "VLLM::EngineCore" in " ".join(one.cmdline()))
    until(lambda: largest(engine) > 0.99 * float(told) * 2**30, "all of it is there", 120, 0.2)


def largest(process: psutil.Process) -> int:
    """Bytes of its largest mapping that are there."""
    return max(int(mapping.rss) for mapping in process.memory_maps(grouped=False))
