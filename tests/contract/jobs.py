"""Clauses: whole consumers at work, held against the guarantees."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from contract.members import until
from contract.stage import Clause, Stage, consuming, sending

from trio_parallel_kafka import (
    ConsumerConfig,
    DeadLetterConfig,
    OnFailure,
    ParallelConsumer,
    ProducerRecord,
    Record,
    RetryPolicy,
    open_producer,
    parallel_consumer,
)
from trio_parallel_kafka.testing import AtLeastOnce, Guarantee, History, KeyOrder, KeySerial, OneOwner
from trio_parallel_kafka.testing.events import Completed, GivenUp, Place, Started

KEYS: Final = 6
GUARANTEES: Final[Sequence[type[Guarantee]]] = (AtLeastOnce, KeyOrder, KeySerial, OneOwner)

Handler = Callable[[Record], Awaitable[object]]


class DownError(Exception):
    """What a handler depends on doesn't answer."""


class Job:
    """Numbered records of some keys, and what became of them.

    Attributes:
        config: the consumer's.
        history: what happened.
    """

    def __init__(self, stage: Stage, **fields: Any) -> None:
        self.topic: Final = stage.unique("orders")
        self.graves: Final = stage.unique("graves")
        self.config: Final[ConsumerConfig] = consuming(
            stage,
            self.topic,
            retry=RetryPolicy(max_attempts=3, initial_backoff=0.01, max_backoff=0.02),
            on_failure=OnFailure.DEAD_LETTER,
            dead_letter=DeadLetterConfig(topic=self.graves),
            commit_interval=0.05,
            **fields,
        )
        self.history: Final = History()
        self._stage: Final = stage
        self._numbers: Final[dict[Place, int]] = {}

    async def create_topics(self) -> None:
        await self._stage.create_topic(self.topic, 2)
        await self._stage.create_topic(self.graves, 1)

    async def produce(self, numbers: Iterable[int]) -> None:
        """Write the records of these numbers."""
        records = [ProducerRecord(self.topic, b"%d" % number, key=b"k%d" % (number % KEYS)) for number in numbers]
        async with open_producer(sending(self._stage)) as producer:
            for record, written in zip(records, await producer.send_all(records), strict=True):
                place = Place(written.topic, written.partition, written.offset)
                self._numbers[place] = int(record.value)
                self.history.produced(*place, record.key)

    @asynccontextmanager
    async def run(self, member: str, handler: Handler) -> AsyncIterator[ParallelConsumer]:
        """Have a member handle records for the length of a block, and stop it."""
        watched = self.history.watch(handler, member, config=self.config)
        async with parallel_consumer(self.config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, watched)
            yield pc
            pc.stop()

    def started(self, member: str) -> Counter[int]:
        """How often a member was given each record."""
        events = self.history.events
        return Counter(
            self._numbers[each.place] for each in events if isinstance(each, Started) and each.member == member
        )

    def done(self) -> Counter[int]:
        """How often each record was brought to an end."""
        return Counter(
            self._numbers[each.place] for each in self.history.events if isinstance(each, Completed | GivenUp)
        )

    async def check(self, count: int) -> None:
        """All that was produced is done, once, as the guarantees say, and committed."""
        assert self.done() == Counter(range(count))
        for guarantee in GUARANTEES:
            guarantee(self.history).check()
        committed = await self._stage.committed(self.config.group_id, self.topic)
        written = Counter(place.partition for place in self._numbers)
        assert {partition: offset for partition, (offset, _) in committed.items()} == written


async def failures_and_a_restart(stage: Stage) -> None:
    """Retries, a dead letter, and a stop that leaves one lane to the restart, which replays nothing else."""
    job = Job(stage, shutdown_timeout=0.2)
    await job.create_topics()
    await job.produce(range(60))
    left = set(range(20, 60, KEYS))
    hanging = {20}

    async def handle(record: Record) -> None:
        number = int(record.value or b"")
        if number in hanging:
            await trio.sleep_forever()
        if number == 9 or (number == 8 and record.attempt < 3):
            raise DownError(number)

    async with job.run("first", handle):
        await until(lambda: job.done().keys() == set(range(60)) - left)
    hanging.clear()
    async with job.run("second", handle):
        await until(lambda: len(job.done()) == 60)

    assert job.started("first") == Counter(set(range(60)) - left) + Counter({8: 2, 9: 2, 20: 1})
    assert job.started("second") == Counter(left)
    assert [message.value() for message in await stage.read(job.graves, 0)] == [b"9"]
    await job.check(60)


async def a_helper_comes_and_goes(stage: Stage) -> None:
    """A member that joins and leaves in the middle costs nothing: each record is handled once, in order."""
    job = Job(stage)
    await job.create_topics()
    await job.produce(range(30))

    async def handle(_record: Record) -> None:
        await trio.sleep(0.005)

    async with job.run("first", handle):
        await until(lambda: len(job.done()) == 30)
        async with job.run("second", handle) as second:
            await until(lambda: any(each.phase == "active" for each in second.statistics().partitions))
            await job.produce(range(30, 60))
            await until(lambda: job.started("second"))
        await until(lambda: len(job.done()) == 60)

    assert job.started("first") + job.started("second") == Counter(range(60))
    await job.check(60)


WORKING: Final[Sequence[Clause]] = (failures_and_a_restart, a_helper_comes_and_goes)
