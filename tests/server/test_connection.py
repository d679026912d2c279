"""Bounds and times of a connection, by bare sockets against the real process: what one client does harms no other."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from callers import Line, chat, chat_body, post_bytes, stream
from chatbot_llm.server import connection
from launcher import ServiceProcess, until

MOST_BODY = 1 << 20
HEAD = b"POST /chat HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
#: A busy machine may be late; what is looked for is 30 s.
QUICK_S = 1.0


@pytest.fixture(scope="module")
def service(start_once: Callable[..., ServiceProcess]) -> ServiceProcess:
    return start_once(max_running=4, max_waiting=4, max_body_bytes=MOST_BODY, read_timeout_s=6).wait_ready()


@pytest.fixture(autouse=True)
def unharmed(service: ServiceProcess) -> Iterator[None]:
    yield
    service.wait_idle(20)
    assert '"exception"' not in service.log()


@contextlib.contextmanager
def crowd(service: ServiceProcess, data: bytes, size: int, receive_buffer: int | None = None) -> Iterator[list[Line]]:
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Line(service.port, receive_buffer=receive_buffer)) for _ in range(size)]
        for line in lines:
            with contextlib.suppress(ConnectionError):
                line.send(data)
        yield lines


def slowest_health(service: ServiceProcess, looks: int = 5) -> float:
    return sorted(service.call("GET", "/health", timeout=40).seconds for _ in range(looks))[-2]


def status(raw: bytes) -> int:
    return int(raw.split(b" ")[1])


#: Each was once whole to one parser and not to another.
DISPUTED = {
    "a huge chunk without its data": HEAD + CHUNKED + b"fffff\r\n",
    "a chunk size of 23 digits": HEAD + CHUNKED + b"1" * 23 + b"\r\n",
    "a length of 23 digits": HEAD + b"Content-Length: " + b"1" * 23 + b"\r\n\r\n{}",
    "identity, chunked": HEAD + b"Transfer-Encoding: identity, chunked\r\n\r\n5\r\n{",
    "gzip, chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\n{",
    "a long chunk line": HEAD + CHUNKED + b"5;" + b"x" * 9000,
    "a chunk line that does not end, on an open route": b"GET /health HTTP/1.1\r\nHost: t\r\n" + CHUNKED + b"5;x",
    "an endless trailer": HEAD + CHUNKED + b"2\r\n{}\r\n0\r\nx: " + b"y" * 9000,
    "an endless header": HEAD + b"x: " + b"y" * 7000,
    "an endless method": b"X" * 30,
    "empty lines": b"\r\n" * 500,
}


@pytest.mark.parametrize("data", DISPUTED.values(), ids=list(DISPUTED))
def test_what_parsers_could_dispute_holds_nobody_up(service: ServiceProcess, data: bytes) -> None:
    with crowd(service, data, 64):
        assert slowest_health(service) < QUICK_S
        assert chat(service.port, 3).status == 200


def test_a_body_in_tiny_chunks_costs_its_sender_alone(service: ServiceProcess) -> None:
    calm = gaps(service)
    body = HEAD + CHUNKED + b"1\r\na\r\n" * (2 * connection.MAX_CHUNKS)
    senders = [threading.Thread(target=lambda: refused_for_chunks(service, body)) for _ in range(12)]
    for sender in senders:
        sender.start()
    during = gaps(service)
    for sender in senders:
        sender.join()
    assert during < calm + QUICK_S


def refused_for_chunks(service: ServiceProcess, body: bytes) -> None:
    with Line(service.port) as line:
        with contextlib.suppress(ConnectionError):
            line.send(body)
        answer = line.read_all()
        assert answer == b"" or status(answer) == 413, answer[:200]


def gaps(service: ServiceProcess) -> float:
    """The longest time between two events of a stream of 50 tokens, 20 ms apart."""
    longest, last = 0.0, time.monotonic()
    with Line(service.port, post_bytes(chat_body(50, stream=True, token_s=0.02))) as line:
        seen = b""
        while b"[DONE]" not in seen:
            seen += line.socket.recv(65536)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return longest


def test_as_many_chunks_as_are_allowed_are_taken(service: ServiceProcess) -> None:
    body = json.dumps(chat_body(3)).encode().ljust(connection.MAX_CHUNKS - 1)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with Line(service.port, HEAD + CHUNKED + chunks) as line:
        assert status(line.read_until(b"\r\n\r\n")) == 200


def test_readers_that_take_nothing_hold_up_nobody(service: ServiceProcess) -> None:
    with crowd(service, b"GET /openapi.json HTTP/1.1\r\nHost: t\r\n\r\n" * 100, 60, receive_buffer=2048):
        assert slowest_health(service) < QUICK_S
        assert chat(service.port, 3).status == 200


def test_unused_connections_give_way_before_a_begun_upload(service: ServiceProcess) -> None:
    request = post_bytes(chat_body(3))
    with Line(service.port, b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n") as idle, Line(service.port) as upload:
        idle.read_until(b"scripted")
        upload.send(request[:-10])
        with crowd(service, b"", connection.MAX_CONNECTIONS + 100):
            assert chat(service.port, 3).status == 200
            upload.send(request[-10:])
            assert status(upload.read_until(b"\r\n\r\n")) == 200
            idle.send(b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n")
            assert status(idle.read_until(b"scripted")) == 200


def test_bodies_are_bounded_together(service: ServiceProcess) -> None:
    half = HEAD + b"Content-Length: %d\r\n\r\n" % MOST_BODY + b" " * (MOST_BODY - 1)
    with crowd(service, half, 24) as lines:
        refused = []
        for line in lines:
            line.socket.settimeout(0.5)
            with contextlib.suppress(TimeoutError, ConnectionError):
                refused.append(line.socket.recv(65536))
        reported = [answer for answer in refused if answer]
        assert reported and all(status(answer) == 429 and b"retry-after" in answer.lower() for answer in reported)
        assert len(reported) < len(lines), "those that came first are not refused"
    until(lambda: chat(service.port, 3).status == 200, "the bytes are given back", 10)


def test_the_key_is_asked_for_before_the_body_is_read(start_once: Callable[..., ServiceProcess]) -> None:
    guarded = start_once(api_keys="0123456789abcdef").wait_ready()
    with Line(guarded.port, HEAD + b"Content-Length: 500000\r\n\r\n{") as line:
        assert status(line.read_until(b"\r\n\r\n")) == 401
    guarded.wait_idle()


def test_bytes_that_are_no_request_are_answered_after_the_answers_before_them(service: ServiceProcess) -> None:
    with Line(service.port, post_bytes(chat_body(30, stream=True, token_s=0.01)) + b"NONSENSE\r\n\r\n") as line:
        raw = line.read_all()
    streamed, mark, refusal = raw.partition(b"\r\n0\r\n\r\n")
    assert streamed.count(b"data: ") == 33 and mark
    assert status(refusal) == 400 and b"invalid_request_error" in refusal


def test_what_is_refused_before_anybody_decides_has_its_protocols_form(service: ServiceProcess) -> None:
    head = b"POST /v1/messages HTTP/1.1\r\nHost: t\r\nx: " + b"a" * 9000 + b"\r\n\r\n"
    with Line(service.port, head) as line:
        refusal = line.read_all()
    assert status(refusal) == 431
    assert json.loads(refusal.partition(b"\r\n\r\n")[2])["type"] == "error"
    with Line(service.port, head.replace(b"/v1/messages", b"/chat")) as line:
        assert "param" in json.loads(line.read_all().partition(b"\r\n\r\n")[2])["error"]


def test_an_answer_without_a_length_is_not_chunked_for_http_1_0(service: ServiceProcess) -> None:
    request = post_bytes(chat_body(5, stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0")
    with Line(service.port, request) as line:
        head, _, body = line.read_all().partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower() and b"connection: close" in head.lower()
    assert body.startswith(b"data: {") and body.endswith(b"data: [DONE]\n\n")


def test_trailers_are_no_headers(start_once: Callable[..., ServiceProcess]) -> None:
    guarded = start_once(api_keys="0123456789abcdef").wait_ready()
    body = json.dumps(chat_body(3)).encode()
    raw = HEAD + CHUNKED + b"%x\r\n%b\r\n0\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n" % (len(body), body)
    with Line(guarded.port, raw) as line:
        assert status(line.read_until(b"\r\n\r\n")) == 401


def test_a_client_that_has_shut_its_sending_side_still_gets_what_is_answered_at_once(service: ServiceProcess) -> None:
    with Line(service.port, b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n" * 3) as line:
        line.socket.shutdown(1)
        assert line.read_all().count(b"HTTP/1.1 200 OK") == 3


def test_a_half_sent_body_is_answered_when_the_service_ends(start_once: Callable[..., ServiceProcess]) -> None:
    ending = start_once(drain_s=30, read_timeout_s=30).wait_ready()
    with Line(ending.port, HEAD + b"Content-Length: 500\r\n\r\n{") as line:
        until(lambda: ending.call("GET", "/health").status == 200, "it is there")
        ending.terminate()
        assert status(line.read_until(b"\r\n\r\n")) == 503
        assert ending.wait_exit(10) == 0


def test_requests_sent_ahead_do_not_hide_that_the_client_has_gone(service: ServiceProcess) -> None:
    with Line(service.port, post_bytes(chat_body(4000, token_s=0.1)) * 3):
        until(lambda: service.running() == 1, "the first runs")
    until(lambda: service.running() == 0, "its slot is free", 2)


def test_streams_beside_all_that_are_whole(service: ServiceProcess) -> None:
    answer = stream(service.port, 200, token_s=0.001)
    assert (len(answer.words), answer.done, answer.error) == (200, True, None)
