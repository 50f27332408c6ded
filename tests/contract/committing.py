"""Clauses: commits, and what is to be asked about topics and groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import pytest
from confluent_kafka import KafkaError as ClientError
from contract.members import assigned, connected, next_of
from contract.stage import Clause, Stage, consuming, topic_with

from trio_parallel_kafka.control.client import Assigned, Committed, Revoked, StartAt
from trio_parallel_kafka.control.cluster import current_cluster
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.core.offset_map import MAX_METADATA_LENGTH
from trio_parallel_kafka.errors import TopicNotFoundError


async def acknowledged(stage: Stage) -> None:
    """A commit is acknowledged and can be read back, metadata and all; a later one replaces it, also a lower one."""
    topic = await topic_with(stage, 5, 5)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    config = consuming(stage, topic)
    async with assigned(config, StartAt(0, 1), StartAt(0, 1)) as client:
        entries = [CommitEntry(first, 1, 4, "tpk: ü"), CommitEntry(second, 1, 2, "")]
        assert await client.commit(entries) == {first: None, second: None}
        assert await client.committed([first, second]) == {first: Committed(4, "tpk: ü"), second: Committed(2, "")}
        assert await client.commit([CommitEntry(first, 1, 3, "less")]) == {first: None}
        assert await client.committed([first]) == {first: Committed(3, "less")}
    assert await stage.committed(config.group_id, topic) == {0: (3, "less"), 1: (2, "")}


async def of_another_assignment(stage: Stage) -> None:
    """What isn't owned in the entry's assignment isn't committed; entries beside it are."""
    topic = await topic_with(stage, 5, 5, 5)
    first, second, third = (TopicPartition(topic, number) for number in range(3))
    nobody_s = TopicPartition(topic, 9)
    config = consuming(stage, topic)
    async with assigned(config, StartAt(0, 1), StartAt(0, 2), None) as client:
        entries = [CommitEntry(first, 1, 4, ""), CommitEntry(second, 1, 4, "")]
        results = await client.commit([*entries, CommitEntry(third, 3, 4, ""), CommitEntry(nobody_s, 1, 4, "")])
        assert _codes(results.values()) == [None, ClientError._STATE, ClientError._STATE, ClientError._STATE]
        assert _codes((await client.commit([CommitEntry(second, 9, 1, "")])).values()) == [ClientError._STATE]
    assert await stage.committed(config.group_id, topic) == {0: (4, "")}


async def after_it_was_let_go(stage: Stage) -> None:
    """Nor is what was let go."""
    topic = await topic_with(stage, 5)
    place = TopicPartition(topic, 0)
    config = consuming(stage, topic)
    async with connected(config) as client:
        client.subscribe([topic])
        client.hurry()
        (await next_of(client, Assigned)).reply({place: StartAt(0, 1)})
        client.unsubscribe()
        (await next_of(client, Revoked)).reply()
        assert _codes((await client.commit([CommitEntry(place, 1, 5, "")])).values()) == [ClientError._STATE]
    assert await stage.committed(config.group_id, topic) == {}


async def metadata_too_large(stage: Stage) -> None:
    """Metadata of the length that the library keeps to is taken, too much is refused.

    The entries beside it are taken, but librdkafka says of all that they were refused.
    """
    topic = await topic_with(stage, 5, 5)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    async with assigned(consuming(stage, topic), StartAt(0, 1), StartAt(0, 1)) as client:
        longest = CommitEntry(first, 1, 1, "x" * MAX_METADATA_LENGTH)
        assert await client.commit([longest]) == {first: None}
        entries = [CommitEntry(first, 1, 2, "x" * (MAX_METADATA_LENGTH + 1)), CommitEntry(second, 1, 2, "")]
        refusal = ClientError.OFFSET_METADATA_TOO_LARGE if stage.bounds_metadata else None
        assert _codes((await client.commit(entries)).values()) == [refusal, refusal]
        found = await client.committed([first, second])
        assert found[first].offset == (1 if stage.bounds_metadata else 2)
        assert found[second].offset == 2


async def who_commits(stage: Stage) -> None:
    """A producer is told who commits, for what is owned in its assignment alone."""
    topic = await topic_with(stage, 5, 5)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    async with connected(consuming(stage, topic)) as client:
        client.subscribe([topic])
        client.hurry()
        (await next_of(client, Assigned)).reply({first: StartAt(0, 1), second: StartAt(0, 2)})
        entries = [CommitEntry(first, 1, 4, ""), CommitEntry(second, 2, 4, "")]
        assert await client.group_metadata(entries) is not None
        assert await client.group_metadata([entries[0], CommitEntry(second, 1, 4, "")]) is None
        client.unsubscribe()
        revoked = await next_of(client, Revoked)
        assert await client.group_metadata(entries) is not None
        revoked.reply()
        assert await client.group_metadata(entries) is None


async def topics(stage: Stage) -> None:
    """The names of all topics, the numbers of partitions of those subscribed, and ids that are each topic's own."""
    orders, refunds = await topic_with(stage, 0, 0), await topic_with(stage, 0, 0, 0)
    async with connected(consuming(stage, orders)) as client:
        assert await client.topics() >= {orders, refunds}
        assert await client.partition_counts() == {orders: 2}
        ids = await client.topic_ids([orders, refunds, stage.unique("missing")])
        assert ids.keys() == {orders, refunds}
        assert {len(each) for each in ids.values()} == {16}
        assert len(set(ids.values())) == 2
        assert await client.topic_ids([refunds]) == {refunds: ids[refunds]}
    async with connected(consuming(stage, "^" + orders)) as client:
        counts = await client.partition_counts()
        assert (counts[orders], counts[refunds]) == (2, 3)


async def where_a_log_begins_and_ends(stage: Stage) -> None:
    """The first offset, and the next to be written."""
    topic = await topic_with(stage, 4, 0)
    async with connected(consuming(stage, topic)) as client:
        assert await client.offset_range(TopicPartition(topic, 0)) == (0, 4)
        assert await client.offset_range(TopicPartition(topic, 1)) == (0, 0)


async def a_missing_topic(stage: Stage) -> None:
    """A topic that isn't there is told by name, before anything is subscribed."""
    missing = stage.unique("missing")
    config = consuming(stage, missing, connect_timeout=0.5)
    async with current_cluster.get().open_client(config, []) as client:
        with pytest.raises(TopicNotFoundError) as caught:
            await client.connect()
        assert caught.value.topic == missing


COMMITTING: Final[Sequence[Clause]] = (
    acknowledged,
    of_another_assignment,
    after_it_was_let_go,
    metadata_too_large,
    who_commits,
    topics,
    where_a_log_begins_and_ends,
    a_missing_topic,
)


def _codes(errors: Iterable[ClientError | None]) -> list[int | None]:
    return [None if error is None else error.code() for error in errors]
