"""No field of a request makes the server connect to anywhere."""

import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from poison import BODY, MESSAGE, RESPONSE, poisoned

from callers import call
from launcher import ServiceProcess


class Bait:
    """A listener that counts who comes. Its address is put where a careless server would fetch from."""

    def __init__(self) -> None:
        self.visitors = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}/bait"
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        while True:
            try:
                self._socket.accept()[0].close()
            except OSError:
                return
            self.visitors += 1

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def bait() -> Iterator[Bait]:
    bait = Bait()
    yield bait
    bait.close()


def lures(url: str) -> Iterator[bytes]:
    for body in poisoned(BODY, url):
        yield json.dumps(body).encode()
    for more in (RESPONSE, MESSAGE):
        for body in poisoned(more, url):
            yield json.dumps(body).encode()
    image = {"type": "image", "source": {"type": "url", "url": url}}
    for content in ([image], [{"type": "tool_result", "tool_use_id": "t", "content": [image]}]):
        yield json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 1}).encode()
    for part in ({"type": "input_image", "image_url": url}, {"type": "input_file", "file_url": url}):
        yield json.dumps({"input": [{"role": "user", "content": [part]}]}).encode()
    for tool in ({"type": "mcp", "server_label": "a", "server_url": url}, {"type": "web_search", "url": url}):
        yield json.dumps({"input": "a", "tools": [tool]}).encode()
    for kind in ("image_url", "audio_url", "video_url", "input_audio", "file"):
        for part in (
            {"type": kind, kind: {"url": url}},
            {kind: {"url": url}},
            {kind: url},
            {"type": "text", kind: url},
        ):
            yield json.dumps({"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}).encode()
    for name in (
        "chat_template",
        "lora_path",
        "documents",
        "mm_processor_kwargs",
        "kv_transfer_params",
        "logits_processors",
    ):
        yield json.dumps({**BODY, name: url}).encode()
        yield json.dumps({**BODY, name: [{"text": url, "url": url}]}).encode()
    headers = {"x-forwarded-host": url, "callback": url}
    yield json.dumps({"path": url, "headers": headers}).encode()
    yield json.dumps({"path": "/chat", "method": "POST", "headers": headers, "body": {**BODY, "model": url}}).encode()


def fish(service: ServiceProcess, bait: Bait) -> None:
    for body in lures(bait.address):
        for path in ("/chat", "/tokenize", "/invoke", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"):
            answer = call(service.port, "POST", path, body, headers={"Referer": bait.address})
            assert answer.status < 500, answer.body
    assert bait.visitors == 0
    socket.create_connection(bait._socket.getsockname()).close()  # the bait works


def test_no_address_in_a_request_is_visited(start: Callable[..., ServiceProcess], bait: Bait) -> None:
    fish(start(), bait)


@pytest.mark.engine
def test_no_address_in_a_request_is_visited_by_the_real_engine(server: ServiceProcess, bait: Bait) -> None:
    fish(server, bait)
