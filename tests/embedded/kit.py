"""What the tests of the consumer on the embedded broker share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trio
from confluent_kafka import Consumer, Producer, TopicPartition

from trio_parallel_kafka import ConsumerConfig, ParallelConsumer, PartitionStatistics, Record, parallel_consumer
from trio_parallel_kafka.core.metadata import read_metadata
from trio_parallel_kafka.core.ranges import OffsetRanges
from trio_parallel_kafka.testing import EmbeddedBroker

PATIENCE = 60.0
"""Seconds after which a test hangs for certain."""

QUICK = {"group.protocol": "consumer", "fetch.wait.max.ms": 5, "log_level": 0}
"""librdkafka properties with which a member of the embedded broker joins and reads within milliseconds."""

Place = tuple[int, int]
"""A record's partition and offset."""

Progress = tuple[int, OffsetRanges]
"""A committed offset, and what is completed above it."""


class Held(NamedTuple):
    """What this process holds of the operating system."""

    threads: int
    files: int


def held() -> Held:
    """Count the threads of any kind, and the open files and sockets."""
    return Held(len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir())))


async def assert_no_more_than(before: Held) -> None:
    """Fail unless the process holds as much as before, or less, within a moment.

    The moment is for the embedded broker, which ends its connections in its own time.
    """
    with trio.move_on_after(PATIENCE):
        await until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
    assert held().threads <= before.threads
    assert held().files <= before.files


def configured(broker: EmbeddedBroker, /, **fields: Any) -> ConsumerConfig:
    """A configuration for the topic ``orders`` that joins fast and commits often."""
    kafka = {**QUICK, **fields.pop("kafka", {})}
    defaults: dict[str, Any] = {"group_id": "billing", "topics": "orders", "commit_interval": 0.05}
    return ConsumerConfig(bootstrap_servers=broker.bootstrap_servers, kafka=kafka, **{**defaults, **fields})


def send(broker: EmbeddedBroker, count: int, *, keys: int | None = None, topic: str = "orders", at: int = 0) -> None:
    """Produce numbered records, in turn to partitions 0 and 1, with as many keys, by default one for each record."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 1, "log_level": 0})
    for number in range(at, at + count):
        key = b"k%d" % (number % (keys or at + count))
        producer.produce(topic, key=key, value=b"%d" % number, partition=number % 2)
    assert producer.flush(PATIENCE) == 0


def committed(broker: EmbeddedBroker, *, group: str = "billing", topic: str = "orders") -> list[Progress]:
    """Ask the broker for the offsets of partitions 0 and 1, and for what is completed above."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": group, "log_level": 0})
    try:
        answer = consumer.committed([TopicPartition(topic, number) for number in range(2)], timeout=PATIENCE)
        return [(each.offset, read_metadata(each.metadata or "", each.offset).completed) for each in answer]
    finally:
        consumer.close()


def commit(broker: EmbeddedBroker, *offsets: int, group: str = "billing", topic: str = "orders") -> None:
    """Commit offsets of the partitions 0, 1, ... for a group without members."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": group, "log_level": 0})
    try:
        places = [TopicPartition(topic, number, offset) for number, offset in enumerate(offsets)]
        consumer.commit(offsets=places, asynchronous=False)
    finally:
        consumer.close()


class Handled:
    """A handler that notes each record once ``work`` on it is done."""

    def __init__(self, work: Callable[[Record], Awaitable[object]] | None = None) -> None:
        self.records: list[Record] = []
        self._work = work
        self._lot = trio.lowlevel.ParkingLot()

    async def __call__(self, record: Record) -> None:
        if self._work is not None:
            await self._work(record)
        self.records.append(record)
        self._lot.unpark_all()

    async def wait(self, count: int) -> None:
        """Wait until so many records were handled."""
        while len(self.records) < count:
            await self._lot.park()

    @property
    def places(self) -> list[Place]:
        """Partition and offset of each, in the order handled."""
        return [(record.partition, record.offset) for record in self.records]


def all_places(count: int) -> list[Place]:
    """Where :func:`send` puts so many records, in the order of the partitions."""
    return sorted((number % 2, number // 2) for number in range(count))


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    while not condition():
        await trio.sleep(0.005)


@asynccontextmanager
async def running(config: ConsumerConfig, handler: Callable[[Record], Awaitable[object]]) -> AsyncIterator[Any]:
    """A consumer that runs for the length of a block, and is stopped at its end."""
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            await nursery.start(pc.run, handler)
            yield pc
            pc.stop()


async def handle_all(config: ConsumerConfig, count: int) -> Handled:
    """Consume so many records, and stop."""
    handled = Handled()
    async with running(config, handled):
        await handled.wait(count)
    return handled


def partitions_of(pc: ParallelConsumer) -> dict[int, PartitionStatistics]:
    """The statistics of the partitions assigned now."""
    return {each.partition: each for each in pc.statistics().partitions}


def phases(pc: ParallelConsumer) -> set[str]:
    """In which phases the partitions are."""
    return {each.phase for each in pc.statistics().partitions}
