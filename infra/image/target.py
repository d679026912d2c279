"""What local-test starts and stops: the image in Docker, or the same entry point as a process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from infra import ROOT
from infra.errors import CheckFailed, InfraError

LOG_LINES = 60


@dataclass(frozen=True)
class Card:
    name: str
    capability: str
    driver: str


def output(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def shown(*command: str, failure: type[InfraError] = CheckFailed) -> None:
    """Run it in the checkout, with its output shown. Raises `failure`."""
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise failure(f"`{' '.join(command)}` failed; its output is above")


def gpu() -> Card | None:
    """The first GPU, when Docker is there to hand it to a container."""
    if not (shutil.which("nvidia-smi") and shutil.which("docker")):
        return None
    listed = output("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")
    lines = listed.stdout.strip().splitlines() if listed.returncode == 0 else []
    return Card(*map(str.strip, lines[0].split(","))) if lines else None


class Container:
    """The image, run as FC runs it: its ENTRYPOINT, GPU, host IPC, no more rights than it needs.

    `scripted`: without a GPU and without a model, and hence with nothing to write but temporary files.
    """

    def __init__(
        self, image: str, flags: Sequence[str], environment: Mapping[str, str], ports: str, scripted: bool = False
    ) -> None:
        """`ports` are Docker's: those of this machine and of the container."""
        self.image, self.name = image, f"local-test-{os.getpid()}"
        hardware = ["--read-only", "--tmpfs", "/tmp"] if scripted else ["--gpus", "all", "--ipc=host"]
        variables = {**environment, **({"CHATBOT_ENGINE": "scripted"} if scripted else {})}
        self.command = [
            *("docker", "run", "--detach", "--name", self.name, *hardware),
            *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--publish", ports),
            *(word for name, value in variables.items() for word in ("--env", f"{name}={value}")),
            *(image, *flags),
        ]
        self._needs = "" if scripted else " (is the NVIDIA container toolkit installed?)"

    def start(self) -> None:
        if output("docker", "image", "inspect", self.image).returncode != 0:
            command = ["docker", "pull", self.image] if "/" in self.image else ["make", "image"]
            print(f"{self.image} is not here: {' '.join(command)}", flush=True)
            shown(*command)
        started = output(*self.command)
        if started.returncode != 0:
            raise CheckFailed(f"docker run: {started.stderr.strip()}{self._needs}")

    def running(self) -> bool:
        return output("docker", "inspect", "--format", "{{.State.Running}}", self.name).stdout.strip() == "true"

    def log(self) -> str:
        logs = output("docker", "logs", "--tail", str(LOG_LINES), self.name)
        return logs.stdout + logs.stderr

    def stop(self, limit_s: int) -> int:
        output("docker", "stop", "--time", str(limit_s), self.name)
        return int(output("docker", "inspect", "--format", "{{.State.ExitCode}}", self.name).stdout.strip() or -1)

    def remove(self) -> None:
        output("docker", "rm", "--force", "--volumes", self.name)


class Process:
    """`python -m chatbot_llm` of this checkout, in this environment."""

    def __init__(self, flags: Sequence[str], environment: Mapping[str, str], port: int, profile: str = "cpu") -> None:
        self._command = [sys.executable, "-m", "chatbot_llm", "--host", "127.0.0.1", "--port", str(port), *flags]
        path = os.pathsep.join(filter(None, (str(ROOT / "code"), os.environ.get("PYTHONPATH", ""))))
        self._environment = {**os.environ, **environment, "CHATBOT_PROFILE": profile, "PYTHONPATH": path}
        self._log = Path(tempfile.mkdtemp(prefix="local-test-")) / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def stop(self, limit_s: int) -> int:
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.remove()
            return 128 + signal.SIGKILL

    def remove(self) -> None:
        """Nothing of the group that was started stays behind, the engine's own process included."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._log.parent, ignore_errors=True)


Target = Container | Process
