"""Misuse of the object: each a clear error at once."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import trio
import trio.testing
from shell.kit import P0, Handling, World
from trio.testing import MockClock

from trio_parallel_kafka import Record, parallel_consumer
from trio_parallel_kafka.errors import ConsumerBusyError, ConsumerClosedError, InvalidHandlerError


def sync_handler(_record: Record) -> None:
    """No handler."""


async def async_handler(_tag: str, _record: Record) -> None:
    """A handler that needs a tag first."""


class SyncCallable:
    def __call__(self, _record: Record) -> None:
        pass


class AsyncCallable:
    async def __call__(self, _record: Record) -> None:
        pass

    async def method(self, _record: Record) -> None:
        pass


@pytest.mark.parametrize(
    "handler",
    [sync_handler, lambda _record: None, SyncCallable(), functools.partial(sync_handler), None],
    ids=["function", "lambda", "callable", "partial", "none"],
)
async def test_handler_that_is_not_async(autojump_clock: MockClock, world: World, handler: Any) -> None:
    """Anything but an async function is refused before a record is touched, and the consumer stays usable."""
    world.broker.add(P0, ["a"])
    async with parallel_consumer(world.config()) as pc:
        with pytest.raises(InvalidHandlerError, match="has to be an async function"):
            await pc.run(handler)
        assert pc.statistics().state == "open"
        with trio.move_on_after(2):
            await pc.run(Handling())
    assert world.committed(P0) == 1


@pytest.mark.parametrize(
    "handler",
    [
        functools.partial(async_handler, "tag"),
        functools.partial(functools.partial(async_handler), "tag"),
        AsyncCallable(),
        functools.partial(AsyncCallable()),
        AsyncCallable().method,
    ],
    ids=["partial", "nested partial", "callable", "partial of callable", "method"],
)
async def test_handlers_that_are_async_in_disguise(autojump_clock: MockClock, world: World, handler: Any) -> None:
    """Partials, bound methods and callable objects are fine when they are async."""
    world.broker.add(P0, ["a"])
    async with world.consuming(handler):
        await trio.sleep(2)
        assert world.committed(P0) == 1


async def test_run_twice(autojump_clock: MockClock, world: World) -> None:
    """A second ``run`` is refused, while the first goes on and after it has ended."""
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        await nursery.start(pc.run, Handling())
        with pytest.raises(ConsumerBusyError, match="once"):
            await pc.run(Handling())
        pc.stop()
        await trio.sleep(1)
        with pytest.raises(ConsumerBusyError):
            await pc.run(Handling())


async def test_use_after_the_block(autojump_clock: MockClock, world: World) -> None:
    """Behind its block a consumer can be asked for statistics, and for nothing else."""
    async with parallel_consumer(world.config()) as pc:
        pass
    with pytest.raises(ConsumerClosedError):
        await pc.run(Handling())
    with pytest.raises(ConsumerClosedError):
        await pc.wait_assigned()
    pc.stop()
    assert pc.statistics().partitions == ()


async def test_waiting_for_an_assignment_after_the_run(autojump_clock: MockClock, world: World) -> None:
    """Once ``run`` has left the group, no assignment will come: waiting for one is an error."""
    async with parallel_consumer(world.config()) as pc:
        with trio.move_on_after(2):
            await pc.run(Handling())
        with pytest.raises(ConsumerClosedError):
            await pc.wait_assigned()


async def test_start_is_ready_once_a_partition_is_read(autojump_clock: MockClock, world: World) -> None:
    """``nursery.start`` and ``wait_assigned`` return when a position is known, not before."""
    world.broker.network.delays["OffsetFetch"] = 5.0
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        await nursery.start(pc.run, Handling())
        assert trio.current_time() >= 5
        assert pc.statistics().partitions[0].phase == "active"
        with trio.testing.assert_checkpoints():
            await pc.wait_assigned()
        pc.stop()


async def test_start_of_a_run_that_is_stopped_before_it_is_ready(autojump_clock: MockClock, world: World) -> None:
    """Whoever waits for the start of a run that was stopped before anything was assigned goes on."""
    world.broker.share = []
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        pc.stop()
        await nursery.start(pc.run, Handling())
