"""More than it can do: every request gets exactly one well-formed answer, and the service stays what it was.

The crowd presses for a few seconds in an ordinary run, for a minute where figures are asked for (`make figures`).
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest

from callers import LIMIT_S, Later, Line, chat, chat_body, post_bytes, stream
from figures import MEASURING, Figure
from launcher import THREADS, ServiceProcess, until

RUNNING, WAITING = 4, 4
OVERLOAD = 16
SPAN_S = 60.0 if MEASURING else 6.0
WORDS, TOKEN_S = 10, 0.04


class Seen(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="module")
def service(start_once: Callable[..., ServiceProcess]) -> ServiceProcess:
    return start_once(max_running=RUNNING, max_waiting=WAITING).wait_ready()


def ask(port: int) -> Seen:
    """One request by hand, reading until the end, so that a second answer or half a one would be seen."""
    request = post_bytes(chat_body(WORDS, token_s=TOKEN_S), headers={"Connection": "close"})
    with Line(port, request) as line:
        data = line.read_all()
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first.startswith("HTTP/1.1 "), data[:200]
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
    assert int(headers["content-length"]) == len(body), "one whole answer and nothing after it"
    return Seen(int(first.split()[1]), headers, body)


def press(service: ServiceProcess, clients: int, span_s: float) -> list[Seen]:
    """`clients` callers in a closed loop for `span_s` seconds; the refused try again soon."""
    end = time.monotonic() + span_s
    answers: list[list[Seen]] = [[] for _ in range(clients)]

    def caller(mine: list[Seen]) -> None:
        while time.monotonic() < end:
            mine.append(ask(service.port))
            if mine[-1].status != 200:
                time.sleep(0.5)

    for work in [Later(lambda mine=mine: caller(mine)) for mine in answers]:
        work.get(span_s + LIMIT_S)
    return [seen for mine in answers for seen in mine]


def test_sixteen_times_the_capacity_gets_exactly_one_answer_each(service: ServiceProcess, figure: Figure) -> None:
    calm = sum(seen.status == 200 for seen in press(service, RUNNING, SPAN_S / 2)) / (SPAN_S / 2)
    press(service, RUNNING * OVERLOAD, 1.0)  # buffers are made once
    worker = service.worker
    memory = worker.memory_info().rss
    before = service.metrics()
    stop, health, most_threads = threading.Event(), [0.0], [0]

    def look() -> None:
        while not stop.wait(0.2):
            health.append(service.call("GET", "/health").seconds)
            most_threads.append(worker.num_threads())

    looking = Later(look)
    seen = press(service, RUNNING * OVERLOAD, SPAN_S)
    stop.set()
    looking.get()
    statuses = Counter(answer.status for answer in seen)
    assert set(statuses) == {200, 429}, statuses
    for answer in seen:
        body = json.loads(answer.body)
        if answer.status == 200:
            assert body["usage"]["completion_tokens"] == WORDS
        else:
            assert set(body["error"]) >= {"message", "type", "param", "code"}
            assert body["error"]["code"] == "overloaded"
            assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert sorted(health)[-2] < 1.0, "/health stays quick; a busy machine may be late once"
    assert max(most_threads) <= THREADS, "threads do not grow with the crowd"
    grown = worker.memory_info().rss - memory
    assert grown < 24 << 20
    # The crowd's own work takes from a busy machine what the service would need.
    assert statuses[200] / SPAN_S >= (0.9 if MEASURING else 0.6) * calm, "admitted work goes on beside the crowd"
    figure("overload_span", SPAN_S, "s")
    figure("overload_200", statuses[200], "answers")
    figure("overload_429", statuses[429], "answers")
    figure("overload_health", max(health), "s")
    figure("overload_throughput", 100 * statuses[200] / SPAN_S / calm, "%")
    figure("overload_memory", grown / 1e6, "MB")
    figure("overload_clients", RUNNING * OVERLOAD, "clients")
    figure("overload_threads", max(most_threads), "threads")
    service.wait_idle()
    counted = service.metrics()
    for outcome, status in (("ok", 200), ("overloaded", 429)):
        name = f"chatbot_requests_total[{outcome}][/chat]"
        assert counted[name] - before.get(name, 0) == statuses[status]


def test_first_come_first_served(start: Callable[..., ServiceProcess], figure: Figure) -> None:
    service = start(max_running=1, max_waiting=6).wait_ready()
    blocker = Later(lambda: chat(service.port, 40, token_s=0.05))
    until(lambda: service.running() == 1, "the slot is taken")
    done: list[int] = []

    def wait_in_line(number: int) -> None:
        chat(service.port, 2, token_s=0.05)
        done.append(number)

    queue = []
    for number in range(6):
        queue.append(Later(lambda number=number: wait_in_line(number)))
        until(lambda number=number: service.health()["waiting"] == number + 1, "it waits")
    for call in [blocker, *queue]:
        call.get()
    assert done == list(range(6))
    figure("in_turn", len(done), "callers")


def test_while_loading_callers_wait_inside_and_the_rest_is_told_to_come_back(
    start: Callable[..., ServiceProcess],
) -> None:
    service = start(max_running=2, max_waiting=1, script={"load_s": 3}).wait_listening()
    inside = [Later(lambda: chat(service.port, 3)) for _ in range(3)]
    until(lambda: service.health()["waiting"] == 3, "three wait for the model")
    refused = chat(service.port, 3)
    assert refused.status == 429 and int(refused.headers["retry-after"]) >= 1
    assert [call.get().status for call in inside] == [200, 200, 200]


def test_retry_after_follows_the_measured_service_time(start: Callable[..., ServiceProcess]) -> None:
    service = start(max_running=1, max_waiting=0).wait_ready()

    def refusal() -> int:
        busy = Later(lambda: chat(service.port, 10, token_s=0.05))
        until(lambda: service.running() == 1, "the slot is taken")
        advised = int(chat(service.port, 1).headers["retry-after"])
        busy.get()
        return advised

    first = refusal()
    for _ in range(12):
        chat(service.port, 1)
    assert refusal() < first, "short answers were measured since"


def test_three_hundred_streams_at_once_lose_nothing(start: Callable[..., ServiceProcess], figure: Figure) -> None:
    service = start(max_running=300, max_waiting=0).wait_ready()
    words = [f"w{number}" for number in range(20)]
    text = " ".join(words)
    calls = [Later(lambda: stream(service.port, 20, text=text, first_s=3.0, token_s=0.1)) for _ in range(300)]
    until(lambda: service.running() == 300, "all of them run", pause_s=0.2)
    for call in calls:
        answer = call.get()
        assert "".join(answer.words).split() == words
        assert (answer.finish, answer.done, answer.error) == ("length", True, None)
    figure("streams_whole", len(calls), "streams")
    service.wait_idle()
