"""The image built by a Docker engine from light parts, and its containers, started as services are.

Every stage of the Dockerfile is built, from a checkout whose lock lacks vLLM and what only vLLM needs, and whose
weights are a made-up hub's. The engine in such an image is the scripted one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

import fake_hub
from launcher import ROOT, ServiceProcess, until

LOCK = ROOT / "code" / "requirements" / "cuda.txt"
MODEL = "example/small"
FILES = {fake_hub.WEIGHTS: bytes(range(256)) * 4000, "config.json": b'{"architectures": ["Qwen2ForCausalLM"]}'}
#: Of what the service itself asks for, vLLM is what makes an image heavy; the other two are vLLM's wishes.
HEAVY = {"vllm", "setuptools", "six"}
BUILD_LIMIT_S = 280
#: What pip, apt and Docker say when nobody answers.
OUT_OF_REACH = re.compile(
    r"[Tt]emporary failure|[Cc]ould not (?:connect|resolve)|no such host|i/o timeout|TLS handshake timeout|dns error|"
    r"connection refused|[Nn]etwork is unreachable|error sending request|operation timed out|Client\.Timeout|"
    r"CERTIFICATE_VERIFY_FAILED|EOF$"
)


class OutOfReach(Exception):
    """A package or an image cannot be fetched here."""


def run(*command: str, limit_s: float = 60, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s, **more)


def docker(*words: str, limit_s: float = 60) -> str:
    """What Docker prints on standard output. Raises AssertionError with what it complains about."""
    done = run("docker", *words, limit_s=limit_s)
    assert done.returncode == 0, f"docker {' '.join(words[:3])}: {done.stderr.strip()}"
    return done.stdout.strip()


def root() -> list[str] | None:
    """What to put before a command that only root may run; None where this user may not."""
    if os.geteuid() == 0:
        return []
    return ["sudo", "-n"] if shutil.which("sudo") and run("sudo", "-n", "true").returncode == 0 else None


def no_engine() -> str:
    """Why no image can be built and tried here, or ""."""
    if not shutil.which("docker"):
        return "docker is not installed"
    if run("docker", "buildx", "version").returncode != 0:
        return "docker has no buildx, and with it no BuildKit"
    if (info := run("docker", "info")).returncode != 0:
        return f"no Docker engine answers: {(info.stderr or info.stdout).strip().splitlines()[-1]}"
    if not shutil.which("nsenter") or root() is None:
        return "only root, with nsenter, reaches a container that has no network"
    return ""


# building


def light_lock() -> str:
    """The part of the image's lock that the service needs without vLLM, hashes included."""
    blocks = re.split(r"\n(?=[a-z0-9])", LOCK.read_text(encoding="utf-8"))
    text = {block.split("==")[0]: block for block in blocks}
    wanted_by = {name: set(re.findall(r"^    #(?: via)? +(\S.*)$", block, re.M)) for name, block in text.items()}
    chosen = {name for name, parents in wanted_by.items() if "-r cuda.in" in parents} - HEAVY
    while more := {name for name, parents in wanted_by.items() if parents & chosen} - chosen:
        chosen |= more
    return "\n".join(text[name] for name in sorted(chosen)) + "\n"


def fetched(command: Sequence[str], limit_s: float, **more: Any) -> str:
    """Standard output of a command that may need the network. Raises OutOfReach, AssertionError."""
    try:
        done = run(*command, limit_s=limit_s, **more)
    except subprocess.TimeoutExpired as slow:
        raise OutOfReach(f"`{' '.join(command[:3])}` did not end within {limit_s:g} s") from slow
    if done.returncode and (gone := OUT_OF_REACH.search(done.stderr)):
        raise OutOfReach(f"`{' '.join(command[:3])}`: {gone.group(0)}")
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-6000:]}"
    return done.stdout


