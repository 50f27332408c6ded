"""Clauses: how an assigned partition is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio
from confluent_kafka import KafkaError as ClientError
from contract.members import Reader, assigned, connected, next_of
from contract.stage import QUIET, Clause, Stage, consuming, topic_with

from trio_parallel_kafka.control.client import Assigned, Client, Committed, Fetched, Revoked, StartAt
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry


async def from_joining_to_leaving(stage: Stage) -> None:
    """Assigned, told where to start, reading in order from there, revoked, committing in that: the whole way."""
    topic = await topic_with(stage, 10, 10)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    config = consuming(stage, topic)
    async with connected(config) as client:
        client.subscribe([topic])
        client.hurry()
        event = await next_of(client, Assigned)
        assert set(event.partitions) == {first, second}
        assert await client.committed([first, second]) == {first: Committed(), second: Committed()}
        assert await client.offset_range(first) == (0, 10)
        event.reply({first: StartAt(4, 1), second: StartAt(9, 2)})
        reader = Reader(client)
        await reader.read(lambda: len(reader.offsets(0)) == 6 and reader.offsets(1))
        assert reader.offsets(0, epoch=1) == [4, 5, 6, 7, 8, 9]
        assert reader.offsets(1, epoch=2) == [9]
        assert reader.offsets(0) == reader.offsets(0, epoch=1)

        client.unsubscribe()
        event = await next_of(client, Revoked)
        assert set(event.partitions) == {first, second}
        assert await client.commit([CommitEntry(first, 1, 10, "all")]) == {first: None}
        event.reply()
        assert await client.committed([first]) == {first: Committed(10, "all")}
    assert await stage.committed(config.group_id, topic) == {0: (10, "all")}


async def two_batches_at_a_time(stage: Stage) -> None:
    """While two batches aren't taken no other comes; while a partition is paused, while one isn't."""
    topic = await topic_with(stage, 5, 0)
    async with assigned(consuming(stage, topic), StartAt(0, 1), StartAt(0, 1)) as client:
        batches = [await next_of(client, Fetched)]
        await stage.produce(topic, [b"5"], 0)
        batches.append(await next_of(client, Fetched))
        await stage.produce(topic, [b"6"], 0)
        await no_event(client)
        client.pause([TopicPartition(topic, 1)])
        batches[0].taken()
        await no_event(client)
        batches[1].taken()
        reader = Reader(client)
        await reader.read(lambda: reader.offsets(0)[-1:] == [6])


async def no_event(client: Client) -> None:
    """Nothing comes for a while."""
    with trio.move_on_after(QUIET):
        event = await client.next_event()
        raise AssertionError(f"{event} came")


async def a_paused_partition(stage: Stage) -> None:
    """Nothing of a paused partition comes; resumed, it goes on where it was."""
    topic = await topic_with(stage, 0, 0)
    first = TopicPartition(topic, 0)
    async with assigned(consuming(stage, topic), StartAt(0, 1), StartAt(0, 1)) as client:
        client.pause([first])
        await client.committed([first])  # served after the pause
        for partition in range(2):
            await stage.produce(topic, [b"1", b"2", b"3"], partition)
        reader = Reader(client)
        await reader.read(lambda: len(reader.offsets(1)) == 3)
        await reader.idle(QUIET)
        assert reader.offsets(0) == []
        client.resume({first: 0})
        await reader.read(lambda: len(reader.offsets(0)) == 3)
        assert reader.offsets(0) == reader.offsets(1) == [0, 1, 2]


async def all_paused(stage: Stage) -> None:
    """Resumed, where all that is owned was paused, reading goes on where the resume says."""
    topic = await topic_with(stage, 5)
    place = TopicPartition(topic, 0)
    async with assigned(consuming(stage, topic), StartAt(0, 1)) as client:
        reader = Reader(client)
        await reader.read(lambda: len(reader.offsets(0)) == 5)
        client.pause([place])
        await client.committed([place])
        await stage.produce(topic, [b"5", b"6"], 0)
        client.resume({place: 4})
        await reader.read(lambda: len(reader.offsets(0)) == 8)
        assert reader.offsets(0) == [0, 1, 2, 3, 4, 4, 5, 6]


async def what_a_reply_leaves_out(stage: Stage) -> None:
    """A partition without a start stays unread until it is started, and one that is started paused until a resume."""
    topic = await topic_with(stage, 3, 3)
    second = TopicPartition(topic, 1)
    async with assigned(consuming(stage, topic), StartAt(0, 1), None) as client:
        reader = Reader(client)
        await reader.read(lambda: len(reader.offsets(0)) == 3)
        await reader.idle(QUIET)
        assert reader.offsets(1) == []
        await client.start(second, StartAt(1, 2, is_paused=True))
        await reader.idle(QUIET)
        assert reader.offsets(1) == []
        client.resume({second: 1})
        await reader.read(lambda: len(reader.offsets(1)) == 2)
        assert reader.offsets(1, epoch=2) == [1, 2]


async def started_elsewhere(stage: Stage) -> None:
    """A partition that is read can be started elsewhere; what is read and committed is told apart by the epoch."""
    topic = await topic_with(stage, 5)
    place = TopicPartition(topic, 0)
    async with assigned(consuming(stage, topic), StartAt(0, 1)) as client:
        reader = Reader(client)
        await reader.read(lambda: reader.errors(0))
        await client.start(place, StartAt(2, 7))
        await reader.read(lambda: len(reader.offsets(0)) == 8 and len(reader.errors(0)) == 2)
        assert reader.errors(0) == [(ClientError._PARTITION_EOF, 5)] * 2
        assert reader.offsets(0, epoch=1) == [0, 1, 2, 3, 4]
        assert reader.offsets(0, epoch=7) == [2, 3, 4]
        refused = (await client.commit([CommitEntry(place, 1, 5, "")]))[place]
        assert refused is not None
        assert refused.code() == ClientError._STATE
        assert await client.commit([CommitEntry(place, 7, 4, "")]) == {place: None}


async def nobody_s_start(stage: Stage) -> None:
    """To start a partition that isn't owned does nothing."""
    topic = await topic_with(stage, 3)
    async with assigned(consuming(stage, topic), StartAt(0, 1)) as client:
        await client.start(TopicPartition(topic, 5), StartAt(0, 2))
        client.pause([TopicPartition(topic, 5)])
        client.resume({TopicPartition(topic, 5): 0})
        reader = Reader(client)
        await reader.read(lambda: len(reader.offsets(0)) == 3)


