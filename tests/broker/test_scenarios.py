"""Acceptance scenarios on a real broker: restarts, full buffers, bounds, orderings."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
import trio
from broker.cluster import Cluster, NewRecord
from broker.kafka_server import StartKafka
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

from trio_parallel_kafka import Record, parallel_consumer
from trio_parallel_kafka.core.offset_map import MAX_METADATA_LENGTH, decode

# Restarts


@pytest.mark.parametrize("commit_interval", [0.1, 3600], ids=["interval commits", "last commit only"])
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_join_and_leave_three_times(kafka: Cluster, commit_interval: float, protocol: str) -> None:
    """Each of three members, one after another, handles exactly the 20 records that are new."""
    topic = topic_with(kafka, [], partitions=2)
    config = configured(kafka, topic, commit_interval=commit_interval, kafka={"group.protocol": protocol})
    for first in (0, 20, 40):
        kafka.produce(topic, (NewRecord(b"%d" % (n % 7), b"%d" % n) for n in range(first, first + 20)))
        assert values(await handled(config, 20)) == list(range(first, first + 20))
    assert committed_offsets(kafka, config) == kafka.end_offsets(topic)


@pytest.mark.parametrize("commit_interval", [0.1, 3600], ids=["interval commits", "last commit only"])
async def test_only_what_hung_comes_again(kafka: Cluster, commit_interval: float) -> None:
    """Of six records two hang until they are cancelled: after a restart those two come again, and no other."""
    config = configured(kafka, topic_with(kafka, numbered(0, 6)), commit_interval=commit_interval)
    notes = Notes(hangs=value_in(2, 4))
    async with running(config, notes):
        await notes.wait_done(4)
    assert values(notes.done) == [0, 1, 3, 5]
    assert committed_offsets(kafka, config) == {0: 2}

    assert values(await handled(config, 2)) == [2, 4]
    assert committed_offsets(kafka, config) == {0: 6}


async def test_only_what_failed_comes_again(kafka: Cluster) -> None:
    """Two of six records fail at once, after the others: each restart sees those two again, and no other."""
    topic = topic_with(kafka, numbered(0, 6))
    config = configured(kafka, topic)
    notes = Notes()
    failing = 0

    async def fail_two(record: Record) -> None:
        nonlocal failing
        if not value_in(2, 4)(record):
            await notes(record)
            return
        failing += 1
        await until(lambda: len(notes.done) == 4 and failing % 2 == 0)
        raise ValueError(record.value)

    for run in (1, 2):
        with (
            pytest.RaisesGroup(
                pytest.RaisesExc(ValueError, match="b'2'"), pytest.RaisesExc(ValueError, match="b'4'")
            ) as info,
            trio.fail_after(PATIENCE),
        ):
            async with parallel_consumer(config) as pc:
                await pc.run(fail_two)
        raised = sorted(info.value.exceptions, key=str)
        assert [error.__notes__ for error in raised] == [
            [f"while handling topic={topic!r} partition=0 offset={n} key=b'key-{n}' attempt=1"] for n in (2, 4)
        ]
        assert values(notes.started) == [0, 1, 3, 5], f"run {run}"
    assert values(await handled(config, 2)) == [2, 4]
    assert committed_offsets(kafka, config) == {0: 6}


async def test_three_of_ten_thousand_come_again(kafka: Cluster) -> None:
    """Of 10,000 records three hang: after a restart exactly those three come again."""
    config = configured(kafka, topic_with(kafka, numbered(0, 10_000)), max_buffered_records=20_000)
    notes = Notes(hangs=value_in(17, 4_711, 9_999))
    async with running(config, notes):
        await notes.wait_done(9_997)
    assert committed_offsets(kafka, config) == {0: 17}
    assert values(await handled(config, 3)) == [17, 4_711, 9_999]
    assert committed_offsets(kafka, config) == {0: 10_000}


async def test_first_record_after_a_restart(kafka: Cluster) -> None:
    """One record, restart, two records, restart: the first after each restart is never skipped."""
    topic = topic_with(kafka, [])
    config = configured(kafka, topic)
    produced = 0
    for count in (1, 2, 1):
        kafka.produce(topic, numbered(produced, produced + count))
        assert values(await handled(config, count)) == list(range(produced, produced + count))
        produced += count
        assert committed_offsets(kafka, config) == {0: produced}


async def test_nothing_new_after_stop(kafka: Cluster) -> None:
    """Records that are produced after stop() aren't handled while the rest drains; the next member gets them."""
    topic = topic_with(kafka, numbered(0, 10))
    config = configured(kafka, topic, shutdown_timeout=PATIENCE)
    may_end = trio.Event()
    notes = Notes(work=may_end.wait)
    async with running(config, notes) as pc:
        await notes.wait_started(10)
        pc.stop()
        await trio.to_thread.run_sync(kafka.produce, topic, numbered(10, 20))
        await trio.sleep(1)
        assert pc.statistics().state == "draining"
        assert [each.paused for each in pc.statistics().partitions] == ["stopping"]
        may_end.set()
    assert values(notes.started) == values(notes.done) == list(range(10))
    assert values(await handled(config, 10)) == list(range(10, 20))


