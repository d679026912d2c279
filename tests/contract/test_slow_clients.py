"""Clients that hold a connection without using it: the others notice nothing."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator

import pytest

from callers import Line, call, chat, chat_body, post_bytes
from figures import Figure
from launcher import ServiceProcess

READ_TIMEOUT_S = 2.0
MOST_BODY = 1 << 20
CROWD = 60


@pytest.fixture(scope="module")
def service(start_once: Callable[..., ServiceProcess]) -> ServiceProcess:
    settings = {"max_running": 2, "max_waiting": 2, "read_timeout_s": READ_TIMEOUT_S, "max_body_bytes": MOST_BODY}
    return start_once(**settings).wait_ready()


@contextlib.contextmanager
def crowd(service: ServiceProcess, data: bytes, size: int = CROWD) -> Iterator[list[Line]]:
    lines = [Line(service.port, data) for _ in range(size)]
    try:
        yield lines
    finally:
        for line in lines:
            line.close()


def assert_unharmed(service: ServiceProcess) -> float:
    """Others are served; the slowest of three answers of /health, seconds."""
    times = [service.call("GET", "/health", timeout=READ_TIMEOUT_S * 4).seconds for _ in range(3)]
    assert min(times) < 1.0, "a busy machine may be late once or twice"
    assert chat(service.port, 3).status == 200
    return max(times)


REQUEST = post_bytes(chat_body(3))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /chat HT",
        REQUEST[: REQUEST.index(b"\r\n\r\n")],
        REQUEST[:-5],
        b"POST /chat HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{",
        b"POST /chat HTTP/1.1\r\nHost: t\r\nContent-Length: 9000\r\nExpect: 100-continue\r\n\r\n",
    ],
    ids=["nothing", "half a line", "half a head", "half a body", "half a chunk", "expecting"],
)
def test_a_crowd_that_never_finishes_its_requests_harms_nobody(
    service: ServiceProcess, figure: Figure, sent: bytes
) -> None:
    with crowd(service, sent) as lines:
        figure("slow_health", assert_unharmed(service), "s")
    figure("slow_held", len(lines), "clients")


def test_half_a_request_is_cut_off_in_time(service: ServiceProcess) -> None:
    with Line(service.port, REQUEST[:-5]) as line:
        began = time.monotonic()
        assert line.read_all() == b""
        assert READ_TIMEOUT_S - 0.5 < time.monotonic() - began < READ_TIMEOUT_S + 3


def test_one_byte_now_and_then_does_not_lengthen_the_time(service: ServiceProcess) -> None:
    began = time.monotonic()
    with Line(service.port) as line, contextlib.suppress(ConnectionError):
        for byte in REQUEST * 10:
            line.send(bytes([byte]))
            time.sleep(0.1)
            assert time.monotonic() - began < READ_TIMEOUT_S + 3


def test_a_slow_but_whole_request_is_answered(service: ServiceProcess) -> None:
    with Line(service.port) as line:
        for at in range(0, len(REQUEST), 40):
            line.send(REQUEST[at : at + 40])
            time.sleep(0.05)
        assert line.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_chunked_and_pipelined_requests_arrive_whole(service: ServiceProcess) -> None:
    body = json.dumps(chat_body(3)).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:7], body[7:])) + b"0\r\n\r\n"
    head = b"POST /chat HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    end = b"GET /version HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
    with Line(service.port, head + chunks + REQUEST + end) as line:
        assert line.read_all().count(b"HTTP/1.1 200 OK") == 3


def test_a_client_that_asks_first_is_told_to_continue(service: ServiceProcess) -> None:
    head, _, body = post_bytes(chat_body(3), headers={"Expect": "100-continue"}).partition(b"\r\n\r\n")
    with Line(service.port, head + b"\r\n\r\n") as line:
        assert line.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100")
        line.send(body)
        assert b"HTTP/1.1 200" in line.read_until(b'"usage"')


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(service: ServiceProcess) -> None:
    head = (
        f"POST /chat HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {MOST_BODY + 1}\r\n\r\n"
    )
    with crowd(service, head.encode()) as lines:
        assert lines[0].read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 413")
        assert_unharmed(service)


def test_a_crowd_that_does_not_hang_up_after_its_last_answer_harms_nobody(service: ServiceProcess) -> None:
    with crowd(service, b"NONSENSE\r\n\r\n") as lines:
        assert lines[0].read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert_unharmed(service)


def test_a_crowd_that_does_not_read_whole_answers_is_cut_off(service: ServiceProcess) -> None:
    larger_than_any_socket_buffer = post_bytes(chat_body(3000, text="x" * 2000, burst=300))
    with contextlib.ExitStack() as stack:
        for _ in range(24):
            stack.enter_context(Line(service.port, larger_than_any_socket_buffer, receive_buffer=4096))
            service.wait_idle(20)
        time.sleep(READ_TIMEOUT_S)
        assert_unharmed(service)


def test_more_idle_connections_than_the_service_has_room_for_shut_nobody_out(
    service: ServiceProcess, figure: Figure
) -> None:
    with crowd(service, b"", 1100) as lines:
        figure("idle_health", assert_unharmed(service), "s")
    figure("idle_held", len(lines), "connections")


def test_a_kept_connection_is_not_closed_for_its_silence(service: ServiceProcess) -> None:
    with Line(service.port) as line:
        for _ in range(2):
            line.send(b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n")
            assert line.read_until(b"scripted").startswith(b"HTTP/1.1 200")
            time.sleep(READ_TIMEOUT_S + 1)
        line.send(b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n")
        assert line.read_until(b"scripted").startswith(b"HTTP/1.1 200")


def test_nothing_of_this_ended_the_process_or_broke_an_answer(service: ServiceProcess) -> None:
    assert service.process.poll() is None
    assert '"exception"' not in service.log()
    assert call(service.port, "GET", "/health").json["ready"]
