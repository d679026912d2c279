"""Streams of thousands of chunks under readers of all sorts: every chunk, once, in order, and nothing after the last.

One seed in a test run; `FUZZ_EXAMPLES` in the nightly one makes it thousands.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import time
from collections.abc import Callable

import pytest

from callers import Later, Line, post_bytes
from launcher import ServiceProcess

#: Streams of one run: 40, or 2,000 of the nightly run's 50,000 inputs.
STREAMS = max(40, int(os.environ.get("FUZZ_EXAMPLES", "2000")) // 25)
AT_ONCE = 20
CHUNK = re.compile(rb"([0-9a-f]+)\r\n")


@pytest.fixture(scope="module")
def service(start_once: Callable[..., ServiceProcess]) -> ServiceProcess:
    return start_once(max_running=AT_ONCE, max_waiting=AT_ONCE, read_timeout_s=60).wait_ready()


def unchunked(raw: bytes) -> bytes:
    """The body of a chunked answer. Fails where a frame is wrong, or anything follows the last."""
    out, at = b"", 0
    while True:
        size = CHUNK.match(raw, at)
        assert size, raw[at : at + 80]
        length, at = int(size[1], 16), size.end()
        out += raw[at : at + length]
        at += length
        assert raw[at : at + 2] == b"\r\n"
        at += 2
        if length == 0:
            assert at == len(raw), "bytes behind the end"
            return out


def read_oddly(line: Line, dice: random.Random) -> bytes:
    """Read as a client does that has other things to do."""
    most = dice.choice([1, 7, 100, 4096, 65536])
    rest = dice.choice([0.0, 0.001, 0.02])
    naps = dice.randint(0, 3)
    seen = b""
    while not seen.endswith(b"\r\n0\r\n\r\n"):
        piece = line.socket.recv(most if len(seen) < 5_000 else 65536)
        assert piece, f"closed after {seen[-100:]!r}"
        seen += piece
        if rest and dice.random() < 0.01:
            time.sleep(rest)
        if naps and dice.random() < 0.01:
            naps -= 1
            time.sleep(dice.random() / 2)
    return seen


def one_stream(service: ServiceProcess, seed: int) -> None:
    dice = random.Random(seed)
    words = dice.randint(1000, 4000)
    text = " ".join(f"w{number}" for number in range(words))
    script = {"text": text, "burst": dice.choice([1, 3, 50, 400]), "token_s": dice.choice([0, 0, 0.0005])}
    body = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": words, "stream": True, "script": script}
    with Line(service.port, receive_buffer=dice.choice([None, 2048, 16384])) as line:
        with contextlib.suppress(OSError):
            line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, dice.randint(0, 1))
        line.send(post_bytes(body))
        head, _, raw = read_oddly(line, dice).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    events = unchunked(raw).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""], f"seed {seed}: {events[-3:]}"
    deltas = [json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"] for event in events[:-2]]
    assert "".join(delta.get("content", "") for delta in deltas) == text, f"seed {seed}"


def test_every_chunk_comes_once_in_order_and_none_behind_the_last(service: ServiceProcess) -> None:
    for first in range(0, STREAMS, AT_ONCE):
        for work in [Later(lambda seed=seed: one_stream(service, seed)) for seed in range(first, first + AT_ONCE)]:
            work.get(120)
    service.wait_idle()
