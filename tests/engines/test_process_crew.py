"""How a crew watches its process: driven by hand, with a board but without a process, in virtual time."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import trio
from engines.process_kit import record
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_parallel_kafka.execution.engine import Attempt
from trio_parallel_kafka.execution.engines.board import ANSWERED, DONE, RUNNING, Board, open_board
from trio_parallel_kafka.execution.engines.calls import Call, CallQueue
from trio_parallel_kafka.execution.engines.crew import KILL_PATIENCE, OVERDUE, WorkerCrew
from trio_parallel_kafka.execution.engines.worker_process import Orders, Report

TIMEOUT = 5.0


class Watched(WorkerCrew):
    """A crew whose process is the test."""

    def __init__(self, board: Board) -> None:
        self.queue = CallQueue(1)
        super().__init__(self.queue, Orders(b"", b"", None, None), "spawn")
        self.board = self._board = board

    def take_up(self, count: int) -> list[Call]:
        """Begin a chunk of so many calls."""
        calls = [Call(record(offset), Attempt(TIMEOUT)) for offset in range(count)]
        for call in calls:
            call.attempt.waits()
        self._take_up(calls)
        return calls

    async def take_all(self) -> list[Call]:
        """What waits in the queue."""
        return await self.queue.take(256) if self.queue else []


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """A crew, and a board whose time is Trio's."""
    monkeypatch.setattr(
        "trio_parallel_kafka.execution.engines.board.time", SimpleNamespace(monotonic=trio.current_time)
    )
    with open_board() as (board, _):
        yield Watched(board)


def ends_in(call: Call) -> float:
    """Seconds until its attempt is too late."""
    return call.attempt.scope.deadline - trio.current_time()


async def test_crew_without_work_sees_nothing(crew: Watched, autojump_clock: MockClock) -> None:
    """Looking at an idle process changes nothing."""
    crew.look()
    assert not crew.is_busy
    assert not await crew.take_all()


async def test_time_runs_from_where_the_handler_began(crew: Watched, autojump_clock: MockClock) -> None:
    """That is before it was seen; a look ends an attempt whose time is over, and no other."""
    first, second = crew.take_up(2)
    await trio.sleep(1)
    crew.board.begin(0)
    await trio.sleep(TIMEOUT - 0.01)
    crew.look()
    assert 0.02 < ends_in(first) < math.inf
    await trio.sleep(0.02)
    crew.look()
    assert ends_in(first) == pytest.approx(-0.01)
    assert ends_in(second) == math.inf


async def test_handler_that_has_ended_in_time_is_not_late(crew: Watched, autojump_clock: MockClock) -> None:
    """Neither between two looks, nor while it waits for the others of its chunk, whose answers come with its own."""
    first, second = crew.take_up(2)
    crew.board.begin(0)
    await trio.sleep(TIMEOUT - 0.01)
    crew.look()
    assert ends_in(first) > 0.02
    crew.board.end(0, ANSWERED)
    crew.board.begin(1)
    await trio.sleep(0.02)
    crew.look()
    assert ends_in(first) == ends_in(second) == math.inf
    crew.board.end(1, ANSWERED)
    await trio.sleep(TIMEOUT)
    crew.look()
    assert ends_in(second) == math.inf


async def test_time_of_a_second_run_is_its_own(crew: Watched, autojump_clock: MockClock) -> None:
    """A call that went down with a process and runs again has all of its time."""
    first, _ = crew.take_up(2)
    crew.board.begin(0)
    crew.look()
    await trio.sleep(3)
    crew.board.end(0, ANSWERED)
    crew._lay_down()
    crew._take_up(await crew.take_all())
    crew.board.begin(0)
    await trio.sleep(3)
    crew.look()
    assert ends_in(first) == pytest.approx(TIMEOUT - 3)


