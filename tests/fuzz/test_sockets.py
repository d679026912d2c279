"""Bare sockets against the real process: half-sent, smuggled, pipelined and malformed requests, and many of them."""

import json
import random
import socket
import time

import pytest
from fuzzing import LIMIT_S, check_error, examples
from hypothesis import given
from hypothesis import strategies as st

from callers import Line, post_bytes
from launcher import ServiceProcess, until

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
#: Connections of one attack.
CROWD = 150


def answers(raw: bytes) -> list[tuple[int, bytes]]:
    """(status, body) of every answer in what one connection said. Fails when one of them is not well formed."""
    found = []
    while raw:
        head, mark, rest = raw.partition(b"\r\n\r\n")
        assert mark and head.startswith(b"HTTP/1.1 "), raw[:300]
        status = int(head.split()[1])
        if status == 100:
            raw = rest
            continue
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        assert lines.get(b"content-type", b"").startswith(b"application/json"), head
        length = int(lines[b"content-length"])
        assert len(rest) >= length, "the answer is not whole"
        found.append((status, rest[:length]))
        raw = rest[length:]
    return found


def say(service: ServiceProcess, raw: bytes, limit_s: float = LIMIT_S) -> list[tuple[int, bytes]]:
    """Send, tell the other side that this was all, and read until it closes."""
    with Line(service.port, raw) as line:
        line.socket.settimeout(limit_s)
        line.socket.shutdown(socket.SHUT_WR)
        return answers(line.read_all())


HEAD = "POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = json.dumps(CHAT)
CHUNKED = "Transfer-Encoding: chunked\r\n"
SIZED = f"Content-Length: {len(BODY)}\r\n"
MALFORMED = {
    "no request line": ("\r\n\r\n\r\n", ()),
    "no HTTP": ("hello\r\n\r\n", (400,)),
    "another protocol": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400,)),
    "HTTP/2": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
    "a later HTTP/1": ("GET /health HTTP/1.8\r\nHost: x\r\n\r\n", (400,)),
    "HTTP/9": ("GET /health HTTP/9.9\r\nHost: x\r\n\r\n", (400,)),
    "a method in lower case": ("get /health HTTP/1.1\r\nHost: x\r\n\r\n", (400, 405)),
    "CONNECT": ("CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n", (400, 404, 405)),
    "a proxy's line": ("GET http://169.254.169.254/health HTTP/1.1\r\nHost: x\r\n\r\n", (200, 400, 404)),
    "a long path": (f"GET /{'a' * 5000} HTTP/1.1\r\nHost: x\r\n\r\n", (414,)),
    "a long header": (f"GET /health HTTP/1.1\r\nHost: x\r\nx: {'a' * 9000}\r\n\r\n", (431,)),
    "many headers": ("GET /health HTTP/1.1\r\n" + "x: y\r\n" * 100 + "\r\n", (431,)),
    "a header without a colon": ("GET /health HTTP/1.1\r\nHost: x\r\nbad\r\n\r\n", (400,)),
    "white space before the colon": ("GET /health HTTP/1.1\r\nHost : x\r\n\r\n", (400,)),
    "a folded header": ("GET /health HTTP/1.1\r\nHost: x\r\nx: a\r\n b\r\n\r\n", (400,)),
    "a zero byte": ("GET /health HTTP/1.1\r\nHost: x\r\nx: a\x00b\r\n\r\n", (400,)),
    "a header from a trusted proxy": ("GET /health HTTP/1.1\r\nHost: x\r\nSCRIPT_NAME: /evil\r\n\r\n", (200, 400)),
    "two schemes": ("GET /health HTTP/1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n", (200, 400)),
    "another expectation": (f"{HEAD}{SIZED}Expect: tea\r\n\r\n{BODY}", (417,)),
    # request smuggling: whatever a proxy in front made of it, this end must not see two requests
    "two lengths": (f"{HEAD}Content-Length: 4\r\n{SIZED}\r\n{BODY}", (400,)),
    "two lengths in one": (f"{HEAD}Content-Length: 4, {len(BODY)}\r\n\r\n{BODY}", (400,)),
    "a length with a sign": (f"{HEAD}Content-Length: +{len(BODY)}\r\n\r\n{BODY}", (400,)),
    "a negative length": (f"{HEAD}Content-Length: -1\r\n\r\n{BODY}", (400,)),
    "a length in hex": (f"{HEAD}Content-Length: 0x10\r\n\r\n{BODY}", (400,)),
    "length and chunks": (
        f"{HEAD}{SIZED}{CHUNKED}\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
        (400,),
    ),
    "chunks twice": (f"{HEAD}{CHUNKED}{CHUNKED}\r\n0\r\n\r\n", (400,)),
    "chunks that are not the last coding": (f"{HEAD}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", (400, 501)),
    "an unknown coding": (f"{HEAD}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", (400, 501)),
    "an unknown coding without a body": (f"{HEAD}Transfer-Encoding: xchunked\r\n\r\n", (400, 501)),
    "a coding with a tab": (f"{HEAD}Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", (400, 501)),
    "a coding hidden by a space": (f"{HEAD}Transfer-Encoding : chunked\r\n{SIZED}\r\n{BODY}", (400,)),
    "a chunk size that is none": (f"{HEAD}{CHUNKED}\r\nxyz\r\n{BODY}\r\n0\r\n\r\n", (400,)),
    "a chunk size with a sign": (f"{HEAD}{CHUNKED}\r\n-5\r\n{BODY}\r\n0\r\n\r\n", (400,)),
    "a chunk size beyond all bounds": (f"{HEAD}{CHUNKED}\r\n{'f' * 40}\r\n{BODY}", (400, 413)),
    "a chunk longer than it says": (f"{HEAD}{CHUNKED}\r\n5\r\n{BODY}\r\n0\r\n\r\n", (400,)),
    "a chunk without an end": (f"{HEAD}{CHUNKED}\r\n{len(BODY):x}\r\n{BODY}", ()),
    "a body that never comes whole": (f"{HEAD}Content-Length: 500\r\n\r\n{BODY}", ()),
    "a body larger than allowed": (f"{HEAD}Content-Length: 99999999\r\n\r\n", (413,)),
    "a length beyond all bounds": (f"{HEAD}Content-Length: {'9' * 50}\r\n\r\n", (400, 413)),
}


