"""Clauses: transactional producers."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from contract.members import connected, next_of
from contract.stage import Clause, Stage, consuming, sending

from trio_parallel_kafka.control.client import Assigned, Client, Revoked, StartAt
from trio_parallel_kafka.control.cluster import current_cluster
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.errors import ProducerFencedError
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producing.transaction_errors import RefusedError
from trio_parallel_kafka.producing.transaction_thread import Ending, Transaction
from trio_parallel_kafka.producing.transactional import MakesTransactions

GROUP_HAS_MOVED_ON: Final = {
    ClientError.UNKNOWN_MEMBER_ID,
    ClientError.ILLEGAL_GENERATION,
    ClientError.FENCED_MEMBER_EPOCH,
    ClientError.STALE_MEMBER_EPOCH,
}

EPOCH: Final = 1


class Source(Protocol):
    """A partition that is read, and a topic to write to, of two partitions."""

    @property
    def source(self) -> TopicPartition:
        """The partition."""

    @property
    def output(self) -> str:
        """The topic."""

    async def metadata(self, entries: Sequence[CommitEntry]) -> object:
        """The metadata of the group, for the member that owns the source."""


class Scene:
    """A member that owns the one partition of a topic, beside which there is another topic to write to."""

    def __init__(self, stage: Stage) -> None:
        self.stage: Final = stage
        self.source: Final = TopicPartition(stage.unique("orders"), 0)
        self.output: Final = stage.unique("results")
        self.config: Final = consuming(
            stage,
            self.source.topic,
            delivery="exactly_once",
            transactional_id=stage.unique("identity"),
            producer=sending(stage),
        )
        self._member: Client

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Make the topics, and be a member."""
        await self.stage.create_topic(self.source.topic, 1)
        await self.stage.create_topic(self.output, 2)
        async with connected(self.config) as self._member:
            self._member.subscribe(self.config.topics)
            self._member.hurry()
            (await next_of(self._member, Assigned)).reply({self.source: StartAt(0, EPOCH)})
            yield

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[MakesTransactions]:
        """A producer, always of the same identity, that is ready."""
        producer = current_cluster.get().transactional_producer(self.config)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.host)
            try:
                await producer.open()
                yield producer
            finally:
                await producer.close()  # noqa: ASYNC102 - it shields and bounds itself

    async def metadata(self, entries: Sequence[CommitEntry]) -> object:
        found = await self._member.group_metadata(entries)
        assert found is not None
        return found

    async def leave(self) -> None:
        """The member leaves the group."""
        self._member.unsubscribe()
        (await next_of(self._member, Revoked)).reply()
        assert await self._member.close()

    async def seen(self) -> list[bytes]:
        """The values that a reader sees who reads only what is committed."""
        return [message.value() or b"" for message in await self.stage.read(self.output, 0)]

    async def sees(self, values: Sequence[bytes]) -> None:
        """Wait until these are seen: a commit is acknowledged before its markers are written."""
        while (seen := await self.seen()) != values:
            assert len(seen) < len(values), seen
            await trio.sleep(0.05)

    async def committed(self) -> tuple[int, str] | None:
        """The group's committed offset and metadata."""
        return (await self.stage.committed(self.config.group_id, self.source.topic)).get(0)


def on_scene(clause: Callable[[Scene], Awaitable[None]]) -> Clause:
    """Make a clause of what is to hold on a scene."""

    @functools.wraps(clause)
    async def on_stage(stage: Stage) -> None:
        scene = Scene(stage)
        async with scene.opened():
            await clause(scene)

    return on_stage


@on_scene
async def all_is_seen(scene: Scene) -> None:
    """Of a committed transaction the records are seen, in order, and the offset with its metadata."""
    async with scene.producer() as producer:
        outcome = await producer.transact(await transaction(scene, 3, [b"a", b"b"]))
        assert outcome.ending is Ending.COMMITTED
        await scene.sees([b"a", b"b"])
        assert await scene.committed() == (3, "of 3")
        await producer.transact(await transaction(scene, 4, [b"c"]))
        await scene.sees([b"a", b"b", b"c"])
        offsets = [message.offset() for message in await scene.stage.read(scene.output, 0)]
        assert offsets == [0, 1, 3], "a transaction ends with a marker"
        assert await scene.committed() == (4, "of 4")


@on_scene
async def offsets_alone(scene: Scene) -> None:
    """A transaction may be without records."""
    async with scene.producer() as producer:
        outcome = await producer.transact(await transaction(scene, 3))
        assert outcome.ending is Ending.COMMITTED
        assert await scene.committed() == (3, "of 3")


