"""Slots, places in the queue, order and Retry-After, without HTTP or an engine."""

import time

import pytest

from chatbot_llm.errors import Overloaded, Unavailable
from chatbot_llm.serving.admission import Admission
from chatbot_llm.serving.request import Call, Signal


def call() -> Call:
    return Call("chat", {}, deadline=time.monotonic() + 10)


def granted(one: Call) -> bool:
    return one.granted_at is not None


def opened(running: int, waiting: int) -> Admission:
    admission = Admission(running, waiting)
    admission.open()
    return admission


def test_a_second_request_waits_when_the_slot_is_taken_and_runs_when_it_is_free() -> None:
    admission, first, second = opened(1, 1), call(), call()
    admission.enter(first)
    admission.enter(second)
    assert granted(first) and not granted(second)
    admission.leave(first)
    assert second.next() is Signal.GRANTED


def test_beyond_the_queue_a_request_is_refused_with_a_time_to_come_back() -> None:
    admission = opened(1, 1)
    admission.enter(call())
    admission.enter(call())
    with pytest.raises(Overloaded) as refused:
        admission.enter(call())
    assert refused.value.status == 429 and (refused.value.retry_after or 0) >= 1


def test_first_come_first_served() -> None:
    admission, calls = opened(2, 8), [call() for _ in range(8)]
    for one in calls:
        admission.enter(one)
    served = []
    for one in calls:
        assert granted(one)
        served.append(one)
        admission.leave(one)
    assert served == calls


def test_nobody_overtakes_those_who_waited_for_the_engine() -> None:
    admission, early, late = Admission(1, 4), call(), call()
    admission.enter(early)
    assert not granted(early)
    admission.open()
    admission.enter(late)
    assert granted(early) and not granted(late)


def test_leaving_twice_frees_one_slot() -> None:
    admission, calls = opened(1, 4), [call() for _ in range(3)]
    for one in calls:
        admission.enter(one)
    admission.leave(calls[0])
    admission.leave(calls[0])
    assert granted(calls[1]) and not granted(calls[2])
    assert admission.counts() == (1, 1)


def test_one_who_gives_up_waiting_leaves_no_hole() -> None:
    admission, calls = opened(1, 4), [call() for _ in range(3)]
    for one in calls:
        admission.enter(one)
    admission.leave(calls[1])
    admission.leave(calls[0])
    assert granted(calls[2])


def test_draining_refuses_the_new_and_keeps_the_old() -> None:
    admission, old = opened(1, 1), call()
    admission.enter(old)
    admission.drain()
    with pytest.raises(Unavailable) as refused:
        admission.enter(call())
    assert refused.value.status == 503 and refused.value.code == "draining"
    assert not admission.wait_empty(0.01)
    admission.leave(old)
    assert admission.wait_empty(1)


def test_retry_after_follows_what_was_measured() -> None:
    admission = opened(1, 50)
    for seconds in [30.0] * 30:
        one = call()
        admission.enter(one)
        one.granted_at = time.monotonic() - seconds
        admission.leave(one)
    assert 28 <= admission.retry_after() <= 31
    for _ in range(3):
        admission.enter(call())
    assert admission.retry_after() > 60
