"""What a transactional producer does: the fake one is held against it, and the real one on a real broker.

``from shell.transaction_contract import CONTRACT``: functions of a :class:`Stage`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

import pytest
import trio
from confluent_kafka import KafkaError as ClientError

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


class Stage(Protocol):
    """A topic to read with a member that owns its one partition, and a topic to write to, of two partitions.

    Attributes:
        source: the partition that is read.
        output: the topic to write to.
        largest: bytes that a value may have, or a little less.
    """

    source: TopicPartition
    output: str
    largest: int

    def producer(self) -> AbstractAsyncContextManager[MakesTransactions]:
        """A producer, always with the same identity, for the length of a block; it isn't opened yet."""

    async def metadata(self) -> object:
        """The metadata of the group, for its member."""

    async def leave(self) -> None:
        """The member leaves the group."""

    async def seen(self) -> list[bytes]:
        """The values that a reader sees who reads only what is committed."""

    async def committed(self) -> tuple[int, str] | None:
        """The group's committed offset and metadata."""


async def all_is_seen(stage: Stage) -> None:
    """Of a committed transaction the records are seen, in order, and the offset with its metadata."""
    async with opened(stage) as producer:
        outcome = await producer.transact(await transaction(stage, 3, [b"a", b"b"]))
        assert outcome.ending is Ending.COMMITTED
        assert await stage.seen() == [b"a", b"b"]
        assert await stage.committed() == (3, "of 3")
        await producer.transact(await transaction(stage, 4, [b"c"]))
        assert await stage.seen() == [b"a", b"b", b"c"]
        assert await stage.committed() == (4, "of 4")


async def offsets_alone(stage: Stage) -> None:
    """A transaction may be without records."""
    async with opened(stage) as producer:
        outcome = await producer.transact(await transaction(stage, 3))
        assert outcome.ending is Ending.COMMITTED
        assert await stage.committed() == (3, "of 3")


async def not_wanted_any_more(stage: Stage) -> None:
    """What isn't wanted any more is aborted; nothing of it is seen, and the next goes through."""
    async with opened(stage) as producer:
        outcome = await producer.transact(await transaction(stage, 3, [b"a"], is_wanted=lambda: False))
        assert outcome.ending is Ending.ABORTED
        assert await stage.committed() is None
        assert (await producer.transact(await transaction(stage, 4, [b"b"]))).ending is Ending.COMMITTED
        assert await stage.seen() == [b"b"]


async def group_has_moved_on(stage: Stage) -> None:
    """A transaction of a member that is gone is aborted, with an error that says so."""
    async with opened(stage) as producer:
        late = await transaction(stage, 3, [b"a"])
        await stage.leave()
        outcome = await producer.transact(late)
        assert outcome.ending is Ending.ABORTED
        assert outcome.error is not None
        assert outcome.error.code() in GROUP_HAS_MOVED_ON
        assert await stage.committed() is None
        assert await stage.seen() == []


async def metadata_too_large(stage: Stage) -> None:
    """Too much metadata aborts the transaction, with the error that says so; with less it goes through."""
    async with opened(stage) as producer:
        outcome = await producer.transact(await transaction(stage, 3, [b"a"], metadata="x" * 5000))
        assert outcome.ending is Ending.ABORTED
        assert outcome.error is not None
        assert outcome.error.code() == ClientError.OFFSET_METADATA_TOO_LARGE
        assert (await producer.transact(await transaction(stage, 3, [b"b"]))).ending is Ending.COMMITTED
        assert await stage.seen() == [b"b"]


async def record_too_large(stage: Stage) -> None:
    """A record that is too large is named, nothing is seen of its transaction, and others go through."""
    await _is_refused(stage, ProducerRecord(stage.output, b"x" * (stage.largest + 1000)))


async def no_such_topic(stage: Stage) -> None:
    """So is one for a topic that isn't there."""
    await _is_refused(stage, ProducerRecord(f"{stage.output}-not", b"x"))


async def no_such_partition(stage: Stage) -> None:
    """So is one for a partition that isn't there."""
    await _is_refused(stage, ProducerRecord(stage.output, b"x", partition=2))


async def another_takes_over(stage: Stage) -> None:
    """Who opens later with the same identity shuts the other out, whose open transaction is never seen."""
    async with opened(stage) as first:
        await first.transact(await transaction(stage, 3, [b"a"]))
        async with opened(stage) as second:
            with pytest.raises(ProducerFencedError):
                await first.transact(await transaction(stage, 4, [b"b"]))
            assert (await second.transact(await transaction(stage, 4, [b"c"]))).ending is Ending.COMMITTED
        assert await stage.seen() == [b"a", b"c"]


async def nobody_waits(stage: Stage) -> None:
    """Who stops waiting doesn't stop the transaction: its outcome is to be had later."""
    async with opened(stage) as producer:
        given = await transaction(stage, 3, [b"a"])
        with trio.CancelScope() as scope:
            scope.cancel()
            await producer.transact(given)
        assert scope.cancelled_caught
        assert (await producer.settle()).ending is Ending.COMMITTED
        assert await stage.seen() == [b"a"]


CONTRACT: Final[Sequence[Callable[[Stage], Awaitable[None]]]] = (
    all_is_seen,
    offsets_alone,
    not_wanted_any_more,
    group_has_moved_on,
    metadata_too_large,
    record_too_large,
    no_such_topic,
    no_such_partition,
    another_takes_over,
    nobody_waits,
)


@asynccontextmanager
async def opened(stage: Stage) -> AsyncIterator[MakesTransactions]:
    """A producer that is ready."""
    async with stage.producer() as producer:
        await producer.open()
        yield producer


async def transaction(
    stage: Stage,
    offset: int,
    values: Sequence[bytes] = (),
    *,
    metadata: str | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Transaction:
    """A transaction up to an offset, of the records with these values, all in one partition."""
    entry = CommitEntry(stage.source, 1, offset, metadata or f"of {offset}")
    records = [ProducerRecord(stage.output, value, partition=0) for value in values]
    return Transaction(records, [entry], await stage.metadata(), is_wanted)


async def _is_refused(stage: Stage, record: ProducerRecord) -> None:
    async with opened(stage) as producer:
        given = await transaction(stage, 3, [b"a"])
        with pytest.raises(RefusedError) as caught:
            await producer.transact(
                Transaction([*given.records, record], given.offsets, given.group_metadata, lambda: True)
            )
        assert caught.value.record is record
        assert await stage.committed() is None
        while (await producer.transact(await transaction(stage, 4, [b"b"]))).ending is not Ending.COMMITTED:
            pass  # the first after one that failed may fail, too
        assert await stage.seen() == [b"b"]