@on_scene
async def not_wanted_any_more(scene: Scene) -> None:
    """What isn't wanted any more is aborted; nothing of it is seen, and the next goes through."""
    async with scene.producer() as producer:
        outcome = await producer.transact(await transaction(scene, 3, [b"a"], is_wanted=lambda: False))
        assert outcome.ending is Ending.ABORTED
        assert await scene.committed() is None
        assert (await producer.transact(await transaction(scene, 4, [b"b"]))).ending is Ending.COMMITTED
        await scene.sees([b"b"])


@on_scene
async def group_has_moved_on(scene: Scene) -> None:
    """A transaction of a member that is gone is aborted, with an error that says so."""
    async with scene.producer() as producer:
        late = await transaction(scene, 3, [b"a"])
        await scene.leave()
        outcome = await producer.transact(late)
        assert outcome.ending is Ending.ABORTED
        assert outcome.error is not None
        assert outcome.error.code() in GROUP_HAS_MOVED_ON
        assert await scene.committed() is None
        assert await scene.seen() == []


@on_scene
async def too_much_metadata(scene: Scene) -> None:
    """Too much metadata aborts the transaction, with the error that says so; with less it goes through."""
    async with scene.producer() as producer:
        outcome = await producer.transact(await transaction(scene, 3, [b"a"], metadata="x" * 5000))
        assert outcome.ending is Ending.ABORTED
        assert outcome.error is not None
        assert outcome.error.code() == ClientError.OFFSET_METADATA_TOO_LARGE
        assert (await producer.transact(await transaction(scene, 3, [b"b"]))).ending is Ending.COMMITTED
        await scene.sees([b"b"])


@on_scene
async def record_too_large(scene: Scene) -> None:
    """A record that is too large is named, nothing is seen of its transaction, and others go through."""
    await _is_refused(scene, ProducerRecord(scene.output, b"x" * (scene.stage.largest + 1000)))


@on_scene
async def no_such_topic(scene: Scene) -> None:
    """So is one for a topic that isn't there."""
    await _is_refused(scene, ProducerRecord(f"{scene.output}-not", b"x"))


@on_scene
async def no_such_partition(scene: Scene) -> None:
    """So is one for a partition that isn't there."""
    await _is_refused(scene, ProducerRecord(scene.output, b"x", partition=2))


@on_scene
async def another_takes_over(scene: Scene) -> None:
    """Who opens later with the same identity shuts the other out, whose open transaction is never seen."""
    async with scene.producer() as first:
        await first.transact(await transaction(scene, 3, [b"a"]))
        async with scene.producer() as second:
            with pytest.raises(ProducerFencedError):
                await first.transact(await transaction(scene, 4, [b"b"]))
            assert (await second.transact(await transaction(scene, 4, [b"c"]))).ending is Ending.COMMITTED
        await scene.sees([b"a", b"c"])


@on_scene
async def nobody_waits(scene: Scene) -> None:
    """Who stops waiting doesn't stop the transaction: its outcome is to be had later."""
    async with scene.producer() as producer:
        given = await transaction(scene, 3, [b"a"])
        with trio.CancelScope() as scope:
            scope.cancel()
            await producer.transact(given)
        assert scope.cancelled_caught
        assert (await producer.settle()).ending is Ending.COMMITTED
        await scene.sees([b"a"])


TRANSACTING: Final[Sequence[Clause]] = (
    all_is_seen,
    offsets_alone,
    not_wanted_any_more,
    group_has_moved_on,
    too_much_metadata,
    record_too_large,
    no_such_topic,
    no_such_partition,
    another_takes_over,
    nobody_waits,
)


async def transaction(
    scene: Source,
    offset: int,
    values: Sequence[bytes] = (),
    *,
    metadata: str | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Transaction:
    """A transaction up to an offset, of the records with these values, all in one partition."""
    entry = CommitEntry(scene.source, EPOCH, offset, metadata or f"of {offset}")
    records = [ProducerRecord(scene.output, value, partition=0) for value in values]
    return Transaction(records, [entry], await scene.metadata([entry]), is_wanted)


async def _is_refused(scene: Scene, record: ProducerRecord) -> None:
    async with scene.producer() as producer:
        given = await transaction(scene, 3, [b"a"])
        with pytest.raises(RefusedError) as caught:
            await producer.transact(
                Transaction([*given.records, record], given.offsets, given.group_metadata, lambda: True)
            )
        assert caught.value.record is record
        assert await scene.committed() is None
        while (await producer.transact(await transaction(scene, 4, [b"b"]))).ending is not Ending.COMMITTED:
            pass  # the first after one that failed may fail, too
        await scene.sees([b"b"])