# Bounds


async def test_full_buffer(kafka: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """A buffer full of blocked work stays paused beyond the poll interval; the member stays, then resumes."""
    config = configured(
        kafka,
        topic_with(kafka, numbered(0, 5_000)),
        max_buffered_records=200,
        max_concurrency=50,
        shutdown_timeout=PATIENCE,
        revoke_grace=1,
        close_timeout=4,
        kafka={"session.timeout.ms": 6000, "max.poll.interval.ms": 6000},
    )
    may_go_on = trio.Event()
    notes = Notes(work=may_go_on.wait)
    async with running(config, notes) as pc:
        await until(lambda: pc.statistics().partitions[0].paused == "buffer full")
        full = pc.statistics().partitions[0]
        assert 100 < full.buffered_records <= 200
        await trio.sleep(8)
        still = pc.statistics().partitions[0]
        assert (still.paused, still.buffered_records, still.assignment_epoch) == (
            "buffer full",
            full.buffered_records,
            1,
        )
        assert still.in_flight == len(notes.started) == 50
        may_go_on.set()
        await notes.wait_done(5_000)
        assert [each.assignment_epoch for each in pc.statistics().partitions] == [1]
    assert values(notes.done) == list(range(5_000))
    assert "lost:" not in caplog.text
    assert committed_offsets(kafka, config) == {0: 5_000}


async def test_concurrency_limit(kafka: Cluster) -> None:
    """2,000 handlers of 400 ms, 100 at once: the limit is reached and never passed."""
    config = configured(kafka, topic_with(kafka, numbered(0, 2_000)), max_concurrency=100)
    now = peak = 0

    async def work() -> None:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        await trio.sleep(0.4)
        now -= 1

    notes = Notes(work=work)
    async with running(config, notes):
        await notes.wait_done(2_000)
    assert peak == 100
    assert values(notes.done) == list(range(2_000))


async def test_no_partition_starves(kafka: Cluster) -> None:
    """Of five partitions that are full from the start each has had its share when half is done."""
    records = (NewRecord(b"%d" % n, b"%d" % n, partition) for partition in range(5) for n in range(2_000))
    config = configured(kafka, topic_with(kafka, records, partitions=5), max_concurrency=10)
    notes = Notes(work=partial(trio.sleep, 0.002))
    async with running(config, notes):
        await notes.wait_done(5_000)
        shares = Counter(record.partition for record in notes.done)
        await notes.wait_done(10_000)
    print(f"\nwhen half was done: {dict(sorted(shares.items()))}")
    assert len(shares) == 5
    assert min(shares.values()) >= 250
    assert len(notes.done) == 10_000
    assert committed_offsets(kafka, config) == dict.fromkeys(range(5), 2_000)


async def test_same_key_in_two_topics(kafka: Cluster) -> None:
    """A key that hangs in one topic goes on in another, and each topic is committed for itself."""
    stuck, free = (topic_with(kafka, [(b"key", b"%d" % n) for n in range(10)]) for _ in range(2))
    config = configured(kafka, stuck, free)
    notes = Notes(hangs=lambda record: record.topic == stuck and record.offset == 3)
    async with running(config, notes):
        await notes.wait_done(13)
    assert Counter(record.topic for record in notes.done) == {stuck: 3, free: 10}
    assert kafka.committed(config.group_id, free)[0][0] == 10
    assert kafka.committed(config.group_id, stuck)[0][0] == 3
    again = await handled(config, 7)
    assert [(record.topic, record.offset) for record in again] == [(stuck, offset) for offset in range(3, 10)]


def every_third_is_stuck(count: int, partition: int = 0) -> list[NewRecord]:
    """Records of which every third has the same key, and all others a key of their own."""
    return [NewRecord(b"key-%d" % n if n % 3 else b"stuck", b"%d" % n, partition) for n in range(count)]


async def test_map_is_cut(kafka: Cluster) -> None:
    """A map beyond the bound is cut and committed; a restart replays just what it doesn't cover."""
    count = 30_000
    topic = topic_with(kafka, every_third_is_stuck(count))
    config = configured(kafka, topic, max_buffered_records=2 * count)
    notes = Notes(hangs=value_in(0))
    async with running(config, notes) as pc:
        await notes.wait_done(count * 2 // 3)
        await until(lambda: pc.statistics().partitions[0].is_map_cut)
    offset, metadata = kafka.committed(config.group_id, topic)[0]
    assert offset == 0
    assert 4_000 < len(metadata) <= MAX_METADATA_LENGTH
    covered = covered_by(metadata)
    print(f"\n{count:,} records, every third stuck: a map of {len(metadata)} characters covers {len(covered):,}")
    assert covered == {n for n in range(max(covered) + 1) if n % 3}
    assert 10_000 < len(covered) < count * 2 // 3
    # What comes again is what hung, and what the map doesn't cover.
    again = await handled(config, count - len(covered))
    assert values(again) == sorted(set(range(count)) - covered)
    assert committed_offsets(kafka, config) == {0: count}


def covered_by(metadata: str) -> set[int]:
    """The offsets that a map for offset 0 says are completed."""
    return {n for start, end in decode(metadata, 0).completed for n in range(start, end)}


async def test_small_bound_on_metadata(private_kafka: StartKafka, caplog: pytest.LogCaptureFixture) -> None:
    """Where the broker takes less metadata than usual, the commits go through with maps as long as it takes.

    The bound on a map's length is halved once for a refusal, however many partitions it concerned.
    """
    server = await trio.to_thread.run_sync(lambda: private_kafka(properties={"offset.metadata.max.bytes": "256"}))
    kafka = Cluster(server.bootstrap_servers)
    count, partitions = 3_000, 8
    records = [record for partition in range(partitions) for record in every_third_is_stuck(count, partition)]
    config = configured(kafka, topic_with(kafka, records, partitions), commit_interval=0.1)
    notes = Notes(hangs=value_in(0))
    async with running(config, notes) as pc:
        await notes.wait_done(count * 2 // 3 * partitions)
        await until(lambda: all(each.is_map_cut for each in pc.statistics().partitions))
        assert {each.committed for each in pc.statistics().partitions} == {0}
        assert pc.statistics().totals.failed_commits >= 1
    assert "OFFSET_METADATA_TOO_LARGE" in caplog.text
    covered = {}
    for partition, (offset, metadata) in kafka.committed(config.group_id, config.topics[0]).items():
        assert offset == 0
        assert 128 <= len(metadata) <= 255
        covered[partition] = covered_by(metadata)
        assert len(covered[partition]) > 500
    again = await handled(config, count * partitions - sum(map(len, covered.values())))
    for partition in range(partitions):
        expected = sorted(set(range(count)) - covered[partition])
        assert values(record for record in again if record.partition == partition) == expected
    assert committed_offsets(kafka, config) == dict.fromkeys(range(partitions), count)


# Orderings


def _overlaps(key: Any, log: list[tuple[str, Any, int]]) -> bool:
    running_now: set[int] = set()
    for step, each, offset in log:
        if each == key:
            if step == "start" and running_now:
                return True
            (running_now.add if step == "start" else running_now.remove)(offset)
    return False


@pytest.mark.parametrize("ordering", ["key", "partition", "unordered", "by header"])
async def test_orderings(kafka: Cluster, ordering: str) -> None:
    """What the ordering joins runs one after another, by offset; everything else runs at once."""
    records = [NewRecord(b"k%d" % (n % 5), b"%d" % n, n % 2, [("customer", b"c%d" % (n % 3))]) for n in range(600)]
    fields: dict[str, Any] = {"ordering": ordering}
    if ordering == "by header":
        fields = {"key_of": lambda record: dict(record.headers)["customer"]}
    config = configured(kafka, topic_with(kafka, records, partitions=2), max_concurrency=64, **fields)
    log: list[tuple[str, Any, int]] = []
    now = peak = 0

    def lane_of(record: Record) -> Any:
        lane = {
            "key": record.key,
            "partition": None,
            "unordered": record.offset,
            "by header": dict(record.headers)["customer"],
        }[ordering]
        return record.partition, lane

    async def handle(record: Record) -> None:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        log.append(("start", lane_of(record), record.offset))
        await trio.sleep(0.005)
        log.append(("end", lane_of(record), record.offset))
        now -= 1

    async with running(config, handle):
        await until(lambda: len(log) == 1_200)
    lanes = {lane for _, lane, _ in log}
    for lane in lanes:
        offsets = [offset for step, each, offset in log if step == "start" and each == lane]
        assert offsets == sorted(offsets)
        assert not _overlaps(lane, log)
    assert len(lanes) == {"key": 10, "partition": 2, "unordered": 600, "by header": 6}[ordering]
    assert peak == min(64, len(lanes))
    assert committed_offsets(kafka, config) == {0: 300, 1: 300}
