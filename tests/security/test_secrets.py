"""A canary secret goes into every header and every place of every body, and must come out nowhere.

What a caller names as its request id or trace is there to be logged and echoed; everything else is not.
"""

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator

import pytest
from poison import BODY, MESSAGE, RESPONSE, poisoned

from callers import Line
from launcher import API_KEY, ServiceProcess

CANARY = "sk-canary-5f0c9a7e1b2d"

HEADERS = (
    "Authorization",
    "api-key",
    "Cookie",
    "Proxy-Authorization",
    "X-Api-Key",
    "User-Agent",
    "Referer",
    "Origin",
    "Content-Type",
    "Accept",
    "Expect",
    "Host",
    "X-Forwarded-For",
    "Forwarded",
    "SCRIPT_NAME",
    "If-None-Match",
    "x-request-timeout",
    "x-fc-access-key-id",
    "x-fc-access-key-secret",
    "x-fc-security-token",
    "x-fc-control-path",
    "x-fc-account-id",
    "x-secret",
)


def bodies() -> Iterator[bytes]:
    for body in poisoned(BODY, CANARY):
        yield json.dumps(body).encode()
    for body in (*poisoned(RESPONSE, CANARY), *poisoned(MESSAGE, CANARY)):
        yield json.dumps(body).encode()
    for body in poisoned({"prompt": "a", "max_tokens": 1}, CANARY):
        yield json.dumps(body).encode()
    yield CANARY.encode()
    yield b'{"messages": ' + CANARY.encode()
    yield b'{"messages": "\xff' + CANARY.encode()


class Caller:
    """Many requests over one connection, as far as the service lets it live."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def close(self) -> None:
        self._connection.close()

    def __call__(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """The status line, headers and body of an error; nothing of an answer, which may hold what it was asked."""
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        reported = answer.read() + str(answer.getheaders()).encode()
        return b"" if answer.status == 200 else reported


def attack(service: ServiceProcess) -> Iterator[tuple[str, bytes]]:
    """(what was sent, everything that came back)."""
    with contextlib.closing(Caller(service.port)) as ask:
        yield from _requests(ask)
    for raw in (
        f"GET /health HTTP/{CANARY}\r\n\r\n",
        f"{CANARY} /health HTTP/1.1\r\n\r\n",
        f"GET /health HTTP/1.1\r\n{CANARY} : x\r\n\r\n",
        f"GET /health HTTP/1.1\r\nbad {CANARY}\r\n\r\n",
        f"GET /health HTTP/1.1\r\nx: {CANARY}\x00\r\n\r\n",
        f"GET /{CANARY * 300} HTTP/1.1\r\n\r\n",
        f"GET /health HTTP/1.1\r\nx: {CANARY * 500}\r\n\r\n",
        f"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {CANARY}\r\n\r\n",
        f"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: {CANARY}\r\n\r\n",
        f"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{CANARY}\r\n",
        f"POST /chat HTTP/1.1\r\nHost: x\r\nExpect: {CANARY}\r\n\r\n",
    ):
        with Line(service.port, raw.encode("latin-1")) as line:
            yield raw, line.read_all()


def _requests(ask: Caller) -> Iterator[tuple[str, bytes]]:
    key = {"api-key": API_KEY, "Content-Type": "application/json"}
    chat = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}).encode()
    for name in HEADERS:
        for more in ({}, key):
            for path in ("/chat", "/invoke", "/v1/models", "/nowhere", "/v1/messages"):
                method = "GET" if path == "/v1/models" else "POST"
                yield f"header {name} to {path}", ask(method, path, chat, {**more, name: CANARY})
    for body in bodies():
        for path in ("/chat", "/generate", "/tokenize", "/detokenize", "/invoke", "/v1/responses", "/v1/messages"):
            yield f"{body!r} to {path}", ask("POST", path, body, key)


def _hunt(service: ServiceProcess) -> None:
    tried = 0
    for sent, came in attack(service):
        tried += 1
        assert CANARY.encode() not in came, f"an error repeats what came as {sent}: {came[:600]!r}"
    assert tried > 300
    metrics = service.call("GET", "/metrics").body
    time.sleep(0.2)  # lines still on their way
    for name, text in (("the log", service.log()), ("the metrics", metrics.decode())):
        at = text.find(CANARY)
        assert at < 0, f"{name} holds the secret: ...{text[max(0, at - 600) : at + 200]}"
        assert API_KEY not in text, f"{name} holds an API key"


def test_a_secret_comes_out_nowhere(start: Callable[..., ServiceProcess]) -> None:
    _hunt(start(api_keys=API_KEY, log_level="debug"))


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_secret_comes_out_of_the_real_engine_nowhere(keyed: ServiceProcess) -> None:
    _hunt(keyed)
