"""What the tests of the shell share: a consumer on a fake broker, and a handler that does as it is told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import Any, NoReturn

import trio
import trio.testing
from confluent_kafka import KafkaError as ClientError
from shell.scripted_broker import ScriptedBroker

from trio_parallel_kafka import ConsumerConfig, ParallelConsumer, Record, parallel_consumer
from trio_parallel_kafka.config.producer import ProducerConfig
from trio_parallel_kafka.control.client import Client
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.offset_map import encode
from trio_parallel_kafka.core.ranges import OffsetRanges
from trio_parallel_kafka.errors import ParallelKafkaError
from trio_parallel_kafka.producing.port import Sends
from trio_parallel_kafka.statistics import PartitionStatistics
from trio_parallel_kafka.testing.simulation.broker import found_by_all
from trio_parallel_kafka.testing.simulation.client import SimulatedClient
from trio_parallel_kafka.testing.simulation.transactions import SimulatedTransactions

P0 = TopicPartition("orders", 0)
P1 = TopicPartition("orders", 1)

NO_ANSWER = ClientError.REQUEST_TIMED_OUT

NEVER = 1000.0
"""A commit interval that doesn't come: what is committed is committed by the event under test."""

Place = tuple[int, int]
"""A record's partition and offset."""


def error(code: int) -> ClientError:
    """The client's error of this code."""
    return ClientError(code)


class World:
    """A broker with the topic ``orders`` of two partitions, and the members that :func:`parallel_consumer` makes.

    It is the cluster itself, so that a test may have another broker in the midst of it.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.broker = ScriptedBroker(orders=2)
        self.clients: list[SimulatedClient] = []
        self.producers: list[SimulatedTransactions] = []

    @property
    def client(self) -> SimulatedClient:
        """The newest member."""
        return self.clients[-1]

    def found(self) -> AbstractContextManager[None]:
        """Have consumers find it."""
        return found_by_all(self)

    async def rebalance(
        self,
        *,
        revoke: Sequence[TopicPartition] = (),
        lose: Sequence[TopicPartition] = (),
        assign: Sequence[TopicPartition] = (),
    ) -> None:
        """The group takes from the newest member, and gives; returns once that has been answered."""
        client = self.client
        if lose:
            self.broker.one_group.next_generation()
        await client.call_back(revoke=revoke, lose=lose).wait()
        await client.call_back(assign=assign, generation=self.broker.one_group.next_generation()).wait()

    @asynccontextmanager
    async def open_client(self, config: ConsumerConfig, problems: list[ParallelKafkaError]) -> AsyncIterator[Client]:
        async with self.broker.open_client(config, problems) as client:
            assert isinstance(client, SimulatedClient)
            self.clients.append(client)
            yield client

    def open_sender(self, config: ProducerConfig) -> AbstractAsyncContextManager[Sends]:
        return self.broker.open_sender(config)

    def transactional_producer(self, config: ConsumerConfig) -> SimulatedTransactions:
        self.producers.append(self.broker.transactional_producer(config))
        return self.producers[-1]

    def config(self, **fields: Any) -> ConsumerConfig:
        given = {"bootstrap_servers": "fake:9092", "group_id": "billing", "topics": ["orders"]}
        return ConsumerConfig(**(given | fields))

    @asynccontextmanager
    async def consuming(self, handler: Callable[[Record], Any], **fields: Any) -> AsyncIterator[ParallelConsumer]:
        """Consume in the background for the length of the block, then stop gracefully."""
        async with parallel_consumer(self.config(**fields)) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handler)
            yield pc
            pc.stop()

    def committed(self, partition: TopicPartition) -> int | None:
        """The offset that the group has committed."""
        return self.broker.one_group.offsets.get(partition, (None, ""))[0]


def of(pc: ParallelConsumer, partition: TopicPartition) -> PartitionStatistics:
    """What the statistics say about a partition."""
    return next(each for each in pc.statistics().partitions if (each.topic, each.partition) == partition)


def commit(
    world: World,
    partition: TopicPartition,
    offset: int,
    completed: OffsetRanges = (),
    topic_id: bytes | None = None,
) -> None:
    """The group has committed this before."""
    world.broker.one_group.offsets[partition] = (offset, encode(offset, completed, topic_id=topic_id).text)


async def later(seconds: float, do: Callable[[], object]) -> None:
    """Do something in a while."""
    await trio.sleep(seconds)
    do()


async def settle() -> None:
    """Let everything be done that can be done without time passing."""
    await trio.testing.wait_all_tasks_blocked(0.001)


class Handling:
    """A handler that takes ``work`` seconds, keeps ``held`` offsets until they are let go, and notes what it did.

    ``stubborn`` offsets ignore their cancellation until they are let go; ``bad`` ones raise.
    """

    def __init__(
        self,
        *,
        work: float = 0.0,
        held: Collection[int] = (),
        stubborn: Collection[int] = (),
        bad: Collection[int] = (),
    ) -> None:
        self.work = work
        self.held = set(held)
        self.stubborn = set(stubborn)
        self.bad = set(bad)
        self.started: list[Place] = []
        self.finished: list[Place] = []
        self.cancelled: list[Place] = []
        self.records: list[Record] = []
        self.peak = 0
        self.overlaps: list[Place] = []
        self._running: set[Place] = set()
        self._keys: dict[tuple[int, bytes], int] = defaultdict(int)
        self._changed = trio.lowlevel.ParkingLot()

    async def __call__(self, record: Record) -> None:
        place = record.partition, record.offset
        self.started.append(place)
        self.records.append(record)
        self._running.add(place)
        self.peak = max(self.peak, len(self._running))
        lane = record.partition, record.key or b""
        self._keys[lane] += 1
        if self._keys[lane] > 1 and record.key is not None:
            self.overlaps.append(place)
        try:
            await self._handle(record)
        except trio.Cancelled:
            self.cancelled.append(place)
            raise
        finally:
            self._running.discard(place)
            self._keys[lane] -= 1
        self.finished.append(place)

    async def _handle(self, record: Record) -> None:
        with trio.CancelScope(shield=record.offset in self.stubborn):
            while record.offset in self.held | self.stubborn:
                await self._changed.park()
        if record.offset in self.bad:
            raise HandlerError(record.offset)
        if self.work:
            await trio.sleep(self.work)

    def let_go(self, *offsets: int) -> None:
        """Keep these no longer; all, if none is named."""
        named = set(offsets) or self.held | self.stubborn
        self.held -= named
        self.stubborn -= named
        self._changed.unpark_all()

    def offsets(self, partition: TopicPartition, *, started: bool = False) -> list[int]:
        """The offsets finished (or started) in a partition, in that order."""
        return [offset for number, offset in (self.started if started else self.finished) if number == partition[1]]


class HandlerError(Exception):
    pass


class BodyError(Exception):
    pass


async def never(_record: Record) -> NoReturn:
    """A handler that isn't to be called."""
    raise AssertionError("a handler was started")


class StepCounter(trio.abc.Instrument):
    """Cancels a scope after so many steps of any task."""

    def __init__(self, steps: int) -> None:
        self.scope = trio.CancelScope()
        self._left = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self.scope.cancel()
