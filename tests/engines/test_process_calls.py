"""Calls of a handler on their way to worker processes, and the queue that they wait in."""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Sequence

import pytest
import trio
from engines.process_handlers import Foreign
from trio.testing import wait_all_tasks_blocked

from trio_parallel_kafka import Record
from trio_parallel_kafka.errors import InvalidResultError, SerializationError, WorkerDiedError
from trio_parallel_kafka.execution.engine import Attempt
from trio_parallel_kafka.execution.engines.calls import Call, CallQueue


class RecordingCrew:
    """Notes what it is asked to give back."""

    def __init__(self) -> None:
        self.asked: list[Call] = []

    async def take_back(self, call: Call) -> None:
        self.asked.append(call)
        await trio.lowlevel.checkpoint()


def calls(count: int, *, timeout: float | None = None) -> list[Call]:
    """So many, which are given their number."""
    return [Call(number, Attempt(timeout)) for number in range(count)]


def given_to(chunk: Sequence[Call]) -> list[object]:
    """What they were made with."""
    return [call.given for call in chunk]


async def test_call_is_answered_with_a_result() -> None:
    """Whoever waits gets what the handler returned; so does whoever waits later."""
    (call,) = calls(1)
    answers = []

    async def wait() -> None:
        answers.append(await call.answer())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not answers
        call.end_with(pickle.dumps(("result", None)))
    assert answers == ["result"]
    assert await call.answer() == "result"
    await call.wait_until_over()


async def test_call_is_answered_with_an_error() -> None:
    """Whoever waits gets what the handler raised."""
    (call,) = calls(1)
    call.end_with(pickle.dumps((None, KeyError("missing"))))
    with pytest.raises(KeyError, match="missing"):
        await call.answer()


async def test_call_without_an_answer_returned_none() -> None:
    """What a process has nothing to say of has returned ``None``, and isn't in anybody's hands any more."""
    (call,) = calls(1)
    call.crew = RecordingCrew()
    call.end_with(None)
    assert await call.answer() is None
    assert call.is_over
    assert call.crew is None


async def test_answer_that_cannot_be_read_is_an_error() -> None:
    """A class that fails as it comes back fails this call, with the reason as its cause."""
    (call,) = calls(1)
    payload = pickle.dumps((Foreign(), None)).replace(b"_at_home", b"_no_home")
    call.end_with(payload)
    with pytest.raises(InvalidResultError, match=r"can't be read here: AttributeError: .*_no_home") as caught:
        await call.answer()
    assert isinstance(caught.value.__cause__, AttributeError)


def test_record_that_cannot_be_pickled_is_refused() -> None:
    """The error says what couldn't cross, and what makes such things."""
    record = Record("topic", 0, 7).decoded("key", threading.Lock())
    with pytest.raises(
        SerializationError, match=r"can't be sent.*cannot pickle '_thread.lock'.*deserialisers"
    ) as caught:
        Call(record, Attempt(None))
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize(
    ("count", "crews", "limit", "chunks"),
    [
        (10, 1, 256, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]),
        (5, 1, 2, [[0, 1], [2, 3], [4]]),
        (10, 2, 256, [[0, 1, 2, 3, 4], [5, 6, 7], [8], [9]]),
        (3, 4, 256, [[0], [1], [2]]),
    ],
    ids=["all", "limited", "shared", "fewer than crews"],
)
async def test_chunk_is_a_share(count: int, crews: int, limit: int, chunks: list[list[int]]) -> None:
    """A crew gets calls in their order: as many as it wants, but no more than its share of what there is."""
    queue = CallQueue(crews)
    for call in calls(count):
        queue.put(call)
    taken = []
    while queue:
        taken.append(given_to(await queue.take(limit)))
    assert taken == chunks


@pytest.mark.parametrize(
    ("alone", "chunks"), [(0, [[0], [1, 2]]), (1, [[0], [1], [2]]), (2, [[0, 1], [2]])], ids=["first", "second", "last"]
)
async def test_call_that_is_to_be_alone_is_alone(alone: int, chunks: list[list[int]]) -> None:
    """It shares its chunk with none before it and none behind it."""
    queue = CallQueue(1)
    for call in calls(3):
        call.is_alone = call.given == alone
        queue.put(call)
    taken = []
    while queue:
        taken.append(given_to(await queue.take(256)))
    assert taken == chunks


