"""Starts the real service as a process of its own on a free port, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from callers import Answer, call

ROOT = Path(__file__).resolve().parents[2]
#: A busy machine may need many seconds for what takes one on an idle machine.
PATIENCE_S = 60.0
#: Threads the worker may have with the scripted engine: the loop's, the judges', libraries'.
THREADS = 12
#: Flags for vLLM with one layer of random weights: where nothing depends on what is answered, but much is asked.
ONE_LAYER = ["--load-format", "dummy", "--hf-overrides", '{"num_hidden_layers": 1}']
#: Of the services that want one.
API_KEY = "service-key-0123456789abcdef"
#: What the service may see of the environment of whoever runs the tests.
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH", "CHATBOT_CACHE_DIR")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], what: str, limit_s: float = PATIENCE_S, pause_s: float = 0.02) -> Any:
    """Wait for something to become true and return it; fails naming `what` after `limit_s` seconds."""
    end = time.monotonic() + limit_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {limit_s:g} s")
        time.sleep(pause_s)


class ServiceProcess:
    """One run of the service. `settings` are `CHATBOT_*` variables by their short names; `script` is the engine's."""

    def __init__(
        self,
        log: Path,
        *,
        argv: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        script: Mapping[str, Any] | None = None,
        port: int | None = None,
        **settings: Any,
    ) -> None:
        self.port = port or free_port()
        self.log_path = log
        chosen = {"CHATBOT_ENGINE": "scripted"}
        chosen |= {f"CHATBOT_{name.upper()}": str(value) for name, value in settings.items()}
        if script is not None:
            chosen["CHATBOT_SCRIPT"] = json.dumps(script)
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        if not any(word.split("=")[0] == "--port" for word in argv) and "FC_CUSTOM_LISTEN_PORT" not in (env or {}):
            argv = [*argv, "--port", str(self.port)]
        self.started = time.monotonic()
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chatbot_llm", *argv],
                env={**kept, "PYTHONPATH": str(ROOT / "code"), "PYTHONUNBUFFERED": "1", **chosen, **(env or {})},
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    # asking

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        return call(self.port, method, path, body, **more)

    def health(self) -> dict[str, Any]:
        shown: dict[str, Any] = self.call("GET", "/health").json
        return shown

    def running(self) -> int:
        return int(self.health()["running"])

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics; labels are part of the name, as Prometheus writes them."""
        text = self.call("GET", "/metrics").body.decode()
        return {
            sample.name + "".join(f"[{value}]" for _, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    # waiting

    def listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.log()[-3000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def wait_listening(self, limit_s: float = PATIENCE_S) -> ServiceProcess:
        until(self.listens, "the port answers", limit_s)
        return self

    def wait_ready(self, limit_s: float = PATIENCE_S) -> ServiceProcess:
        self.wait_listening(limit_s)
        until(lambda: self.listens() and self.health()["ready"], "the engine is ready", limit_s)
        return self

    def wait_idle(self, limit_s: float = 5.0) -> None:
        """Nobody runs and nobody waits: no slot has been lost."""
        until(lambda: (now := self.health())["running"] + now["waiting"] == 0, "all slots are free", limit_s)

    def turned_unhealthy(self, limit_s: float = PATIENCE_S) -> tuple[float, float]:
        """Wait until /health does not say 200 any more: when it was last asked and did, and when it first did not.

        Both by the wall clock. What lies between the two is this machine's, not the service's.
        """
        healthy = 0.0

        def ill() -> bool:
            nonlocal healthy
            sent = time.time()
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.call("GET", "/health", timeout=5).status == 200:
                    healthy = sent
                    return False
            return True

        until(ill, "it is unhealthy", limit_s)
        return healthy, time.time()

    def wait_exit(self, limit_s: float = PATIENCE_S) -> int:
        return self.process.wait(limit_s)

    # the process tree

    @property
    def worker(self) -> psutil.Process:
        """The process that serves; the master above it only watches."""
        return until(lambda: psutil.Process(self.process.pid).children(), "a worker", 10)[0]  # type: ignore[no-any-return]

    def tree(self) -> list[psutil.Process]:
        """Every living process of this run, orphans included: they all stay in its session."""
        return list(_session(self.process.pid))

    def signal_tree(self, number: signal.Signals) -> None:
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing of the service moves inside, as in an instance that FC has frozen."""
        self.signal_tree(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal_tree(signal.SIGCONT)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Stop it, and fail if a process of it is left."""
        self.signal_tree(signal.SIGCONT)
        if self.process.poll() is None:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(3)
        if self.process.poll() is None:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        killed = self.process.poll() is None
        try:
            assert not killed, "two SIGTERM did not end the service"
            self.assert_nothing_left()
        finally:
            for process in self.tree():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait(10)

    def assert_nothing_left(self, limit_s: float = 5.0) -> None:
        """Fails if a process of this run outlives it; call after it has ended."""
        until(lambda: not self.tree(), f"no process is left of {self.process.pid}", limit_s)


def _session(leader: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                yield process
