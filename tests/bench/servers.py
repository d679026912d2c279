"""Starts the service and its peers, each with the same model and the same engine flags, and reads their CPU clocks."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from chatbot_llm.engine import profiles, tool_calls
from chatbot_llm.engine import weights as models

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
#: Longest start, seconds: a compiling engine on a small busy machine.
START_LIMIT_S = 420
#: Engine flags say 16 sequences at once; the service's own bound is set to the same, so that neither queues.
MAX_RUNNING = 16
VLLM = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]


@dataclass
class Server:
    """A running server. Times are seconds since the process was started."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    model: str
    listening_s: float = 0.0
    ready_s: float = 0.0
    first_token_s: float = 0.0
    #: The longest answer of /health before it was ready; it is asked all the time.
    health_s: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far: of the engine's processes, and of all others (`serving`)."""
        spent = {"engine": 0.0, "serving": 0.0}
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())
                times = process.cpu_times()
                engine = any(mark in words for mark in ("EngineCore", "VLLM::Worker", "spawn_main"))
                spent["engine" if engine else "serving"] += times.user + times.system
        return spent

    def threads(self) -> int:
        return sum(process.num_threads() for process in self.family())

    def stop(self) -> None:
        family = self.family() if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def model_path() -> str:
    """The model all peers serve: BENCH_MODEL (the GPU kit sets it), else the bundled one."""
    if given := os.environ.get("BENCH_MODEL"):
        return given
    return str(models.bundled(os.environ.get("CHATBOT_CACHE_DIR", "")))


def model_name() -> str:
    return "bench" if os.environ.get("BENCH_MODEL") else models.BUNDLED


def gguf_path() -> str:
    return str(models._source())


def engine_flags(path: str) -> list[str]:
    """The service's own flags for this kind of machine, for a server that knows no profiles."""
    _, flags = profiles.take(profiles.arguments(profiles.pick("auto"), []), "--model")
    flags = ["hermes" if flag == tool_calls.PARSER else flag for flag in flags]  # ours is vLLM's under another name
    return ["--model", path, *flags, "--served-model-name", model_name()]


def engine_environment() -> dict[str, str]:
    """The variables the service's profile sets, and no other variable of ours."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CHATBOT_", "VLLM_"))}
    return {**clean, **profiles._OFFLINE, **profiles.ENVIRONMENT[profiles.pick("auto")]}


def client_environment() -> dict[str, str]:
    """For processes of the instrument itself."""
    return {**os.environ, "PYTHONPATH": f"{TESTS}:{ROOT / 'code'}"}


def commands(path: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    """name -> (command without --port, environment)."""
    ours = {**os.environ, "PYTHONPATH": f"{ROOT / 'code'}:{TESTS}", "CHATBOT_MAX_RUNNING": str(MAX_RUNNING)}
    theirs = {**engine_environment(), "PYTHONPATH": f"{TESTS}:{ROOT / 'code'}"}
    stub = ["--distributed-executor-backend", "bench.stub_engine.StubExecutor"]
    kv_cache = "VLLM_CPU_KVCACHE_SPACE"
    defaults = {
        name: value for name, value in theirs.items() if name not in profiles.ENVIRONMENT[profiles.pick("auto")]
    }
    service = [sys.executable, "-m", "chatbot_llm", "--host", "127.0.0.1"]
    if os.environ.get("BENCH_MODEL"):
        service += ["--model", path, "--served-model-name", model_name()]
    return {
        "service": (service, ours),
        "vllm": ([*VLLM, "--host", "127.0.0.1", *engine_flags(path)], theirs),
        "service-stub": ([*service, *stub], ours | {"CHATBOT_SELF_TEST": "false"}),
        "vllm-stub": ([*VLLM, "--host", "127.0.0.1", *engine_flags(path), *stub], theirs),
        "service-scripted": (service, ours | {"CHATBOT_ENGINE": "scripted"}),
        # The service's KV cache is no default, but vLLM's own, 92 % of the memory, does not fit beside its peers.
        "vllm-defaults": (
            [*VLLM, "--host", "127.0.0.1", "--model", path, "--served-model-name", model_name()],
            defaults | {kv_cache: profiles.ENVIRONMENT["cpu"][kv_cache]},
        ),
        "llama.cpp": ([sys.executable, "-m", "bench.llamacpp", "--model", gguf_path()], theirs),
    }


@contextlib.contextmanager
def running(name: str, env: dict[str, str] | None = None, flags: tuple[str, ...] = ()) -> Iterator[Server]:
    """Start `name`, wait until it answers, stop it afterwards. Raises RuntimeError with the log's end."""
    path = model_path()
    command, base = commands(path)[name]
    port = free_port()
    log = Path(tempfile.mkstemp(prefix=f"bench-{name}-", suffix=".log")[1])
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *flags, "--port", str(port)], env={**base, **(env or {})}, stdout=out, stderr=subprocess.STDOUT
        )
    server = Server(name, port, process, log, time.monotonic(), model_name())
    if name == "service-scripted":
        server.model = "scripted"
    try:
        _await(server)
        yield server
    finally:
        server.stop()
        log.unlink(missing_ok=True)


def _await(server: Server) -> None:
    end = server.started + START_LIMIT_S
    while not server.ready_s:
        if server.process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{server.name} did not start:\n{server.log.read_text(errors='replace')[-3000:]}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            sent = time.monotonic()
            status, body = ask(server.port, "GET", "/health", None, 5)
            now = time.monotonic() - server.started
            server.health_s = max(server.health_s, now + server.started - sent)
            server.listening_s = server.listening_s or now
            if status == 200:
                server.ready_s = now
                with contextlib.suppress(ValueError):
                    server.phases = json.loads(body).get("start_phases_s", {})
        time.sleep(0.02)
    status, body = ask(server.port, "POST", "/v1/chat/completions", chat(server.model, 1), 120)
    if status != 200:
        raise RuntimeError(f"{server.name} answers {status}: {body!r:.300}\n{server.log.read_text()[-3000:]}")
    server.first_token_s = time.monotonic() - server.started


def chat(model: str, tokens: int, text: str = "Say hello.") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "ignore_eos": True}


def ask(port: int, method: str, path: str, body: Any, timeout: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