async def test_calls_put_back_come_first_and_in_order() -> None:
    """They go before those that wait, in nobody's hands, and their time doesn't run."""
    queue = CallQueue(1)
    crew = RecordingCrew()
    first, second, third = calls(3, timeout=5.0)
    queue.put(third)
    for call in (first, second):
        call.crew = crew
        call.attempt.started()
    queue.put_back([first, second])
    assert given_to(await queue.take(256)) == [0, 1, 2]
    assert first.crew is None
    assert first.attempt.scope.deadline == second.attempt.scope.deadline == math.inf


async def test_nobody_runs_again_what_nobody_wants() -> None:
    """A call that was given up meanwhile isn't put back, but over."""
    queue = CallQueue(1)
    wanted, unwanted = calls(2)
    unwanted.is_wanted = False
    queue.put_back([wanted, unwanted])
    assert given_to(await queue.take(256)) == [0]
    assert unwanted.is_over
    assert not wanted.is_over


async def test_waiting_call_is_taken_back_out_of_the_queue() -> None:
    """Only that one; it is over at once."""
    queue = CallQueue(1)
    waiting = calls(3)
    for call in waiting:
        queue.put(call)
    await queue.take_back(waiting[1])
    assert waiting[1].is_over
    assert not waiting[1].is_wanted
    assert given_to(await queue.take(256)) == [0, 2]


async def test_crew_is_asked_for_what_it_has() -> None:
    """A call in a crew's hands is taken back by that crew, one that is over by nobody."""
    queue = CallQueue(1)
    (call,) = calls(1)
    crew = RecordingCrew()
    call.crew = crew
    await queue.take_back(call)
    assert crew.asked == [call]
    assert not call.is_wanted
    call.end()
    await queue.take_back(call)
    assert crew.asked == [call]


class Hands:
    """Crews that take one chunk each, and what they got."""

    def __init__(self, queue: CallQueue, nursery: trio.Nursery, count: int) -> None:
        self.queue = queue
        self.chunks: list[list[object]] = []
        for _ in range(count):
            nursery.start_soon(self.take)

    async def take(self) -> None:
        self.chunks.append(given_to(await self.queue.take(256)))


async def test_idle_crews_are_woken() -> None:
    """Calls that come at once reach all idle crews, each with its share."""
    queue = CallQueue(2)
    async with trio.open_nursery() as nursery:
        hands = Hands(queue, nursery, 2)
        await wait_all_tasks_blocked()
        for call in calls(2):
            queue.put(call)
    assert sorted(hands.chunks) == [[0], [1]]


async def test_crew_that_leaves_calls_wakes_the_next() -> None:
    """Calls that come back together wake one crew; what is beyond its share goes to the others."""
    queue = CallQueue(3)
    async with trio.open_nursery() as nursery:
        hands = Hands(queue, nursery, 3)
        await wait_all_tasks_blocked()
        queue.put_back(calls(3))
    assert sorted(hands.chunks) == [[0], [1], [2]]


async def test_queue_tells_whether_somebody_waits_in_vain() -> None:
    """That is a crew that found no call, and hasn't been woken since."""
    queue = CallQueue(2)
    assert not queue.is_starving
    async with trio.open_nursery() as nursery:
        Hands(queue, nursery, 2)
        await wait_all_tasks_blocked()
        assert queue.is_starving
        first, second = calls(2)
        queue.put(first)
        assert queue.is_starving
        queue.put(second)
        assert not queue.is_starving


async def test_queue_that_is_closed_fails_its_calls() -> None:
    """Whoever waits for them still is told so, and not that they succeeded."""
    queue = CallQueue(1)
    (call,) = calls(1)
    queue.put(call)
    queue.close()
    with pytest.raises(WorkerDiedError, match="the engine was closed before the record was handled"):
        await call.answer()
    assert not queue


async def test_crew_that_was_woken_in_vain_waits_on() -> None:
    """One whose call was taken by another meanwhile waits for the next."""
    queue = CallQueue(1)
    first, second = calls(2)
    async with trio.open_nursery() as nursery:
        hands = Hands(queue, nursery, 1)
        await wait_all_tasks_blocked()
        queue.put(first)
        assert given_to(await queue.take(1)) == [0]
        await wait_all_tasks_blocked()
        assert not hands.chunks
        queue.put_back([])
        queue.put(second)
    assert hands.chunks == [[1]]