async def test_overdue_calls_are_taken_back(crew: Watched, autojump_clock: MockClock) -> None:
    """Those that haven't begun when the chunk takes long: marked at one look, and run elsewhere after the next."""
    done, answered, running, fourth, fifth = crew.take_up(5)
    for index, state in enumerate([DONE, ANSWERED]):
        crew.board.begin(index)
        crew.board.end(index, state)
    crew.board.begin(2)
    await trio.sleep(OVERDUE)
    crew.look()
    assert not crew._is_recalled
    await trio.sleep(0.01)
    crew.look()
    assert crew._is_recalled
    assert not crew.queue
    assert not done.is_over
    crew.look()
    assert await crew.take_all() == [fourth, fifth]
    assert await done.answer() is None
    assert not answered.is_over
    assert not running.is_over
    assert not crew.board.begin(3)
    crew.look()
    assert not crew.queue


async def test_overdue_calls_are_taken_back_before_a_process_begins(crew: Watched, autojump_clock: MockClock) -> None:
    """A process that takes its time to start keeps nothing from others."""
    calls = crew.take_up(2)
    await trio.sleep(2 * OVERDUE)
    crew.look()
    crew.look()
    assert await crew.take_all() == calls


async def test_idle_crew_is_given_calls_at_once(crew: Watched, autojump_clock: MockClock) -> None:
    """What hasn't begun is taken back, however short the chunk has been going on, while another process has nothing."""
    _, second = crew.take_up(2)
    crew.board.begin(0)
    taken: list[Call] = []

    async def take() -> None:
        taken.extend(await crew.queue.take(256))

    async with trio.open_nursery() as nursery:
        crew.look()
        crew.look()
        assert not crew.queue
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        crew.look()
        crew.look()
    assert taken == [second]


async def test_skipped_call_is_no_answered_one(crew: Watched, autojump_clock: MockClock) -> None:
    """One that its process has skipped, because it is taken back, is run later; the others have their answers."""
    first, second, third = crew.take_up(3)
    await trio.sleep(2 * OVERDUE)

    async def run(function: object, path: str, payloads: list[bytes]) -> Report:
        crew.board.begin(0)
        crew.look()
        crew.board.end(0, ANSWERED)
        assert not crew.board.begin(1)
        assert not crew.board.begin(2)
        await trio.lowlevel.checkpoint()
        return Report(1, 1, is_retiring=False, answers=[pickle.dumps(("result", None)), None, None])

    crew._run_sync = run
    await crew._run_chunk("")
    crew._lay_down()
    assert await first.answer() == "result"
    assert await crew.take_all() == [second, third]
    assert not second.is_over


async def test_call_that_only_seems_to_begin_keeps_its_time(crew: Watched, autojump_clock: MockClock) -> None:
    """One that was taken back is announced for an instant before its process skips it; that isn't its beginning."""
    _, second = crew.take_up(2)
    crew.board.begin(0)
    await trio.sleep(2 * OVERDUE)
    crew.look()
    crew.look()
    assert await crew.take_all() == [second]
    crew.board.end(0, DONE)
    crew.board.end(1, RUNNING)
    await trio.sleep(TIMEOUT)
    crew.look()
    assert ends_in(second) == math.inf


async def test_process_that_cannot_be_killed_is_named(
    crew: Watched, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """One that doesn't end though it was killed holds nobody up for longer than a bound."""
    (call,) = crew.take_up(1)
    crew.board.begin(0)
    crew._pid = 1234
    started = trio.current_time()
    await crew.take_back(call)
    assert crew._process.cancel_called
    assert KILL_PATIENCE <= trio.current_time() - started < KILL_PATIENCE + 1
    assert caplog.messages == ["worker process 1234 was killed, but doesn't end"]


async def test_call_that_ends_meanwhile_is_let_be(crew: Watched, autojump_clock: MockClock) -> None:
    """Given up at the same moment as its answer comes, nothing is killed."""
    (call,) = crew.take_up(1)
    crew.board.begin(0)

    async def end() -> None:
        call.end("result")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(crew.take_back, call)
        nursery.start_soon(end)
    assert not crew._process.cancel_called
    assert await call.answer() == "result"
