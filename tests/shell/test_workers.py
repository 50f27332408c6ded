"""The worker pool by itself: what no handler does."""

from __future__ import annotations

import math
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_parallel_kafka import Record
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.execution.attempts import GivenUp
from trio_parallel_kafka.execution.clock import CoarseClock
from trio_parallel_kafka.execution.deadline import TimeLimit
from trio_parallel_kafka.execution.settling import Settler
from trio_parallel_kafka.execution.tally import Tally
from trio_parallel_kafka.execution.verdicts import Stop
from trio_parallel_kafka.execution.visits import Handler, Probing, RecordVisits
from trio_parallel_kafka.execution.worker import Worker
from trio_parallel_kafka.execution.workers import WorkerPool


def broken(*_arguments: object) -> NoReturn:
    """A callback of the control plane with a bug."""
    raise ZeroDivisionError


async def fail(_record: Record) -> NoReturn:
    """A handler that fails."""
    raise ValueError


class Stage:
    """A pool with records of one key ready, and a control plane that breaks when it is told of a failure."""

    def __init__(self, *offsets: int, max_concurrency: int = 4) -> None:
        self.member: Member[Record] = Member(FlowLimits(100, 10_000))
        assignment = self.member.assign(TopicPartition("orders", 0))
        self.member.start(assignment, 0)
        for offset in offsets:
            self.member.deliver(assignment, "k", Record("orders", 0, offset, key=b"k"))
        self.tally = Tally()
        self.pool = WorkerPool(self.member.lanes, max_concurrency)

    def visits(self, handler: Handler, limit: TimeLimit | None = None) -> RecordVisits:
        settler = Settler(
            tally=self.tally,
            judge=lambda _record, _error, *, may_retry=True: Stop(),  # noqa: ARG005 - its name is the protocol's
            outbox=None,  # type: ignore[arg-type]  # nothing is sent
            bury=None,  # type: ignore[arg-type]  # nothing is buried
            on_stop=broken,
            on_failed_attempt=lambda: None,
        )
        return RecordVisits(
            self.member.lanes,
            handler,
            settler=settler,
            tally=self.tally,
            probing=Probing(broken, broken),
            on_progress=broken,
            clock=CoarseClock(),
            given_up=GivenUp(),
            limit=limit,
        )

    async def run(self, handler: Handler) -> None:
        await self.pool.run(self.visits(handler))


async def test_bug_in_a_callback_is_no_handler_failure(autojump_clock: MockClock) -> None:
    """What the control plane raises when it is told of a failure ends the pool, loudly."""
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await Stage(0).run(fail)


async def test_halt_before_the_start_holds(autojump_clock: MockClock) -> None:
    """A pool that was halted before it runs starts nothing.

    Running once undid it: a consumer that was leaving started handlers for what was buffered.
    """
    stage = Stage(0)
    stage.pool.halt()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run, fail)
        await wait_all_tasks_blocked()
        assert stage.pool.is_dry()
        stage.pool.finish()
    assert stage.tally.failed == 0


async def test_pool_that_has_not_begun_is_not_dry(autojump_clock: MockClock) -> None:
    """Whoever waits for the pool to run dry waits for what will be started, too."""
    handled: list[int] = []

    async def handle(record: Record) -> None:
        handled.append(record.offset)

    stage = Stage(0, 1, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_late, stage, handle)
        await stage.pool.wait_until(stage.pool.is_dry)
        stage.pool.finish()
    assert handled == [0, 1, 2]


@pytest.mark.parametrize("lanes", [1, 2, 3, 100])
async def test_no_worker_comes_in_vain(autojump_clock: MockClock, lanes: int) -> None:
    """A burst of lanes is served at once, each by a worker, and nobody comes into being who finds none."""
    stage = Stage(max_concurrency=1000)
    (assignment,) = stage.member.assignments
    started: list[int] = []

    async def handle(record: Record) -> None:
        started.append(record.offset)
        await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run, handle)
        await wait_all_tasks_blocked()
        for offset in range(0, 2 * lanes, lanes):
            for number in range(lanes):
                stage.member.deliver(assignment, number, Record("orders", 0, offset + number))
            stage.pool.wake()
            await trio.sleep(0.5)
            assert len(started) == offset + lanes
            await trio.sleep(1)
        assert len(stage.pool._workers) == lanes
        stage.pool.finish()


async def _run_late(stage: Stage, handle: Handler) -> None:
    await trio.sleep(5)
    await stage.run(handle)


async def test_late_handler_that_ends_after_the_pool_is_finished(autojump_clock: MockClock) -> None:
    """What it has failed with is dealt with, though its worker takes no records any more."""
    stage, limit = Stage(0), TimeLimit(5.0)

    async def handle(_record: Record) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.pool.run, stage.visits(handle, limit))
            await trio.sleep(6)
            limit.look(6.0)
            stage.pool.finish()
    assert (trio.current_time(), stage.tally.failed) == (10.0, 1)


async def test_look_at_nothing_late(autojump_clock: MockClock) -> None:
    """A look cancels nothing that has time left, and says when the next is due."""
    stage, limit = Stage(0), TimeLimit(5.0)
    dues: list[float] = []
    limit.on_due = dues.append

    async def handle(_record: Record) -> None:
        await trio.sleep(4)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.pool.run, stage.visits(handle, limit))
        await trio.sleep(3)
        assert (dues, limit.next_due()) == ([5.0], 5.0)
        limit.look(3.0)
        assert limit.next_due() == 5.0
        await trio.sleep(3)
        limit.look(6.0)
        assert limit.next_due() == math.inf
        stage.pool.finish()
    assert (stage.tally.completed, stage.tally.failed) == (1, 0)


async def test_many_late_handlers_take_few_looks(autojump_clock: MockClock) -> None:
    """A look takes time for each worker: if thousands are late, each a little later, they don't get one each."""
    limit = TimeLimit(5.0)
    pool = [Worker([]) for _ in range(2000)]
    for worker in pool:
        limit.begin(worker)
        autojump_clock.jump(1e-5)
    looks = 0
    while (due := limit.next_due()) < math.inf:
        looks += 1
        limit.look(due)
        for worker in pool:
            if worker.late is not None:
                assert due - worker.due < 0.005
                worker.late, worker.due = None, math.inf
    assert looks < 100


async def test_cancelled_that_nothing_caused_ends_the_pool(autojump_clock: MockClock) -> None:
    """A handler that raises a Cancelled it has kept, as a cache of results may, isn't taken for a cancelled one."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            kept = cancelled

    async def raise_it(_record: Record) -> NoReturn:
        raise kept

    with pytest.RaisesGroup(
        pytest.RaisesExc(RuntimeError, match=r"handler of <Record orders\[0\]@0 .*nothing cancelled it")
    ):
        await Stage(0).run(raise_it)
