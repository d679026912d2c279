"""What several groups of tests share: one real-engine service for the whole run."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).resolve().parents[1]
#: The longest a start may take on two busy cores, seconds; unpacking the bundled model included.
START_LIMIT_S = 300


@dataclass(frozen=True)
class Server:
    """A running service. `url` has no trailing slash; `log` grows while it runs."""

    url: str
    log: Path
    pid: int

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real service: gunicorn, vLLM's CPU build, the bundled model; started once for the whole run."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    port = free_port()
    command = [sys.executable, "-m", "chatbot_llm", "--port", str(port), "--host", "127.0.0.1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "code"), "CHATBOT_ENGINE": "vllm", "CHATBOT_PROFILE": "cpu"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_LIMIT_S
        while True:
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"the service did not start:\n{log.read_text()[-4000:]}")
            try:
                if requests.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            except requests.RequestException:
                pass
            time.sleep(0.2)
        yield Server(url, log, process.pid)
        process.terminate()
        assert process.wait(30) == 0, "SIGTERM must end the service with status 0"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
