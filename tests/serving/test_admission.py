"""Slots, places in the queue, order and Retry-After, without HTTP or an engine."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from chatbot_llm.errors import Overloaded, Unavailable
from chatbot_llm.serving.admission import Admission, Cause

Check = Callable[[], Awaitable[None]]


class Entrant:
    """Something that wants a slot."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.task = asyncio.ensure_future(admission.enter(self))

    @property
    def granted(self) -> bool:
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None

    def end(self, cause: Cause) -> None:
        self.task.cancel()


async def enter(admission: Admission, count: int = 1) -> list[Entrant]:
    """So many ask one after the other; returns once each has its slot, its place or its refusal."""
    entrants = [Entrant(admission) for _ in range(count)]
    await turn()
    return entrants


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def opened(running: int, waiting: int) -> Admission:
    admission = Admission(running, waiting)
    admission.open()
    return admission


def on_a_loop(check: Check) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(check())  # type: ignore[arg-type]

    run.__name__ = check.__name__
    return run


@on_a_loop
async def test_a_second_request_waits_when_the_slot_is_taken_and_runs_when_it_is_free() -> None:
    admission = opened(1, 1)
    first, second = await enter(admission, 2)
    assert first.granted and not second.granted
    admission.leave(first)
    await second.task


@on_a_loop
async def test_beyond_the_queue_a_request_is_refused_with_a_time_to_come_back() -> None:
    admission = opened(1, 1)
    *_, third = await enter(admission, 3)
    with pytest.raises(Overloaded) as refused:
        await third.task
    assert refused.value.status == 429 and (refused.value.retry_after or 0) >= 1


@on_a_loop
async def test_first_come_first_served() -> None:
    admission = opened(2, 8)
    entrants = await enter(admission, 8)
    for one in entrants:
        await turn()
        assert one.granted
        admission.leave(one)
    assert admission.counts() == (0, 0)


@on_a_loop
async def test_nobody_overtakes_those_who_waited_for_the_engine() -> None:
    admission = Admission(1, 4)
    (early,) = await enter(admission)
    assert not early.granted
    admission.open()
    (late,) = await enter(admission)
    assert early.granted and not late.granted


@on_a_loop
async def test_leaving_twice_frees_one_slot() -> None:
    admission = opened(1, 4)
    entrants = await enter(admission, 3)
    admission.leave(entrants[0])
    admission.leave(entrants[0])
    await turn()
    assert entrants[1].granted and not entrants[2].granted
    assert admission.counts() == (1, 1)


@on_a_loop
async def test_one_who_gives_up_waiting_leaves_no_hole() -> None:
    admission = opened(1, 4)
    entrants = await enter(admission, 3)
    entrants[1].end(Cause.DISCONNECT)
    await turn()
    admission.leave(entrants[1])
    admission.leave(entrants[0])
    await turn()
    assert entrants[2].granted


@on_a_loop
async def test_one_who_gives_up_in_the_moment_it_is_granted_keeps_no_slot() -> None:
    admission = opened(1, 4)
    first, second, third = await enter(admission, 3)
    admission.leave(first)
    second.end(Cause.DISCONNECT)
    await turn()
    admission.leave(second)
    await turn()
    assert third.granted


@on_a_loop
async def test_draining_refuses_the_new_and_keeps_the_old() -> None:
    admission = opened(1, 1)
    (old,) = await enter(admission)
    admission.drain()
    (new,) = await enter(admission)
    with pytest.raises(Unavailable) as refused:
        await new.task
    assert refused.value.status == 503 and refused.value.code == "draining"
    assert not await admission.wait_empty(0.01)
    admission.leave(old)
    assert await admission.wait_empty(1)


@on_a_loop
async def test_retry_after_follows_what_was_measured() -> None:
    admission = opened(1, 50)
    for seconds in [30.0] * 30:
        (one,) = await enter(admission)
        admission.leave(one, seconds)
    assert 28 <= admission.retry_after() <= 31
    await enter(admission, 4)
    assert admission.retry_after() > 60
    for one in admission.inside():
        one.end(Cause.DRAIN)


@on_a_loop
async def test_the_card_is_shared_by_those_that_run_and_stands_while_none_does() -> None:
    now = 0.0
    admission = Admission(2, 4, lambda: now)
    admission.open()
    first, second, third = await enter(admission, 3)
    now = 4.0  # two have run
    assert (admission.card_s(first), admission.card_s(third)) == (2.0, 0.0)
    admission.leave(first)
    await turn()
    now = 6.0  # the third has run beside the second
    admission.leave(second)
    assert admission.card_s(third) == 1.0
    now = 7.0  # and then alone
    assert admission.card_s(third) == 2.0
    admission.leave(third)
    now = 100.0
    (late,) = await enter(admission)
    now = 101.0
    assert admission.card_s(late) == 1.0
