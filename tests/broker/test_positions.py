"""Where reading starts on a real broker: moved, lost, foreign and missing offsets; markers, gaps, recreated topics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from broker.cluster import Cluster, NewRecord
from broker.scenario import (
    PATIENCE,
    Notes,
    committed_offsets,
    configured,
    handled,
    numbered,
    running,
    topic_with,
    until,
    value_in,
    values,
)
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions

from trio_parallel_kafka import OffsetResetError, parallel_consumer
from trio_parallel_kafka.control import controller

# Offsets that somebody else moves


@pytest.mark.parametrize("target", [3, 12], ids=["lower", "higher"])
async def test_offset_moved_by_an_operator(kafka: Cluster, target: int) -> None:
    """A group's offset that was moved while it was down is exactly where it goes on."""
    topic = topic_with(kafka, numbered(0, 10))
    config = configured(kafka, topic)
    notes = Notes(hangs=value_in(5))
    async with running(config, notes):
        await notes.wait_done(9)
    kafka.produce(topic, numbered(10, 20))
    kafka.commit(config.group_id, topic, {0: (target, "")})
    assert values(await handled(config, 20 - target)) == list(range(target, 20))
    assert committed_offsets(kafka, config) == {0: 20}


PROTOCOLS = {
    "range": {"partition.assignment.strategy": "range"},
    "cooperative-sticky": {"partition.assignment.strategy": "cooperative-sticky"},
    "consumer": {"group.protocol": "consumer"},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_offsets_deleted_by_retention(kafka: Cluster, protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    """Records that the broker deleted before they were read are counted and logged, at the start and later.

    The client gives such a partition up and refuses to seek in it. What else is assigned goes on.
    """
    topic = topic_with(kafka, [*numbered(0, 20), *numbered(100, 110, partition=1)], partitions=2)
    config = configured(
        kafka, topic, max_buffered_records=4, max_concurrency=20, kafka=PROTOCOLS[protocol], commit_interval=0.1
    )
    notes = Notes(hangs=value_in(3, 5))
    async with running(config, notes):
        await notes.wait_done(18 + 10)
    assert committed_offsets(kafka, config) == {0: 3, 1: 10}
    kafka.delete_records_before(topic, {0: 8})
    kafka.produce(topic, [*numbered(20, 25), *numbered(110, 115, partition=1)])

    may_end = trio.Event()
    notes = Notes(work=may_end.wait)
    async with running(config, notes) as pc:
        # Eight handlers wait, and both partitions are full.
        await notes.wait_started(8)
        assert pc.statistics().totals.lost_to_retention == 5
        assert f"{topic}[0]: 5 offsets from 3 on were deleted by the broker before they were read" in caplog.text
        await until(lambda: {each.paused for each in pc.statistics().partitions} == {"buffer full"})
        await trio.to_thread.run_sync(kafka.produce, topic, numbered(25, 40))
        await trio.to_thread.run_sync(kafka.delete_records_before, topic, {0: 36})
        may_end.set()
        await until(lambda: 39 in values(notes.done) and 114 in values(notes.done))
        lost = pc.statistics().totals.lost_to_retention - 5
        assert {each.assignment_epoch for each in pc.statistics().partitions} == {1, 2}
    print(f"\n{protocol}: 5 offsets lost before it started, {lost} while it ran")
    assert lost > 0
    assert values(notes.done) == [*range(20, 36 - lost), *range(36, 40), *range(110, 115)]
    assert committed_offsets(kafka, config) == {0: 40, 1: 15}


@pytest.mark.parametrize("policy", ["earliest", "latest"])
async def test_deleted_offsets_start_anew(kafka: Cluster, policy: str) -> None:
    """A group whose committed offsets were deleted starts where auto_offset_reset says."""
    topic = topic_with(kafka, numbered(0, 10))
    config = configured(kafka, topic, auto_offset_reset=policy)
    kafka.commit(config.group_id, topic, {0: (7, "")})
    assert values(await handled(config, 3)) == [7, 8, 9]
    kafka.delete_offsets(config.group_id)
    notes = Notes()
    async with running(config, notes):
        await trio.to_thread.run_sync(kafka.produce, topic, numbered(10, 12))
        await notes.wait_done(12 if policy == "earliest" else 2)
    assert values(notes.done) == list(range(0 if policy == "earliest" else 10, 12))


async def test_no_offset_and_no_reset(kafka: Cluster) -> None:
    """With auto_offset_reset "none" a group without a committed offset, or with one out of the log, is an error."""
    topic = topic_with(kafka, numbered(0, 10))
    config = configured(kafka, topic, auto_offset_reset="none")
    with pytest.raises(OffsetResetError, match="nothing is committed") as missing, trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc:
            await pc.run(Notes())
    assert (missing.value.topic, missing.value.partition) == (topic, 0)
    assert committed_offsets(kafka, config) == {}

    kafka.commit(config.group_id, topic, {0: (11, "")})
    with pytest.raises(OffsetResetError, match=r"offset 11 .* isn't there") as outside, trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc:
            await pc.run(Notes())
    assert (outside.value.topic, outside.value.partition, outside.value.offset) == (topic, 0, 11)

    kafka.commit(config.group_id, topic, {0: (8, "")})
    assert values(await handled(config, 2)) == [8, 9]


# Gaps


async def test_compacted_topic(kafka: Cluster) -> None:
    """Compaction takes the record that held the position, and others: the restart reads what is left and is done."""
    topic = topic_with(
        kafka,
        numbered(0, 40),
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.001",
        max_compaction_lag_ms="200",
        delete_retention_ms="0",
    )
    config = configured(kafka, topic)
    notes = Notes(hangs=value_in(3, 30))
    async with running(config, notes):
        await notes.wait_done(38)
    assert committed_offsets(kafka, config) == {0: 3}
    # New values for most keys; the last record alone stays in the active segment, which isn't compacted.
    kafka.produce(topic, [(b"key-%d" % n, b"%d" % (n + 100)) for n in range(30)])
    with trio.fail_after(PATIENCE):
        while True:
            await trio.sleep(0.3)
            kafka.produce(topic, [(b"last", b"1000")])
            left = await trio.to_thread.run_sync(offsets_in, kafka, topic)
            if not left & set(range(30)):
                break
    end = kafka.end_offsets(topic)[0]
    expected = sorted(offset for offset in left if offset == 30 or offset >= 40)
    assert len(left) < end
    again = await handled(config, len(expected) - 1)
    # The broker may have compacted further by now.
    found = [record.offset for record in again]
    assert set(found) <= set(expected)
    assert {30, *range(40, 70)} <= set(found)
    assert len(found) == len(set(found))
    assert committed_offsets(kafka, config) == {0: end}


def offsets_in(kafka: Cluster, topic: str) -> set[int]:
    """The offsets that can be read from the topic's only partition."""
    end = kafka.end_offsets(topic)[0]
    found: set[int] = set()
    with Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "reads alone"}) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        while end - 1 not in found:
            found |= {message.offset() or 0 for message in consumer.consume(500, 0.1) if message.error() is None}
    return found


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
async def test_transaction_markers(kafka: Cluster, isolation: str) -> None:
    """Markers and aborted records stall nothing: when idle, the committed offset is the log's end."""
    topic = topic_with(kafka, [], partitions=3)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    kept: list[int] = []
    aborted: list[int] = []

    def transact(numbers: range, partition: int, *, commit: bool) -> None:
        producer.begin_transaction()
        for n in numbers:
            producer.produce(topic, b"%d" % n, b"%d" % n, partition)
        producer.flush(30)
        (producer.commit_transaction if commit else producer.abort_transaction)(30)
        (kept if commit else aborted).extend(numbers)

    transact(range(10), 0, commit=True)
    transact(range(10, 20), 0, commit=False)
    transact(range(20, 23), 1, commit=False)  # nothing but what was aborted
    for n in range(30, 60):
        transact(range(n, n + 1), 2, commit=n % 3 == 0)
    config = configured(kafka, topic, commit_interval=0.1, kafka={"isolation.level": isolation})
    expected = sorted(kept if isolation == "read_committed" else kept + aborted)
    notes = Notes()
    async with running(config, notes) as pc:
        await notes.wait_done(len(expected))
        # The log's end, which no record has.
        end = await trio.to_thread.run_sync(kafka.end_offsets, topic)
        await until(lambda: {each.partition: each.committed for each in pc.statistics().partitions} == end)

        # One that is open while the consumer waits, then aborted; and one more.
        producer.begin_transaction()
        producer.produce(topic, b"100", b"100", 0)
        await trio.to_thread.run_sync(producer.flush, 30)
        if isolation == "read_uncommitted":
            await notes.wait_done(len(expected) + 1)
        await trio.to_thread.run_sync(producer.abort_transaction, 30)
        await trio.to_thread.run_sync(lambda: transact(range(101, 102), 0, commit=True))
        expected += [101] if isolation == "read_committed" else [100, 101]
        await notes.wait_done(len(expected))
        end = await trio.to_thread.run_sync(kafka.end_offsets, topic)
        await until(lambda: {each.partition: each.committed for each in pc.statistics().partitions} == end)
        assert {each.buffered_records for each in pc.statistics().partitions} == {0}
    assert values(notes.done) == expected
    assert await handled(config, 0) == []
    assert committed_offsets(kafka, config) == kafka.end_offsets(topic)