async def the_end_of_a_partition(stage: Stage) -> None:
    """At its end a partition says so, with the offset that comes next; again after more records; empty ones, too."""
    topic = await topic_with(stage, 3, 0)
    async with assigned(consuming(stage, topic), StartAt(0, 1), StartAt(0, 1)) as client:
        reader = Reader(client)
        await reader.read(lambda: reader.errors(0) and reader.errors(1))
        await stage.produce(topic, [b"3"], 0)
        await reader.read(lambda: len(reader.errors(0)) == 2)
        assert reader.errors(0) == [(ClientError._PARTITION_EOF, 3), (ClientError._PARTITION_EOF, 4)]
        assert reader.errors(1) == [(ClientError._PARTITION_EOF, 0)]


async def an_offset_that_is_not_there(stage: Stage) -> None:
    """A partition that is to be read beyond its end says so once, and stands still until it is started elsewhere."""
    topic = await topic_with(stage, 3, 3)
    place = TopicPartition(topic, 0)
    async with assigned(consuming(stage, topic), StartAt(100, 1), StartAt(0, 1)) as client:
        reader = Reader(client)
        await reader.read(lambda: reader.errors(0) and len(reader.offsets(1)) == 3)
        await reader.idle(QUIET)
        assert [code for code, _ in reader.errors(0)] == [ClientError._AUTO_OFFSET_RESET]
        assert reader.offsets(0) == []
        await client.start(place, StartAt(1, 2))
        await reader.read(lambda: len(reader.offsets(0)) == 2)
        assert reader.offsets(0, epoch=2) == [1, 2]


async def deleted_records(stage: Stage) -> None:
    """Below the first record that is still there it is the same; where the log begins is to be had."""
    topic = await topic_with(stage, 10)
    place = TopicPartition(topic, 0)
    await stage.delete_records(topic, 0, 6)
    async with assigned(consuming(stage, topic), StartAt(2, 1)) as client:
        reader = Reader(client)
        await reader.read(lambda: reader.errors(0))
        assert [code for code, _ in reader.errors(0)] == [ClientError._AUTO_OFFSET_RESET]
        assert await client.offset_range(place) == (6, 10)
        await client.start(place, StartAt(6, 2))
        await reader.read(lambda: len(reader.offsets(0)) == 4)
        assert reader.offsets(0) == [6, 7, 8, 9]


READING: Final[Sequence[Clause]] = (
    from_joining_to_leaving,
    two_batches_at_a_time,
    a_paused_partition,
    all_paused,
    what_a_reply_leaves_out,
    started_elsewhere,
    nobody_s_start,
    the_end_of_a_partition,
    an_offset_that_is_not_there,
    deleted_records,
)
