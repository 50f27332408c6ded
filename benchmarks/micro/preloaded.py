"""A client that has fetched everything before: what the package costs without librdkafka, threads and time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final, cast

import trio
from confluent_kafka import KafkaError as ClientError, Message

from trio_parallel_kafka import ConsumerConfig
from trio_parallel_kafka.control.client import Assigned, Client, Committed, Event, Fetched, Revoked, StartAt
from trio_parallel_kafka.control.cluster import Cluster, current_cluster
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.errors import ParallelKafkaError
from trio_parallel_kafka.statistics import PollStatistics

TOPIC: Final = "orders"


def messages(count: int, *, keys: int, partitions: int, batch: int = 500) -> list[list[Message]]:
    """Batches of 100-byte records, each of one partition, in turn. A key has its partition; ``keys=0``: all unique."""
    next_offsets = [0] * partitions
    batches = []
    for first in range(0, count, batch):
        partition = first // batch % partitions
        made = []
        for number in range(first, min(first + batch, count)):
            key = number if not keys else number * partitions % keys + partition
            made.append(
                Message(
                    topic=TOPIC, partition=partition, offset=next_offsets[partition], key=b"%d" % key, value=bytes(100)
                )
            )
            next_offsets[partition] += 1
        batches.append(made)
    return batches


class Preloaded:
    """Gives all partitions to its one member, then batch after batch; a partition that is paused holds the rest up.

    Args:
        batches: each of one partition.
    """

    def __init__(self, batches: Sequence[Sequence[Message]]) -> None:
        self._batches: Final = deque(batches)
        places = {_place(batch[0]) for batch in batches}
        self._partitions: Final = tuple(sorted(places))
        self._rebalances: deque[Event] = deque()
        self._epochs: dict[TopicPartition, int | None] = {}
        self._paused: set[TopicPartition] = set()
        self._news: Final = trio.lowlevel.ParkingLot()

    async def connect(self) -> None:
        await trio.lowlevel.checkpoint()

    async def next_event(self) -> Event:
        await trio.lowlevel.checkpoint()
        while True:
            if self._rebalances:
                return self._rebalances.popleft()
            if self._epochs and self._batches and _place(self._batches[0][0]) not in self._paused:
                return Fetched(self._batches.popleft(), self._epochs, taken=lambda: None)
            await self._news.park()

    def subscribe(self, topics: Sequence[str]) -> None:
        self._rebalances.append(Assigned(self._partitions, self._begin))

    def _begin(self, starts: Mapping[TopicPartition, StartAt]) -> None:
        self._epochs = {partition: start.assignment_epoch for partition, start in starts.items()}
        self._news.unpark_all()

    def unsubscribe(self) -> None:
        self._batches.clear()
        self._rebalances.append(Revoked(self._partitions, lambda: None))
        self._news.unpark_all()

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        await trio.lowlevel.checkpoint()
        return {partition: Committed() for partition in partitions}

    async def offset_range(self, partition: TopicPartition) -> tuple[int, int]:
        await trio.lowlevel.checkpoint()
        return 0, sum(len(batch) for batch in self._batches if _place(batch[0]) == partition)

    async def topic_ids(self, topics: Collection[str]) -> Mapping[str, bytes]:
        await trio.lowlevel.checkpoint()
        return {}

    async def topics(self) -> frozenset[str]:
        await trio.lowlevel.checkpoint()
        return frozenset({TOPIC})

    async def partition_counts(self) -> Mapping[str, int]:
        await trio.lowlevel.checkpoint()
        return {TOPIC: len(self._partitions)}

    async def commit(self, entries: Sequence[CommitEntry]) -> Mapping[TopicPartition, ClientError | None]:
        await trio.lowlevel.checkpoint()
        return dict.fromkeys((entry.partition for entry in entries), None)

    async def group_metadata(self, entries: Sequence[CommitEntry]) -> object | None:
        await trio.lowlevel.checkpoint()
        return None

    async def start(self, partition: TopicPartition, at: StartAt) -> None:
        await trio.lowlevel.checkpoint()

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._paused.update(partitions)

    def resume(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        self._paused.difference_update(next_offsets)
        self._news.unpark_all()

    async def close(self) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    def hurry(self) -> None:
        """There is nothing to wait for."""

    def poll_statistics(self) -> PollStatistics:
        return PollStatistics()


class _OneClient:
    """A cluster that has but this client."""

    def __init__(self, client: Client) -> None:
        self._client: Final = client

    @asynccontextmanager
    async def open_client(self, config: ConsumerConfig, problems: list[ParallelKafkaError]) -> AsyncIterator[Client]:
        yield self._client


@contextmanager
def found(client: Client) -> Iterator[None]:
    """Have a consumer find this client."""
    token = current_cluster.set(cast("Cluster", _OneClient(client)))
    try:
        yield
    finally:
        current_cluster.reset(token)


def _place(message: Message) -> TopicPartition:
    return TopicPartition(cast("str", message.topic()), cast("int", message.partition()))
