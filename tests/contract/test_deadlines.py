"""A request ends by its deadline with what there is, as a valid OpenAI object or stream."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from callers import Later, call, chat, chat_body, stream
from figures import Figure
from launcher import ServiceProcess, until

HEADER = "x-request-timeout"
OWN_DEADLINE_S = 3.0


@pytest.fixture(scope="module")
def service(start_once: Callable[..., ServiceProcess]) -> ServiceProcess:
    return start_once(max_running=1, max_waiting=4, deadline_s=OWN_DEADLINE_S).wait_ready()


@pytest.fixture(autouse=True)
def nothing_leaks(service: ServiceProcess) -> None:
    service.wait_idle()


def test_the_partial_answer_is_a_valid_object(service: ServiceProcess, figure: Figure) -> None:
    answer = chat(service.port, 4000, token_s=0.05, headers={HEADER: "0.6"})
    assert (answer.status, answer.finish) == (200, "length")
    assert 0 < answer.json["usage"]["completion_tokens"] < 30
    assert len(answer.text.split()) == answer.json["usage"]["completion_tokens"]
    assert 0.5 < answer.seconds < 2.5
    figure("late", answer.seconds - 0.6, "s")


def test_a_stream_ends_as_streams_end(service: ServiceProcess) -> None:
    answer = stream(service.port, 4000, token_s=0.05, headers={HEADER: "0.6"})
    assert 0 < len(answer.words) < 30
    assert (answer.finish, answer.done, answer.error) == ("length", True, None)


def test_a_deadline_before_the_first_token_gives_an_empty_answer(service: ServiceProcess) -> None:
    answer = chat(service.port, 10, first_s=30, headers={HEADER: "0.4"})
    assert (answer.status, answer.text, answer.finish) == (200, "", "length")


def test_generate_ends_the_same_way(service: ServiceProcess) -> None:
    body = {"prompt": "Once", "max_tokens": 4000, "script": {"loop": True, "token_s": 0.05}}
    answer = call(service.port, "POST", "/generate", body, headers={HEADER: "0.5"})
    assert (answer.status, answer.finish) == (200, "length")
    assert answer.json["text"] == ["Once" + answer.text]


def test_time_spent_waiting_counts(service: ServiceProcess) -> None:
    busy = Later(lambda: chat(service.port, 40, token_s=0.05))
    until(lambda: service.running() == 1, "the slot is taken")
    answer = chat(service.port, 1, headers={HEADER: "0.4"})
    assert (answer.status, answer.json["error"]["code"]) == (503, "deadline_exceeded")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.seconds < 2
    assert busy.get().status == 200


def test_the_service_has_a_deadline_of_its_own_which_no_header_lengthens(service: ServiceProcess) -> None:
    answer = chat(service.port, 4000, token_s=0.05, headers={HEADER: "100"})
    assert answer.finish == "length"
    assert OWN_DEADLINE_S - 0.2 < answer.seconds < OWN_DEADLINE_S + 2


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf", ""])
def test_a_header_that_is_no_time_is_refused(service: ServiceProcess, value: str) -> None:
    answer = call(service.port, "POST", "/chat", chat_body(1), headers={HEADER: value})
    assert (answer.status, answer.json["error"]["param"]) == (400, HEADER)


def test_a_deadline_while_the_model_loads_says_so(start: Callable[..., ServiceProcess]) -> None:
    loading = start(script={"load_s": 30}).wait_listening()
    answer = chat(loading.port, 1, headers={HEADER: "0.5"})
    assert (answer.status, answer.json["error"]["code"]) == (503, "loading")
    assert int(answer.headers["retry-after"]) >= 1
    assert loading.health()["waiting"] == 0
