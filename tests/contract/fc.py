"""A double of Function Compute: one instance, started, called, frozen and ended as the platform does it.

What a deployment chooses is read from the rendered s.yaml, what the platform fixes from infra/fc/quotas.py, so a wrong
s.yaml fails here. Order and behaviour are those of the pages named beside them (docs/zh-CN of aliyun-fc/fc-docs).
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from callers import Answer, Streamed, gather
from infra.fc import quotas
from launcher import ServiceProcess, free_port

DEFAULT_PORT = 9000  # page 04/126
DEFAULT_HOOK_S = 3.0  # fc3: a hook without `timeout`
DEFAULT_TIMEOUT_S = 60.0  # fc3
#: Between SIGTERM and SIGKILL. FC documents none; this is Docker's.
TERM_GRACE_S = 10.0
TRIGGER, EVENT = "/http-invoke", "/invoke"  # x-fc-control-path, page 04/079


class StartFailed(Exception):
    """FunctionNotStarted, InitializationError, ...: the instance never gets traffic."""


class Throttled(Exception):
    """More requests at once than instanceConcurrency; FC would start another instance, or answer 429."""


class FunctionTimeout(Exception):
    """The function's timeout was reached: FC ends the invocation, and what was not sent is lost."""


class BadGateway(Exception):
    """502: the process closed the connection of a request that FC does not repeat."""


class Ended(NamedTuple):
    """How an instance ended: whether /pre-stop answered in its time and what, and the exit status (None: killed)."""

    pre_stop: Answer | None
    exit_status: int | None


