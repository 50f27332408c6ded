"""The worker pool by itself: what no handler does."""

from __future__ import annotations

from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_parallel_kafka import Record
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.execution.channels import LaneChannel
from trio_parallel_kafka.execution.workers import Handler, WorkerPool


def broken(*_arguments: object) -> NoReturn:
    """A callback of the control plane with a bug."""
    raise ZeroDivisionError


async def fail(_record: Record) -> NoReturn:
    """A handler that fails."""
    raise ValueError


def make(*offsets: int, max_concurrency: int = 4) -> tuple[Member[Record], WorkerPool]:
    """A pool with records of one key ready."""
    member: Member[Record] = Member(FlowLimits(100, 10_000), LaneChannel)
    assignment = member.assign(TopicPartition("orders", 0))
    member.start(assignment, 0)
    for offset in offsets:
        member.deliver(assignment, "k", Record("orders", 0, offset, key=b"k"))
    return member, WorkerPool(member.lanes, max_concurrency, broken, broken)


async def test_bug_in_a_callback_is_no_handler_failure(autojump_clock: MockClock) -> None:
    """What the control plane raises when it is told of a failure ends the pool, loudly."""
    _, pool = make(0)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await pool.run(fail)


async def test_halt_before_the_start_holds(autojump_clock: MockClock) -> None:
    """A pool that was halted before it runs starts nothing.

    Running once undid it: a consumer that was leaving started handlers for what was buffered.
    """
    _, pool = make(0)
    pool.halt()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, fail)
        await wait_all_tasks_blocked()
        assert pool.is_dry()
        pool.finish()
    assert pool.failed == 0


async def test_pool_that_has_not_begun_is_not_dry(autojump_clock: MockClock) -> None:
    """Whoever waits for the pool to run dry waits for what will be started, too."""
    handled: list[int] = []

    async def handle(record: Record) -> None:
        handled.append(record.offset)

    _, pool = make(0, 1, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_late, pool, handle)
        await pool.wait_until(pool.is_dry)
        pool.finish()
    assert handled == [0, 1, 2]


async def _run_late(pool: WorkerPool, handle: Handler) -> None:
    await trio.sleep(5)
    await pool.run(handle)
