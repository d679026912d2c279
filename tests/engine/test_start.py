"""Starts that must fail do so at once, with a sentence and a status that is not zero."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatbot_llm.engine import profiles
from launcher import ServiceProcess, free_port

pytestmark = pytest.mark.engine
ROOT = Path(__file__).resolve().parents[2]


def start(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chatbot_llm", "--port", str(free_port()), "--host", "127.0.0.1", *argv]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "code"), "CHATBOT_PROFILE": "cpu"}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_what_cannot_start_ends_the_process_with_a_sentence() -> None:
    ended = start("--model", "/nowhere/at/all")
    assert ended.returncode not in (0, None)
    reported = [line for line in ended.stderr.splitlines() if line.startswith("chatbot-llm: ")]
    assert len(reported) == 1 and "/nowhere/at/all" in reported[0]


def test_the_engine_process_begins_before_its_parent_has_imported(server: ServiceProcess) -> None:
    """Both import at the same time; the start would take ten seconds longer one after the other."""
    engine = next(one for one in server.worker.children() if "VLLM::EngineCore" in " ".join(one.cmdline()))
    imported = server.worker.create_time() + server.health()["start_phases_s"]["import"]
    assert engine.create_time() < imported


def test_a_start_writes_no_wall_of_warnings(server: ServiceProcess) -> None:
    """A CPU that computes in bfloat16 would give one for each tensor, 122; some twenty others do no harm."""
    assert server.log().count('"level": "warning"') < 40


#: vLLM asks for its own version to learn for what it was built; of a CUDA build it learns that there is no device.
_CUDA_BUILD = """
import importlib.metadata, runpy, sys
real = importlib.metadata.version
importlib.metadata.version = lambda name: "0.32.0" if name == "vllm" else real(name)
sys.argv = ["chatbot_llm", *sys.argv[1:]]
runpy.run_module("chatbot_llm", run_name="__main__")
"""


@pytest.mark.skipif(profiles.nvidia(), reason="there is an NVIDIA device here")
def test_the_cuda_build_shows_its_flags_without_a_gpu() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "code")}
    command = [sys.executable, "-c", _CUDA_BUILD, "--help=all"]
    shown = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert "CHATBOT_MAX_RUNNING" in shown.stdout and "--max-model-len" in shown.stdout
