"""Clients of the service, polite and otherwise. No connection is ever reused, so that each shows what it did."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from figures import MEASURING

#: Longer than any answer a test waits for, the minutes of a freeze included; a hang must be a failure and not a wait.
LIMIT_S = 240.0 if MEASURING else 60.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The generated text of a chat or completion object."""
        choice = self.json["choices"][0]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])

    @property
    def finish(self) -> str:
        return str(self.json["choices"][0]["finish_reason"])


def call(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = LIMIT_S,
) -> Answer:
    """One request on a connection of its own. A `body` that is not bytes is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    began = time.monotonic()
    try:
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
        kind = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, sent, {**kind, **(headers or {})})
        response = connection.getresponse()
        data = response.read()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, data, time.monotonic() - began)
    finally:
        connection.close()


def chat_body(words: int = 16, *, stream: bool = False, **script: Any) -> dict[str, Any]:
    """A chat that generates exactly `words` tokens as `script` says (engine/scripted.py)."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": words}
    if stream:
        body["stream"] = True
    return {**body, "script": {"loop": True, **script}}


def chat(port: int, words: int = 16, *, headers: Mapping[str, str] | None = None, **script: Any) -> Answer:
    return call(port, "POST", "/chat", chat_body(words, **script), headers=headers)


def post_bytes(body: Any, path: str = "/chat", headers: Mapping[str, str] | None = None) -> bytes:
    """A POST as it goes over the wire."""
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Line:
    """A bare TCP connection, for clients that do not behave."""

    def __init__(self, port: int, data: bytes = b"", *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(("127.0.0.1", port))
        if data:
            self.socket.sendall(data)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`; fails when the other end closes first."""
        seen = b""
        while mark not in seen:
            more = self.socket.recv(65536)
            assert more, f"closed before {mark!r}: {seen[-300:]!r}"
            seen += more
        return seen

    def read_all(self) -> bytes:
        """Everything until the other end closes or resets."""
        seen = b""
        with contextlib.suppress(ConnectionError):
            while more := self.socket.recv(65536):
                seen += more
        return seen

    def reset(self) -> None:
        """Close with a RST, as a client that crashed does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Events:
    """A streamed answer, event by event."""

    def __init__(self, port: int, body: Any, path: str = "/chat", headers: Mapping[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        sent = {"Content-Type": "application/json", **(headers or {})}
        self._connection.request("POST", path, json.dumps(body), sent)
        self.response = self._connection.getresponse()
        self.status = self.response.status

    def __iter__(self) -> Iterator[str]:
        """The data of each event, `[DONE]` included."""
        for line in self.response:
            if line.startswith(b"data: "):
                yield line[6:].decode().rstrip("\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.response.close()
        self._connection.close()


class Streamed(NamedTuple):
    """What a stream came to."""

    words: list[str]
    finish: str | None
    error: dict[str, Any] | None
    done: bool


def gather(events: Iterator[str]) -> Streamed:
    """Read a chat stream to its end. Fails on anything after `[DONE]` and on an event that is no JSON."""
    words: list[str] = []
    finish, error, done = None, None, False
    for data in events:
        assert not done, f"an event after [DONE]: {data}"
        if data == "[DONE]":
            done = True
            continue
        event = json.loads(data)
        if "error" in event:
            error = event["error"]
            continue
        for choice in event["choices"]:
            if content := choice["delta"].get("content"):
                words.append(content)
            finish = choice["finish_reason"] or finish
    return Streamed(words, finish, error, done)


def stream(port: int, words: int = 16, *, headers: Mapping[str, str] | None = None, **script: Any) -> Streamed:
    with Events(port, chat_body(words, stream=True, **script), headers=headers) as events:
        assert events.status == 200, events.response.read()
        return gather(iter(events))


T = TypeVar("T")


class Later(Generic[T]):
    """Runs `work` in a thread; `get` returns its result or raises what it raised."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error

    def get(self, limit_s: float = LIMIT_S) -> T:
        self._thread.join(limit_s)
        assert not self._thread.is_alive(), f"no result within {limit_s:g} s"
        if self._error is not None:
            raise self._error
        return self._value
