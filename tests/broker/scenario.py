"""What the scenarios share: a topic that is made and filled, a consumer for a block, a handler that takes notes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import trio
from broker.cluster import Cluster, NewRecord

from trio_parallel_kafka import ConsumerConfig, ParallelConsumer, Record, parallel_consumer

PATIENCE = 100.0
"""Seconds after which a test hangs for certain."""

AT_ONCE = 0.2
"""Seconds for handlers that will never end anyway."""


class Notes:
    """A handler that notes what it is given and what it brings to an end.

    Args:
        hangs: which records never end.
        work: what is done for the others.
    """

    def __init__(
        self,
        hangs: Callable[[Record], bool] = lambda _record: False,
        work: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint,
    ) -> None:
        self.started: list[Record] = []
        self.done: list[Record] = []
        self._hangs = hangs
        self._work = work

    async def __call__(self, record: Record) -> None:
        self.started.append(record)
        if self._hangs(record):
            await trio.sleep_forever()
        await self._work()
        self.done.append(record)

    async def wait_done(self, count: int) -> None:
        """Wait until so many records have been handled to their end."""
        await until(lambda: len(self.done) >= count)

    async def wait_started(self, count: int) -> None:
        """Wait until so many records have been given."""
        await until(lambda: len(self.started) >= count)


def values(records: Iterable[Record]) -> list[int]:
    """The numbers that the records' values are, sorted."""
    return sorted(int(record.value or b"") for record in records)


def value_in(*numbers: int) -> Callable[[Record], bool]:
    """Whether a record's value is one of these numbers."""
    return lambda record: int(record.value or b"") in numbers


def numbered(first: int, end: int, partition: int = 0) -> list[NewRecord]:
    """Records with the values ``first`` to ``end - 1``, each with a key of its own."""
    return [NewRecord(b"key-%d" % n, b"%d" % n, partition) for n in range(first, end)]


def topic_with(
    kafka: Cluster, records: Iterable[NewRecord | tuple[Any, ...]], partitions: int = 1, **config: str
) -> str:
    """Make a topic that holds these records, and return its name."""
    topic = kafka.unique("orders")
    kafka.create_topic(topic, partitions, {name.replace("_", "."): value for name, value in config.items()})
    kafka.produce(topic, records)
    return topic


def configured(kafka: Cluster, /, *topics: str, **fields: Any) -> ConsumerConfig:
    """A configuration with a group of its own unless one is named; it doesn't wait long for what hangs."""
    fields = {"group_id": kafka.unique("billing"), "shutdown_timeout": AT_ONCE, **fields}
    return ConsumerConfig(bootstrap_servers=kafka.bootstrap_servers, topics=topics, **fields)


@asynccontextmanager
async def running(
    config: ConsumerConfig, handler: Callable[[Record[Any, Any]], Awaitable[object]]
) -> AsyncIterator[ParallelConsumer]:
    """Consume for the length of a block, from the first assignment on; stop at its end."""
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            await nursery.start(pc.run, handler)
            yield pc
            pc.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; whoever calls sets the bound."""
    while not condition():
        await trio.sleep(0.02)


async def handled(config: ConsumerConfig, count: int) -> list[Record]:
    """Consume until so many records were handled, and a moment longer for those that shouldn't come."""
    notes = Notes()
    async with running(config, notes):
        await notes.wait_done(count)
        await trio.sleep(AT_ONCE)
    return notes.done


def committed_offsets(kafka: Cluster, config: ConsumerConfig) -> dict[int, int]:
    """What the group has committed for its first topic, by partition."""
    found = kafka.committed(config.group_id, config.topics[0])
    return {partition: offset for partition, (offset, _) in found.items()}