def base() -> str:
    """The image to build on: TEST_PYTHON_IMAGE, else the Dockerfile's. Raises OutOfReach."""
    (own,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    image = os.environ.get("TEST_PYTHON_IMAGE") or own
    if run("docker", "image", "inspect", image).returncode != 0:
        fetched(["docker", "pull", "--quiet", "--platform", "linux/amd64", image], BUILD_LIMIT_S)
    return image


def checkout(folder: Path, whole: bool = False) -> Path:
    """What the image is made of, with a small model and, unless `whole`, the light packages.

    The model has a name of its own, so that nothing touches the real one's downloads in the engine's cache.
    """
    shutil.copy(ROOT / "Dockerfile", folder)
    shutil.copy(ROOT / ".dockerignore", folder)
    for name in ("code", "infra/image"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    manifest = {"repository": MODEL, "revision": fake_hub.REVISION, "files": {}}
    (folder / "infra" / "image" / "weights.json").write_text(json.dumps(manifest))
    if not whole:
        (folder / "code" / "requirements" / "cuda.txt").write_text(light_lock())
        (folder / "infra" / "image" / "prove_sm75.py").write_text("")  # there is no torch to look into
        noted = folder / "infra" / "image" / "warm" / "vllm" / "modelinfos"
        noted.mkdir(parents=True)
        (noted / "earlier.json").write_text("{}")
    return folder


def build(tag: str, folder: Path, *flags: str, limit_s: float = BUILD_LIMIT_S) -> str:
    """Build a checkout as `make image` does, as `tag`. Returns BuildKit's log. Raises OutOfReach."""
    dry = run("make", "--dry-run", "--no-print-directory", "image", cwd=ROOT)
    assert dry.returncode == 0, dry.stderr
    command = shlex.split(dry.stdout.replace("\\\n", " "))
    command = command[: command.index("-t")]  # all but its names and its folder
    with fake_hub.hub(FILES, MODEL) as hub:
        command += ["--network=host", f"--build-arg=PYTHON_IMAGE={base()}", f"--build-arg=HF_ENDPOINT={hub.url}"]
        done = run(*command, *flags, f"--tag={tag}", str(folder), limit_s=limit_s)
    if done.returncode and OUT_OF_REACH.search(done.stderr):
        raise OutOfReach(f"the build cannot fetch what it needs:\n{done.stderr[-500:]}")
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stderr


# running

#: Standard input is a listening socket of one network; this process lives in another, where PORT is.
_RELAY = """
import asyncio, socket, sys
async def copy(source, to):
    try:
        while data := await source.read(65536):
            to.write(data)
            await to.drain()
        to.write_eof()
    except OSError:
        to.transport.abort()
async def carry(reader, writer):
    try:
        inner, out = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    except OSError:
        return writer.transport.abort()
    await asyncio.gather(copy(reader, out), copy(inner, writer))
    out.close()
    writer.close()
async def main():
    async with await asyncio.start_server(carry, sock=socket.socket(fileno=0)) as server:
        await server.serve_forever()
asyncio.run(main())
"""


class Container(ServiceProcess):
    """One container of the image, reached like a service of this machine although it has no network.

    It may do nothing: no capability, no new privileges, a read-only disk but for /tmp, and `user`'s rights.
    """

    def __init__(
        self,
        log: Path,
        image: str,
        *,
        argv: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        script: Mapping[str, Any] | None = None,
        port: int,
        user: str = "0",
    ) -> None:
        self.port, self.log_path, self.started = port, log, time.monotonic()
        variables = {"CHATBOT_ENGINE": "scripted", "CHATBOT_SCRIPT": json.dumps(script or {}), **(env or {})}
        named = [f"--env={name}={value}" for name, value in variables.items()]
        hard = ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only", "--tmpfs=/tmp", "--network=none"]
        self.id = docker("run", "--detach", f"--user={user}", *hard, *named, image, *argv)
        self._relay: subprocess.Popen[bytes] | None = None
        try:
            inside = until(self._inside, "the container has begun", 20)
            with socket.create_server(("127.0.0.1", port)) as listening:
                command = [*(root() or ()), "nsenter", f"--net=/proc/{inside[0]}/ns/net", "--", sys.executable]
                self._relay = subprocess.Popen([*command, "-I", "-c", _RELAY, str(port)], stdin=listening)
        except BaseException:
            self.close()
            raise

    def _inside(self) -> list[int]:
        """The container's processes, by their numbers out here, whichever process namespace the engine lives in."""
        found = []
        for groups in Path("/proc").glob("[0-9]*/cgroup"):
            with contextlib.suppress(OSError):
                if self.id in groups.read_text():
                    found.append(int(groups.parent.name))
        if not found and self.state()["Status"] == "exited":
            raise AssertionError(f"the container ended with {self.state()['ExitCode']}:\n{self.log()[-3000:]}")
        return sorted(found)

    def state(self) -> dict[str, Any]:
        return dict(json.loads(docker("inspect", "--format", "{{json .State}}", self.id)))

    def listens(self) -> bool:
        """As FC looks: a TCP port that is open, seen from inside, because the relay's always is."""
        for inside in self._inside():
            with contextlib.suppress(OSError):
                tables = "".join(Path(f"/proc/{inside}/net/{name}").read_text() for name in ("tcp", "tcp6"))
                return bool(re.search(rf":{self.port:04X} 0+:0000 0A ", tables))
        return False

    def tree(self) -> list[psutil.Process]:
        return list(self._processes())

    def _processes(self) -> Iterator[psutil.Process]:
        for inside in self._inside():
            with contextlib.suppress(psutil.NoSuchProcess):
                yield psutil.Process(inside)

    def signal_tree(self, number: signal.Signals) -> None:
        """FC freezes an instance whole; so does Docker."""
        paused = self.state()["Paused"]
        if number is signal.SIGSTOP and not paused:
            docker("pause", self.id)
        elif number is signal.SIGCONT and paused:
            docker("unpause", self.id)
        elif number is signal.SIGKILL:
            docker("kill", self.id)

    def terminate(self) -> None:
        docker("kill", "--signal=TERM", self.id)

    def wait_exit(self, limit_s: float = 60.0) -> int:
        return int(docker("wait", self.id, limit_s=limit_s))

    def log(self) -> str:
        shown = run("docker", "logs", self.id)
        self.log_path.write_text(shown.stdout + shown.stderr, encoding="utf-8")
        return self.log_path.read_text(encoding="utf-8")

    def close(self) -> None:
        self.log()
        run("docker", "rm", "--force", "--volumes", self.id)
        if self._relay is not None:
            self._relay.terminate()
            self._relay.wait(10)
