"""Nothing stays behind when a block ends: no thread, file, task or object, and no memory, however often it does."""

from __future__ import annotations

import gc
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from embedded.kit import PATIENCE, Handled, assert_no_more_than, configured, handle_all, held, send
from soak.samples import tasks

from trio_parallel_kafka import ParallelConsumer, Record, parallel_consumer
from trio_parallel_kafka.control.controller import Controller
from trio_parallel_kafka.control.gil import GilYield
from trio_parallel_kafka.control.kafka_client import KafkaClient
from trio_parallel_kafka.control.poll_thread import PollThread
from trio_parallel_kafka.execution.worker import Worker
from trio_parallel_kafka.execution.workers import WorkerPool
from trio_parallel_kafka.testing import EmbeddedBroker

OURS = (ParallelConsumer, Controller, KafkaClient, PollThread, Worker, WorkerPool, Record, GilYield)

GROWTH_AT_ONCE = 1024 * 1024
GROWTH_OF_A_CYCLE = 4 * 1024
"""Bytes that all cycles may add, and each of them. (Trio forgets deadlines late, and C's memory comes in pieces; one
client that is left open takes 300 KiB.)"""

Cycle = Callable[[int], Awaitable[object]]


def resident() -> int:
    """Bytes of memory that this process holds."""
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def ours() -> Counter[str]:
    """How many objects of this library are alive."""
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, OURS))


async def assert_nothing_stays(broker: EmbeddedBroker, cycle: Cycle, count: int, warm_up: int) -> None:
    """Run cycles; what the process holds after the first few mustn't grow."""
    objects = ours()
    for number in range(warm_up):
        await cycle(number)
    gc.collect()
    before = (held(), tasks(), resident())
    with trio.fail_after(PATIENCE):
        for number in range(warm_up, warm_up + count):
            await cycle(number)
            broker.clear_requests()  # what it notes of them takes memory, too
    gc.collect()
    assert tasks() == before[1]
    assert ours() <= objects
    growth = resident() - before[2]
    print(f"{count} cycles: {before[0]}, then {held()}; memory grew by {growth / 1024:.0f} KiB")
    assert growth < GROWTH_AT_ONCE + count * GROWTH_OF_A_CYCLE
    await assert_no_more_than(before[0])


@pytest.fixture
async def spare_thread() -> None:
    """Trio keeps one thread for the next call; let it be there from the start."""
    await trio.to_thread.run_sync(lambda: None)


async def test_five_hundred_blocks(embedded_broker: EmbeddedBroker, spare_thread: None) -> None:
    """Opening and closing a consumer 500 times leaves memory, files and threads where they were."""
    config = configured(embedded_broker)

    async def cycle(_number: int) -> None:
        async with parallel_consumer(config):
            pass

    await assert_nothing_stays(embedded_broker, cycle, 500, warm_up=50)


async def test_blocks_that_consume(embedded_broker: EmbeddedBroker, spare_thread: None) -> None:
    """The same for 50 consumers that handle 100 records each."""
    send(embedded_broker, 100)

    async def cycle(number: int) -> None:
        await handle_all(configured(embedded_broker, group_id=f"billing{number}"), 100)

    await assert_nothing_stays(embedded_broker, cycle, 50, warm_up=10)


async def test_blocks_that_are_cancelled(embedded_broker: EmbeddedBroker, spare_thread: None) -> None:
    """The same for 50 that are cancelled, with handlers amid their work."""
    send(embedded_broker, 100)

    async def hang(record: Record) -> None:
        if record.offset % 5 == 2:
            await trio.sleep_forever()

    async def cycle(number: int) -> None:
        handled = Handled(hang)
        with trio.CancelScope() as scope:
            async with (
                parallel_consumer(configured(embedded_broker, group_id=f"billing{number}")) as pc,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(pc.run, handled)
                await handled.wait(30)
                scope.cancel()
        assert scope.cancelled_caught

    await assert_nothing_stays(embedded_broker, cycle, 50, warm_up=10)


async def test_blocks_that_are_cancelled_at_any_moment(embedded_broker: EmbeddedBroker, spare_thread: None) -> None:
    """The same for 50 that are cancelled while they open, join, start or close."""
    config = configured(embedded_broker)

    async def cycle(number: int) -> None:
        with trio.move_on_after(number % 25 * 0.001):
            async with parallel_consumer(config) as pc:
                await pc.run(Handled())

    await assert_nothing_stays(embedded_broker, cycle, 50, warm_up=25)


async def test_blocks_whose_handler_fails(
    embedded_broker: EmbeddedBroker, spare_thread: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The same for 30 that end with a handler's error."""
    caplog.set_level(logging.CRITICAL, "trio_parallel_kafka")  # or the test would keep what is logged
    send(embedded_broker, 20)

    async def fail(record: Record) -> None:
        if (record.partition, record.offset) == (1, 3):
            raise ZeroDivisionError

    async def cycle(number: int) -> None:
        with pytest.RaisesGroup(ZeroDivisionError):
            async with parallel_consumer(configured(embedded_broker, group_id=f"billing{number}")) as pc:
                await pc.run(fail)

    await assert_nothing_stays(embedded_broker, cycle, 30, warm_up=5)


async def test_what_is_kept_of_a_consumer_is_small(embedded_broker: EmbeddedBroker, spare_thread: None) -> None:
    """Whoever keeps the object of a client that has failed keeps no threads or sockets.

    It once kept those of the client that had asked for the topics' ids.
    """
    with trio.fail_after(PATIENCE):
        gc.collect()
        before = held()
        async with parallel_consumer(configured(embedded_broker)) as pc:
            await pc.wait_assigned()
            pc._client._thread.submit(lambda: pc._client._thread._callback_errors.append(ValueError()))  # type: ignore[attr-defined]
            with pytest.raises(Exception, match="the Kafka client ended"):
                await pc.run(Handled())
        await assert_no_more_than(before)
    assert pc.statistics().state == "closed"