# Coming from other consumers

JAVA_MAPS = json.loads((Path(__file__).parent.parent / "data" / "java_parallel_consumer_maps.json").read_text())


async def test_moving_over_from_other_consumers(kafka: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Maps of the Java parallel-consumer and of Pyrallel: what they completed is skipped, if that is certain.

    Run lengths that don't say where they end, damaged maps and those of nobody known are replayed, with a warning.
    """
    maps: list[tuple[int, str, list[tuple[int, int]]]] = [
        (each["committed"], each["metadata"], [tuple(pair) for pair in each["completed_above"]]) for each in JAVA_MAPS
    ]
    kinds = [each["kind"] for each in JAVA_MAPS]
    maps += [(5, "R7-9,11", [(7, 9), (11, 11)]), (5, "B5:0602", [(6, 7), (14, 14)])]
    kinds += ["R", "B"]
    broken = [(5, "O"), (5, "B6:06"), (5, "bAASFgA="), (5, "tpk1.AAAA"), (5, "tpk9.AAAA"), (5, "{'a': 1}"), (5, "x")]
    maps += [(committed, text, []) for committed, text in broken]
    kinds += ["broken"] * len(broken)
    ends = [max([committed, *(last for _, last in above)]) + 3 for committed, _, above in maps]
    # Only what lies above the committed offset matters: the rest needn't be there.
    topic = topic_with(kafka, [], partitions=len(maps))
    config = configured(kafka, topic, max_buffered_records=20_000)
    kafka.produce(topic, (NewRecord(None, None, partition) for partition, end in enumerate(ends) for _ in range(end)))
    kafka.commit(config.group_id, topic, {n: (committed, text) for n, (committed, text, _) in enumerate(maps)})

    uncertain = [n for n, kind in enumerate(kinds) if kind in ("n", "broken")]
    expected = {}
    for n, (committed, _, above) in enumerate(maps):
        skipped = {offset for first, last in above for offset in range(first, last + 1)}
        expected[n] = sorted(set(range(committed, ends[n])) - (set() if n in uncertain else skipped))
    found = await handled(config, sum(map(len, expected.values())))
    for n, offsets in expected.items():
        assert sorted(record.offset for record in found if record.partition == n) == offsets, (n, kinds[n])
    warned = {n for n in range(len(maps)) if f"{topic}[{n}] at offset {maps[n][0]}: commit metadata" in caplog.text}
    assert warned == set(uncertain)
    assert committed_offsets(kafka, config) == dict(enumerate(ends))


# Topics that come and go


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics are looked at once a second."""
    monkeypatch.setattr(controller, "CHECK_TOPICS", 1.0)


def recreate(kafka: Cluster, topic: str, records: list[NewRecord]) -> None:
    """Delete a topic and make it again under the same name, with other records."""
    kafka.delete_topic(topic)
    kafka.create_topic(topic)
    kafka.produce(topic, records)


@pytest.mark.parametrize("count", [5, 30], ids=["shorter", "longer"])
@pytest.mark.parametrize("restored", [False, True], ids=["offsets gone", "offsets restored"])
async def test_topic_made_again_while_down(
    kafka: Cluster, count: int, restored: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A topic that was deleted and made again while the group was down is read from its start.

    The broker forgets a deleted topic's offsets. A tool that has saved them may put them back.
    """
    topic = topic_with(kafka, numbered(0, 10))
    config = configured(kafka, topic)
    assert len(await handled(config, 10)) == 10
    saved = kafka.committed(config.group_id, topic)
    recreate(kafka, topic, numbered(100, 100 + count))
    if restored:
        kafka.commit(config.group_id, topic, saved)
    assert values(await handled(config, count)) == list(range(100, 100 + count))
    assert committed_offsets(kafka, config) == {0: count}
    assert (f"{topic}[0]: the committed offset 10 is of a topic that was deleted" in caplog.text) == restored


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("count", [5, 30], ids=["shorter", "longer"])
async def test_topic_made_again_while_running(kafka: Cluster, count: int, caplog: pytest.LogCaptureFixture) -> None:
    """A topic that is deleted and made again under a running consumer is read from its start, perhaps once more."""
    topic = topic_with(kafka, numbered(0, 10))
    config = configured(kafka, topic, kafka={"topic.metadata.refresh.interval.ms": 500})
    notes = Notes()
    async with running(config, notes) as pc:
        await notes.wait_done(10)
        await until(lambda: pc.statistics().partitions[0].committed == 10)
        await trio.to_thread.run_sync(recreate, kafka, topic, numbered(100, 100 + count))
        await until(lambda: set(range(100, 100 + count)) <= set(values(notes.done)))
    # A record may have been read before the change was noticed, and again from the start.
    assert set(values(notes.done)) == {*range(10), *range(100, 100 + count)}
    assert committed_offsets(kafka, config) == {0: count}
    assert await handled(config, 0) == []


async def test_latest(kafka: Cluster) -> None:
    """Under "latest" a new group starts at the end, once; from then on nothing is skipped.

    Neither what is produced while it is down, nor what is written to a partition before it is first assigned.
    """
    topic = topic_with(kafka, numbered(0, 10))
    config = configured(kafka, topic, auto_offset_reset="latest", commit_interval=3600)
    async with running(config, Notes()) as pc:
        await until(lambda: pc.statistics().partitions[0].committed == 10)
    kafka.produce(topic, numbered(10, 15))
    assert values(await handled(config, 5)) == list(range(10, 15))

    config = configured(
        kafka,
        topic,
        group_id=config.group_id,
        auto_offset_reset="latest",
        kafka={"topic.metadata.refresh.interval.ms": 500},
    )
    notes = Notes()
    async with running(config, notes) as pc:
        add_partition = kafka.admin.create_partitions([NewPartitions(topic, 2)])
        await trio.to_thread.run_sync(add_partition[topic].result)
        await trio.to_thread.run_sync(kafka.produce, topic, numbered(20, 25, partition=1))
        await notes.wait_done(5)
        assert len(pc.statistics().partitions) == 2
    assert values(notes.done) == list(range(20, 25))
    assert committed_offsets(kafka, config) == {0: 15, 1: 5}


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_pattern(kafka: Cluster, protocol: str) -> None:
    """A pattern takes in a topic that is made later, and no other."""
    prefix = kafka.unique("pattern")
    names = [f"{prefix}-{n}" for n in range(2)]
    other = kafka.unique("other")
    for name in (names[0], other):
        kafka.create_topic(name)
        kafka.produce(name, numbered(0, 5))
    refresh = {"topic.metadata.refresh.interval.ms": 500, "group.protocol": protocol}
    config = configured(kafka, f"^{prefix}-.*", kafka=refresh)
    notes = Notes()
    async with running(config, notes):
        await notes.wait_done(5)
        await trio.to_thread.run_sync(kafka.create_topic, names[1])
        await trio.to_thread.run_sync(kafka.produce, names[1], numbered(5, 10))
        await notes.wait_done(10)
    assert sorted((record.topic, int(record.value or b"")) for record in notes.done) == [
        (names[n // 5], n) for n in range(10)
    ]
    for name in names:
        assert kafka.committed(config.group_id, name)[0][0] == 5
        kafka.delete_topic(name)
