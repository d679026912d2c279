"""The short way to the client loses nothing, doubles nothing and keeps the order, however slowly the client reads."""

import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chatbot_llm.wire import Rest, Wire


class Turn:
    """Stands in for the engine's loop: what is to be done soon is done at the end of the turn."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def end(self) -> None:
        for call in self.soon:
            call()
        self.soon.clear()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    yield ours, theirs
    ours.close()
    theirs.close()


def make(sock: socket.socket) -> tuple[Wire, "queue.SimpleQueue[Any]", Turn]:
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    turn = Turn()
    return Wire(sock, inbox, turn.soon.append), inbox, turn


def test_chunks_of_one_turn_go_out_together_as_one_http_chunk(pair: tuple[socket.socket, socket.socket]) -> None:
    wire, inbox, turn = make(pair[0])
    wire.open()
    assert wire.take(b"data: a\n\n") and wire.take(b"data: b\n\n")
    turn.end()
    assert pair[1].recv(100) == b"12\r\ndata: a\n\ndata: b\n\n\r\n"
    assert inbox.empty()


def test_it_is_closed_until_the_thread_has_caught_up(pair: tuple[socket.socket, socket.socket]) -> None:
    wire, inbox, _turn = make(pair[0])
    assert not wire.take(b"first")
    inbox.put(b"first")
    wire.open()
    assert not wire.take(b"second"), "it would overtake the first"
    inbox.get()
    wire.open()
    assert wire.take(b"third")


def test_what_a_full_or_broken_socket_does_not_take_goes_to_the_thread(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    wire, inbox, turn = make(pair[0])
    wire.open()
    wire.take(b"x" * 1_000_000)
    turn.end()
    rest = inbox.get_nowait()
    assert isinstance(rest, Rest) and 0 < len(rest.data) < 1_000_000 + 16
    assert not wire.take(b"next"), "the thread has the socket now"
    pair[1].close()
    wire.open()
    wire.take(b"y")
    turn.end()
    assert inbox.get_nowait() == Rest(b"1\r\ny\r\n")


def test_the_end_does_not_overtake_what_is_pending(pair: tuple[socket.socket, socket.socket]) -> None:
    wire, _inbox, turn = make(pair[0])
    wire.open()
    wire.take(b"last words")
    wire.flush()
    assert pair[1].recv(100) == b"A\r\nlast words\r\n"
    turn.end()
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[1].recv(100)


def test_while_the_thread_writes_nobody_else_does(pair: tuple[socket.socket, socket.socket]) -> None:
    wire, inbox, turn = make(pair[0])
    wire.open()
    wire.take(b"before")
    assert wire.hold() == b"" and pair[1].recv(100) == b"6\r\nbefore\r\n"
    assert not wire.take(b"meanwhile")
    wire.open()
    wire.take(b"x" * 1_000_000)
    assert len(wire.hold()) > 900_000 and inbox.empty(), "what the socket did not take is the thread's to send first"


def test_once_shut_nothing_is_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    wire, inbox, turn = make(pair[0])
    wire.open()
    wire.take(b"pending")
    wire.shut()
    turn.end()
    wire.open()
    assert not wire.take(b"later") and inbox.empty()
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[1].recv(100)


@pytest.mark.parametrize("seed", range(5))
def test_a_reader_of_any_speed_gets_every_byte_in_order(pair: tuple[socket.socket, socket.socket], seed: int) -> None:
    ours, theirs = pair
    dice = random.Random(seed)
    chunks = [bytes([65 + at % 26]) * dice.choice([1, 30, 300, 20_000]) for at in range(300)]
    wire, inbox, turn = make(ours)

    def engine() -> None:
        for at, chunk in enumerate(chunks):
            if not wire.take(chunk):
                inbox.put(chunk)
            if at % 3 == 0:
                turn.end()
                time.sleep(dice.choice([0, 0, 0.001]))
        turn.end()
        wire.flush()
        inbox.put(None)

    def request() -> None:
        while True:
            wire.open()
            item = inbox.get()
            if not isinstance(item, Rest) and (rest := wire.hold()):
                ours.sendall(rest)
            if item is None:
                break
            ours.sendall(item.data if isinstance(item, Rest) else b"%X\r\n%b\r\n" % (len(item), item))
        ours.shutdown(socket.SHUT_WR)

    threads = [threading.Thread(target=work) for work in (engine, request)]
    for thread in threads:
        thread.start()
    raw, eyes = b"", random.Random(seed + 100)
    while piece := theirs.recv(eyes.choice([100, 5000, 100_000])):
        raw += piece
        if eyes.random() < 0.05:
            time.sleep(0.002)
    for thread in threads:
        thread.join(10)
    assert unframed(raw) == b"".join(chunks)


def unframed(raw: bytes) -> bytes:
    data = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        data += raw[: int(size, 16)]
        assert raw[int(size, 16) :][:2] == b"\r\n"
        raw = raw[int(size, 16) + 2 :]
    return data