@pytest.mark.parametrize(("raw", "expected"), MALFORMED.values(), ids=list(MALFORMED))
def test_a_malformed_request_gets_one_answer_at_most(
    service: ServiceProcess, raw: str, expected: tuple[int, ...]
) -> None:
    began = time.monotonic()
    got = say(service, raw.encode("latin-1"))
    assert len(got) <= 1, f"smuggled: {got}"
    if expected:
        assert got and got[0][0] in expected, got
    for status, body in got:
        check_error(status, body)
    assert time.monotonic() - began < LIMIT_S


def test_pipelined_requests_are_answered_in_their_order(service: ServiceProcess) -> None:
    paths = ["/health", "/version", "/nowhere", "/v1/models", "/health"]
    raw = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths).encode() + post_bytes(CHAT)
    with Line(service.port, raw) as line:
        line.socket.settimeout(2)
        seen = b""
        while len(found := answers_so_far(seen)) < len(paths) + 1:
            seen += line.socket.recv(65536)
    assert [status for status, _ in found] == [200, 200, 404, 200, 200, 200]
    assert b"chat.completion" in found[-1][1]


def answers_so_far(raw: bytes) -> list[tuple[int, bytes]]:
    try:
        return answers(raw)
    except (AssertionError, KeyError):
        return []


def test_slow_senders_are_cut(service: ServiceProcess) -> None:
    """slowloris: a crowd of connections, each of which sends a little of a request and then hardly anything."""
    lines = [Line(service.port, HEAD.encode()) for _ in range(CROWD)]
    lines += [Line(service.port, f"{HEAD}{SIZED}\r\n{BODY[:5]}".encode()) for _ in range(CROWD)]
    lines += [Line(service.port) for _ in range(CROWD)]
    answer = service.call("POST", "/chat", CHAT)
    assert answer.status == 200 and answer.seconds < 5, "others are served meanwhile"
    # cut after CHATBOT_READ_TIMEOUT_S, without an answer to what was no request
    rest = [line.read_all() for line in lines[: 2 * CROWD]]
    for line in lines:
        line.close()
    assert set(rest) == {b""}
    until(lambda: service.call("GET", "/health").status == 200, "the service is well")


def test_readers_that_never_read_are_cut(service: ServiceProcess) -> None:
    script = {"loop": True, "burst": 100, "text": "x" * 1500}  # 7 MB in all: the kernel buffers 4 at most
    body = post_bytes({**CHAT, "stream": True, "max_tokens": 4000, "script": script})
    lines = [Line(service.port, body, receive_buffer=1024) for _ in range(8)]
    until(lambda: service.running() == 8, "all eight hold a slot", 10)
    service.wait_idle(30)
    for line in lines:
        line.close()


WORDS = [
    *("GET ", "POST ", "/chat ", "/invoke ", "/health ", "HTTP/1.1", "HTTP/1.0", "\r\n", "\r\n\r\n", "\n", " ", "\t"),
    *("Host: x\r\n", "Content-Length: ", CHUNKED, "Connection: keep-alive\r\n", "Connection: close\r\n", "0\r\n\r\n"),
    *(
        "Expect: 100-continue\r\n",
        "Content-Type: application/json\r\n",
        "Upgrade: h2c\r\n",
        "Content-Encoding: gzip\r\n",
    ),
    *("5\r\n", "ffffffff\r\n", "-1", "\x00", BODY, str(len(BODY)), "{", "}", ":", ";"),
]
pieces = st.sampled_from(WORDS) | st.text(st.characters(max_codepoint=255), max_size=6)


@examples(0.05)
@given(soup=st.lists(pieces, max_size=14).map("".join))
def test_any_bytes_are_answered_or_cut(service: ServiceProcess, soup: str) -> None:
    for status, body in say(service, soup.encode("latin-1")):
        check_error(status, body, half_closed=True)


@examples(0.05)
@given(seed=st.integers(0, 2**32))
def test_a_request_with_a_few_wrong_bytes_is_answered_or_cut(service: ServiceProcess, seed: int) -> None:
    dice = random.Random(seed)
    raw = bytearray(post_bytes(CHAT))
    for _ in range(dice.randint(1, 4)):
        raw[dice.randrange(len(raw))] = dice.randrange(256)
    for status, body in say(service, bytes(raw)):
        check_error(status, body, half_closed=True)
