"""A client that goes away, stops reading or never moves again does not keep a slot."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from callers import Line, chat, chat_body, post_bytes
from figures import Figure
from launcher import ServiceProcess, until
from speakers import KINDS, PATHS, scripted

#: vLLM's own server frees a slot in 0.2 s; this is the promise here.
FREED_WITHIN_S = 0.5
#: A busy machine may be late once, not three times.
TRIES = 3
READ_TIMEOUT_S = 3.0
#: linux/tcp.h; Python's socket module does not name it.
TCP_REPAIR = 19


@pytest.fixture(scope="module")
def service(start_once: Callable[..., ServiceProcess]) -> ServiceProcess:
    return start_once(max_running=2, max_waiting=4, read_timeout_s=READ_TIMEOUT_S).wait_ready()


@pytest.fixture(autouse=True)
def nothing_leaks(service: ServiceProcess) -> None:
    service.wait_idle()


def endless(stream: bool, kind: str = "chat") -> bytes:
    return post_bytes(scripted(kind, 4096, stream=stream, token_s=0.1), PATHS[kind])


def seconds_until_idle(service: ServiceProcess) -> float:
    began = time.monotonic()
    service.wait_idle(limit_s=20)
    return time.monotonic() - began


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leave", [Line.close, Line.reset], ids=["close", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["silent", "streaming"])
def test_a_client_that_leaves_frees_its_slot_at_once(
    service: ServiceProcess, figure: Figure, kind: str, stream: bool, leave: Callable[[Line], None]
) -> None:
    times = []
    for _ in range(TRIES):
        line = Line(service.port, endless(stream, kind))
        until(lambda: service.running() == 1, "it runs")
        if stream:
            line.read_until(b"data: ")
        leave(line)
        times.append(seconds_until_idle(service))
        figure("freed_streaming" if stream else "freed_silent", times[-1], "s")
    assert min(times) < FREED_WITHIN_S, times
    assert service.metrics()[f"chatbot_requests_total[disconnect][{PATHS[kind]}]"] >= TRIES


def test_a_client_that_leaves_at_the_last_event_has_left_nothing(service: ServiceProcess) -> None:
    # a third of these were counted as cut short, when it was the request's thread that had to hear of the end first
    whole = "chatbot_requests_total[ok][/chat]"
    before, clients = service.metrics().get(whole, 0), 200
    for _ in range(clients):
        with Line(service.port, post_bytes(chat_body(4, stream=True))) as line:
            line.read_until(b"[DONE]\n\n")
    service.wait_idle()
    until(lambda: service.metrics().get(whole, 0) == before + clients, "all are counted as whole")


def test_a_client_that_leaves_the_queue_leaves_its_place(service: ServiceProcess) -> None:
    runners = [Line(service.port, endless(False)) for _ in range(2)]
    until(lambda: service.running() == 2, "all slots are taken")
    waiter = Line(service.port, endless(False))
    until(lambda: service.health()["waiting"] == 1, "it waits")
    waiter.close()
    until(lambda: service.health()["waiting"] == 0, "its place is free", 2)
    assert service.running() == 2
    for line in runners:
        line.close()


def test_a_client_that_reads_nothing_is_cut_off(service: ServiceProcess, figure: Figure) -> None:
    fat = "x" * 2000
    body = chat_body(2000, stream=True, text=fat, burst=100, token_s=0.01)
    with Line(service.port, post_bytes(body), receive_buffer=4096):
        until(lambda: service.running() == 1, "it runs")
        seconds = seconds_until_idle(service)
        assert seconds < READ_TIMEOUT_S * 3
    figure("reads_nothing_limit", READ_TIMEOUT_S, "s")
    figure("reads_nothing_cut", seconds, "s")


def test_a_client_whose_machine_is_gone_is_noticed(service: ServiceProcess) -> None:
    line = Line(service.port, endless(False))
    until(lambda: service.running() == 1, "it runs")
    try:
        line.socket.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except PermissionError:
        line.close()
        pytest.skip("closing a socket without telling the other end (TCP_REPAIR) needs CAP_NET_ADMIN")
    line.close()  # in repair mode nothing is sent
    assert seconds_until_idle(service) < READ_TIMEOUT_S * 3


def test_the_slots_serve_on_after_all_that(service: ServiceProcess) -> None:
    assert chat(service.port, 5).status == 200