class FunctionCompute:
    """`props` is the rendered s.yaml; `start` runs the image's ENTRYPOINT (launcher.ServiceProcess)."""

    def __init__(self, props: Mapping[str, Any], start: Callable[..., ServiceProcess]) -> None:
        self.props = props
        self._start = start
        container = props["customContainerConfig"]
        hooks = props.get("instanceLifecycleConfig") or {}
        self._port = int(container.get("port", DEFAULT_PORT))
        self._command = [str(word) for word in container.get("command") or ()]
        self._check = container.get("healthCheckConfig") or {}
        self._initializer = hooks.get("initializer") or {}
        self._pre_stop = hooks.get("preStop") or {}
        self._provision = props.get("provisionConfig") or {}
        self.timeout_s = float(props.get("timeout", DEFAULT_TIMEOUT_S))
        self.concurrency = int(props.get("instanceConcurrency", 1))
        self.service: ServiceProcess
        self._lock = threading.Lock()
        self._in_flight = 0
        self._ending = self._closed = False
        self._pool_lock = threading.Lock()
        self._pool: list[http.client.HTTPConnection] = []

    # an instance's life (pages 04/038, 04/040, 04/131)

    def start_instance(self) -> None:
        """Start the container, wait for its port, initialize, check its health once; then freeze it."""
        self._open_port = free_port()  # stands for the container's own port in its own network
        variables = {name: str(value) for name, value in (self.props.get("environmentVariables") or {}).items()}
        assert not any(name.startswith(quotas.RESERVED_ENVIRONMENT_PREFIX) for name in variables), "FC refuses FC_*"
        variables |= {
            "FC_FUNCTION_NAME": self.props["functionName"],
            "FC_REGION": self.props["region"],
            "FC_ACCOUNT_ID": "1234567890123456",
            "FC_INSTANCE_ID": f"c-{uuid.uuid4().hex}",
            "FC_CUSTOM_LISTEN_PORT": str(self._open_port),
            "FC_FUNCTION_MEMORY_SIZE": str(self.props["memorySize"]),
        }
        self.service = self._start(argv=self._arguments(), env=variables, port=self._open_port)
        try:
            self.service.wait_listening(quotas.LISTEN_WITHIN_S)
        except AssertionError as error:
            raise StartFailed(f"FunctionNotStarted: port {self._port}: {error}") from error
        self._initialize()
        self._first_check()
        self._freeze()

    def _arguments(self) -> list[str]:
        """The container's arguments; the port that FC knows becomes the one that is free here, no other does."""
        words = list(self._command)
        for place, word in enumerate(words):
            if word == f"--port={self._port}":
                words[place] = f"--port={self._open_port}"
            elif word == str(self._port) and place and words[place - 1] == "--port":
                words[place] = str(self._open_port)
        return words

    def _initialize(self) -> None:
        """Page 04/125: POST /initialize, only if an initializer is configured."""
        if not self._initializer.get("handler"):
            return
        limit = float(self._initializer.get("timeout", DEFAULT_HOOK_S))
        try:
            answer = self._exchange("POST", "/initialize", b"", self._headers("/initialize", {}), limit)
        except TimeoutError as error:
            raise StartFailed(f"InitializationError: no answer within {limit:g} s") from error
        except OSError as error:
            raise StartFailed(f"InitializationError: {error}") from error
        if not 200 <= answer.status < 300:
            raise StartFailed(f"InitializationError: {answer.status} {answer.body.decode()}")

    def _first_check(self) -> None:
        """Page 04/038: the first check is not repeated; if it fails the start has failed."""
        if not self._check.get("httpGetUrl"):
            return
        time.sleep(float(self._check.get("initialDelaySeconds", 0)))
        try:
            answer = self.check_health()
        except OSError as error:
            raise StartFailed(f"FunctionNotStarted: check function health failed: {error}") from error
        if not 200 <= answer.status < 400:
            raise StartFailed(f"FunctionNotStarted: check function health failed with status code {answer.status}")

    def check_health(self) -> Answer:
        limit = float(self._check.get("timeoutSeconds", 1))
        return self._exchange("GET", self._check["httpGetUrl"], None, {}, limit)

    def stop_instance(self) -> Ended:
        """GET /pre-stop if configured, SIGTERM, and SIGKILL for what is still there."""
        with self._lock:
            self._ending = True
            self._thaw()
        answer = None
        if self._pre_stop.get("handler"):
            with contextlib.suppress(OSError):
                limit = float(self._pre_stop.get("timeout", DEFAULT_HOOK_S))
                answer = self._exchange("GET", "/pre-stop", None, {}, limit)
        self.service.terminate()
        try:
            return Ended(answer, self.service.wait_exit(TERM_GRACE_S))
        except subprocess.TimeoutExpired:
            self.service.signal_tree(signal.SIGKILL)
            return Ended(answer, None)

    # calls

    def http(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """A request through the HTTP trigger: handed on as it is, if the trigger takes the method."""
        methods = [method for trigger in self.props["triggers"] for method in trigger["triggerConfig"]["methods"]]
        if method not in methods:
            return Answer(405, {}, b"", 0.0)
        with self._slot():
            sent, kind = _encoded(body)
            return self._exchange(
                method, path, sent, self._headers(TRIGGER, kind | dict(headers or {})), self.timeout_s
            )

    def stream(self, path: str, body: Any) -> Streamed:
        """A streamed chat through the HTTP trigger, read to its end."""
        with self._slot():
            connection = http.client.HTTPConnection("127.0.0.1", self._open_port, timeout=self.timeout_s)
            try:
                sent, kind = _encoded(body)
                connection.request("POST", path, sent, self._headers(TRIGGER, kind))
                with connection.getresponse() as response:
                    chunked = response.getheader("Transfer-Encoding") == "chunked"
                    assert chunked, "page 08/090: FC streams only chunked answers"
                    return gather(line[6:].decode().rstrip("\n") for line in response if line.startswith(b"data: "))
            finally:
                connection.close()

    def invoke(self, event: bytes) -> bytes:
        """InvokeFunction: the caller gets the body alone; status and headers are lost (page 04/071)."""
        with self._slot():
            kind = {"Content-Type": "application/octet-stream"}
            return self._exchange("POST", "/invoke", event, self._headers(EVENT, kind), self.timeout_s).body

    def _headers(self, control_path: str, given: Mapping[str, str]) -> dict[str, str]:
        """Page 04/079. A client's own x-fc-* never get here."""
        return {name: value for name, value in given.items() if not name.lower().startswith("x-fc-")} | {
            "x-fc-request-id": f"1-{uuid.uuid4()}",
            "x-fc-control-path": control_path,
            "x-fc-function-name": str(self.props["functionName"]),
            "x-fc-region": str(self.props["region"]),
            "x-fc-access-key-id": "STS.canary",
            "x-fc-security-token": "canary",
        }

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """Count a request in and out, run the clock of the function's timeout, freeze when the last is out."""
        with self._lock:
            if self._in_flight >= self.concurrency:
                raise Throttled(f"{self._in_flight} requests are in the instance")
            self._in_flight += 1
            self._thaw()
        overdue = threading.Event()

        def end() -> None:
            overdue.set()
            self.service.signal_tree(signal.SIGKILL)

        clock = threading.Timer(self.timeout_s, end)
        clock.daemon = True
        clock.start()
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            if overdue.is_set() or isinstance(error, TimeoutError):
                raise FunctionTimeout(f"the function ran for {self.timeout_s:g} s") from error
            raise BadGateway(f"502 Process exited unexpectedly before completing request: {error!r}") from error
        finally:
            clock.cancel()
            with self._lock:
                self._in_flight -= 1
                if self._in_flight == 0:
                    self._freeze()

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> Answer:
        """One request on a kept connection if there is one. FC repeats none but GET on a closed one (page 04/126)."""
        with self._pool_lock:
            connection = self._pool.pop() if self._pool else None
        kept = connection is not None
        connection = connection or http.client.HTTPConnection("127.0.0.1", self._open_port)
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        began = time.monotonic()
        try:
            connection.request(method, path, body, dict(headers))
            data = (response := connection.getresponse()).read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if kept and method == "GET" and not isinstance(error, TimeoutError):
                return self._exchange(method, path, body, headers, timeout_s)
            raise
        named = {name.lower(): value for name, value in response.getheaders()}
        size = sum(len(name) + len(value) for name, value in response.getheaders())
        assert size <= quotas.MAX_HEADER_BYTES, "502 BadResponse: the answer's headers are too large"
        with self._pool_lock:
            if response.will_close or self._closed:
                connection.close()
            else:
                self._pool.append(connection)
        return Answer(response.status, named, data, time.monotonic() - began)

    def close(self) -> None:
        """Leave the instance alone from now on."""
        with self._lock:
            self._ending = True
        with self._pool_lock:
            self._closed = True
            for connection in self._pool:
                connection.close()

    # freezing (page 04/040: between the initializer and the first request, and between requests)

    def _freeze(self) -> None:
        if not self._ending and self._provision.get("alwaysAllocateCPU") is not True:
            self.service.signal_tree(signal.SIGSTOP)

    def _thaw(self) -> None:
        self.service.signal_tree(signal.SIGCONT)


def _encoded(body: Any) -> tuple[bytes | None, dict[str, str]]:
    if body is None or isinstance(body, bytes):
        return body, {}
    return json.dumps(body).encode(), {"Content-Type": "application/json"}


def hurried(props: Mapping[str, Any], times: float) -> dict[str, Any]:
    """The same deployment with every limit on a request's and an instance's end `times` as short."""
    quick: dict[str, Any] = copy.deepcopy(dict(props))
    quick["timeout"] = props["timeout"] / times
    for hook in (quick.get("instanceLifecycleConfig") or {}).values():
        if "timeout" in hook:
            hook["timeout"] /= times
    for name in ("CHATBOT_DEADLINE_S", "CHATBOT_DRAIN_S"):
        if name in quick["environmentVariables"]:
            quick["environmentVariables"][name] = str(float(quick["environmentVariables"][name]) / times)
    return quick
