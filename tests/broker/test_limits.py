"""Records of every extreme on a real broker, and a million keys: exact, in order, within the bounds on memory."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from broker.cluster import ANSWER_TIMEOUT, Cluster
from broker.extremes import LARGE, LIMIT, LONG_KEY, Content, Copy, arrived, extremes, produced, written
from broker.measured import Figures, measured
from broker.recorder import Workload
from broker.scenario import (
    PATIENCE,
    Notes,
    committed_offsets,
    configured,
    handled,
    running,
    topic_with,
    until,
)
from confluent_kafka import Message
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from trio_parallel_kafka import (
    ConsumerConfig,
    DeadLetterConfig,
    ParallelConsumer,
    Producer,
    ProducerConfig,
    ProducerRecord,
    Record,
    RecordTooLargeError,
    RetryPolicy,
    open_producer,
    parallel_consumer,
)

RECORDS = extremes()
LARGE_ONES = [offset for offset, record in enumerate(RECORDS) if len(record.value or b"") == LARGE]
PATIENT = {"shutdown_timeout": PATIENCE}
ALLOWED = {"message.max.bytes": LIMIT}
"""What a producer has to be told for large results; with exactly once it is the consumer's too."""


def topic_of_extremes(kafka: Cluster) -> str:
    """A topic of one partition that holds them all, each at the offset that is its place in :data:`RECORDS`."""
    return topic_with(kafka, RECORDS, max_message_bytes=str(LIMIT))


def output_topic(kafka: Cluster, name: str | None = None, max_message_bytes: int = LIMIT) -> str:
    """An empty topic of one partition."""
    name = name or kafka.unique("results")
    kafka.create_topic(name, 1, {"max.message.bytes": str(max_message_bytes)})
    return name


def allow(kafka: Cluster, topic: str, max_message_bytes: int) -> None:
    """Let a topic take larger records than it did, as whoever runs the cluster would."""
    entry = ConfigEntry("max.message.bytes", str(max_message_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for answer in kafka.admin.incremental_alter_configs([resource]).values():
        answer.result(ANSWER_TIMEOUT)


def by_key(contents: Iterable[Content]) -> dict[bytes | None, list[Content]]:
    """Those of each key in their order; those without one have none, and are sorted."""
    found: dict[bytes | None, list[Content]] = defaultdict(list)
    for each in contents:
        found[each.key].append(each)
    found[None].sort(key=lambda each: (each.value or b"", len(each.headers)))
    return found


async def in_output(kafka: Cluster, topic: str) -> list[Content]:
    """What readers of committed records see in an output topic, once there are as many as there should be."""
    config = configured(kafka, topic, ordering="partition", kafka={"isolation.level": "read_committed"})
    return [arrived(record) for record in await handled(config, len(RECORDS))]


async def consume(config: ConsumerConfig, handler: Any, *, in_batches: bool = False) -> ParallelConsumer:
    """Consume until all that the topic holds is committed, or an error ends it."""
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            if in_batches:
                nursery.start_soon(partial(pc.run_batches, handler, max_size=40, linger=0.02, scope="any"))
            else:
                nursery.start_soon(pc.run, handler)
            await until(lambda: [each.committed for each in pc.statistics().partitions] == [len(RECORDS)])
            pc.stop()
    return pc


def copying(output: str, *, in_batches: bool = False) -> Any:
    """A handler that returns a copy of each record."""
    copy = Copy(output)

    async def one(record: Record) -> ProducerRecord:
        return copy(record)

    async def batch(records: tuple[Record, ...]) -> list[ProducerRecord]:
        return list(map(copy, records))

    return batch if in_batches else one


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, however deep."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error


# Into the handler


async def test_each_arrives_as_it_was_produced(kafka: Cluster) -> None:
    """Large records, long, empty and missing keys, tombstones and 1,000 headers: exact, in key order, across a restart.

    An empty key is a key, whose records wait for one another; a missing one is none.
    """
    config = configured(kafka, topic_of_extremes(kafka))
    first_of = {key: next(n for n, each in enumerate(RECORDS) if each.key == key) for key in (b"", LONG_KEY)}
    stuck = [offset for offset, each in enumerate(RECORDS) if each.key in first_of]
    before = Notes(hangs=lambda record: record.offset in first_of.values())
    async with running(config, before):
        await before.wait_done(len(RECORDS) - len(stuck))
    assert committed_offsets(kafka, config) == {0: min(first_of.values())}

    # How much is fetched at once bounds no record: it comes as a whole, whatever is set.
    less = {"fetch.max.bytes": 1_000, "message.max.bytes": 1_000, "fetch.message.max.bytes": 100}
    less["queued.max.messages.kbytes"] = 1
    narrow = configured(kafka, *config.topics, group_id=config.group_id, max_buffered_bytes=1_000_000, kafka=less)
    after = await handled(narrow, len(stuck))
    assert sorted(record.offset for record in after) == stuck
    assert committed_offsets(kafka, config) == {0: len(RECORDS)}

    done = [*before.done, *after]
    assert [arrived(each) for each in sorted(done, key=lambda each: each.offset)] == list(map(produced, RECORDS))
    assert by_key(map(arrived, done)) == by_key(map(produced, RECORDS))


async def test_client_that_may_receive_less(kafka: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Where the client mayn't receive what the broker sends, statistics and log say which property; nothing is lost."""
    topic = topic_of_extremes(kafka)
    less = {"fetch.max.bytes": 1_000_000, "receive.message.max.bytes": 5_000_000}
    # A client doesn't tell that it leaves if it has no connection at that moment.
    config = configured(kafka, topic, kafka={**less, "session.timeout.ms": 3_000, "heartbeat.interval.ms": 500})
    cure = "increase receive.message.max.bytes"
    async with running(config, Notes()) as pc:
        await until(lambda: cure in str(pc.statistics().last_error))
        await until(lambda: pc.statistics().partitions[0].committed == LARGE_ONES[0])
        assert cure in str(pc.statistics().last_error)
        assert (pc.statistics().state, pc.statistics().buffered_records) == ("running", 0)
    assert cure in caplog.text
    again = await handled(configured(kafka, topic, group_id=config.group_id), len(RECORDS) - LARGE_ONES[0])
    assert sorted(record.offset for record in again) == list(range(LARGE_ONES[0], len(RECORDS)))


# Out of the handler


@pytest.mark.parametrize("how", ["handler", "worker process", "batches"])
async def test_results_as_large_as_their_records(kafka: Cluster, how: str) -> None:
    """Results of 10 MB, without keys or values, or with 1,000 headers are written as they are, once, in key order."""
    output = output_topic(kafka)
    fields: dict[str, Any] = {"execution_mode": "process", "process_workers": 1} if how == "worker process" else {}
    config = configured(kafka, topic_of_extremes(kafka), **PATIENT, **fields)
    handler = Copy(output) if how == "worker process" else copying(output, in_batches=how == "batches")
    await consume(config, handler, in_batches=how == "batches")
    assert by_key(await in_output(kafka, output)) == by_key(map(produced, RECORDS))
    assert committed_offsets(kafka, config) == {0: len(RECORDS)}


@pytest.mark.parametrize("in_batches", [False, True], ids=["one by one", "in batches"])
async def test_result_too_large_for_a_transaction(kafka: Cluster, in_batches: bool) -> None:
    """It is a failure of its record's attempt, which says what to set; once that is set, all results are there once."""
    output = output_topic(kafka)
    fields = {"delivery": "exactly_once", "transactional_id": kafka.unique("billing"), **PATIENT}
    config = configured(kafka, topic_of_extremes(kafka), **fields)
    handler = copying(output, in_batches=in_batches)
    beyond_default = [n for n, each in enumerate(RECORDS) if each.key == LONG_KEY or n in LARGE_ONES]
    with pytest.raises(ExceptionGroup) as caught:
        await consume(config, handler, in_batches=in_batches)
    errors = list(leaves(caught.value))
    assert errors
    for error in errors:
        assert isinstance(error, RecordTooLargeError)
        assert "raise message.max.bytes" in str(error)
        assert any(f"offset={offset} " in note for offset in beyond_default for note in error.__notes__)
        assert all(len(note) < 1_000 for note in error.__notes__), "a key of 1 MB has to be cut where it is shown"
    assert committed_offsets(kafka, config).get(0, 0) <= beyond_default[0]

    config = configured(kafka, *config.topics, group_id=config.group_id, **fields, kafka=ALLOWED)
    pc = await consume(config, handler, in_batches=in_batches)
    assert pc.statistics().totals.failed == 0
    results = await in_output(kafka, output)
    assert Counter(results) == Counter(map(produced, RECORDS))
    if not in_batches:  # what was in one batch with the one that failed wasn't held back
        assert by_key(results) == by_key(map(produced, RECORDS))
    assert committed_offsets(kafka, config) == {0: len(RECORDS)}


async def test_result_too_large_for_its_topic(kafka: Cluster) -> None:
    """What only the broker can refuse ends the consumer, by name; once it is taken, all results are there once."""
    output = output_topic(kafka, max_message_bytes=2_000_000)
    fields = {"delivery": "exactly_once", "transactional_id": kafka.unique("billing"), "kafka": ALLOWED, **PATIENT}
    config = configured(kafka, topic_of_extremes(kafka), **fields)
    handler = copying(output)
    with pytest.raises(ExceptionGroup) as caught:
        await consume(config, handler)
    (refused,) = leaves(caught.value)
    assert isinstance(refused, RecordTooLargeError)
    assert "max.message.bytes of the topic" in str(refused)
    assert any(f"[0]@{offset}," in note for offset in LARGE_ONES for note in refused.__notes__)

    allow(kafka, output, LIMIT)
    await consume(config, handler)
    assert by_key(await in_output(kafka, output)) == by_key(map(produced, RECORDS))
    assert committed_offsets(kafka, config) == {0: len(RECORDS)}


async def test_batches_larger_than_their_topic_allows(kafka: Cluster) -> None:
    """Small records that the client sends in one batch are refused as one; the error says what bounds a batch."""
    topic = output_topic(kafka, max_message_bytes=10_000)

    async def send(**properties: Any) -> list[str]:
        refusals = []

        async def one(producer: Producer, number: int) -> None:
            try:
                await producer.send(topic, bytes(1_000), key=b"%d" % number)
            except RecordTooLargeError as error:
                refusals.append(str(error))

        config = ProducerConfig(bootstrap_servers=kafka.bootstrap_servers, kafka={"linger.ms": 50, **properties})
        with trio.fail_after(PATIENCE):
            async with open_producer(config) as producer, trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(one, producer, number)
        return refusals

    refusals = await send()
    assert len(refusals) > 50
    assert all("the batch that the client sent it in (batch.size)" in each for each in refusals)
    assert await send(**{"batch.size": 9_000}) == []


# Dead letters


async def fail(record: Record) -> None:
    """A handler that nothing suits; what it says is longer than the room that a topic has for it."""
    await trio.lowlevel.checkpoint()
    raise ValueError("x" * 10_000)


async def test_dead_letters_of_all_kinds(kafka: Cluster) -> None:
    """Each is there once, exact, in the order of its key; only the largest gives up what doesn't fit beside it."""
    topic = topic_of_extremes(kafka)
    largest = max(RECORDS, key=lambda each: len(each.key or b"") + len(each.value or b""))
    output_topic(kafka, f"{topic}.dlt", len(largest.key or b"") + len(largest.value or b"") + 1_000)
    config = configured(kafka, topic, on_failure="dead_letter", **PATIENT)
    pc = await consume(config, fail)
    assert pc.statistics().totals.dead_lettered == len(RECORDS)
    letters = kafka.read(f"{topic}.dlt")
    assert by_key(map(written, letters)) == by_key(map(produced, RECORDS))
    trimmed = {written(each) for each in letters if "kafka_dlt-exception-stacktrace" not in names(each)}
    assert trimmed == {produced(largest)}
    assert all("kafka_dlt-original-offset" in names(each) for each in letters)
    assert committed_offsets(kafka, config) == {0: len(RECORDS)}


async def test_dead_letters_that_wait_for_room(kafka: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Those that their topic doesn't take yet hold up their own keys, visibly, and go there once it does."""
    topic = topic_of_extremes(kafka)
    letters = output_topic(kafka, f"{topic}.dlt", 2_000_000)
    config = configured(
        kafka,
        topic,
        on_failure="dead_letter",
        dead_letter=DeadLetterConfig(on_dead_letter_failure="retry"),
        retry=RetryPolicy(max_attempts=1, initial_backoff=0.5, jitter=0),
    )
    behind = [n for n, each in enumerate(RECORDS) if each.key == b"large" or n == LARGE_ONES[-1]]
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, fail)
            await until(lambda: pc.statistics().buffered_records == len(behind))
            await until(lambda: pc.statistics().partitions[0].parked == 2)
            waiting = pc.statistics().partitions[0]
            assert waiting.position == LARGE_ONES[0]
            assert waiting.oldest_incomplete is not None
            assert waiting.oldest_incomplete.key == b"large"
            assert "didn't reach" in caplog.text
            assert "max.message.bytes of the topic" in caplog.text
            await trio.to_thread.run_sync(allow, kafka, letters, LIMIT)
            await until(lambda: pc.statistics().totals.completed == len(RECORDS))
            pc.stop()
    assert by_key(map(written, kafka.read(letters))) == by_key(map(produced, RECORDS))
    assert committed_offsets(kafka, config) == {0: len(RECORDS)}


def names(message: Message) -> set[str]:
    """The names of a message's headers."""
    return {header[0] for header in message.headers() or ()}


# Bounds on memory, in processes of their own


MEGA = 1024 * 1024
KEYS = int(os.environ.get("TPK_DISTINCT_KEYS", "1_000_000"))
"""How many keys there are, each with one record."""


def memory_of(figures: Figures) -> str:
    """The figures in words."""
    return (
        f"peak memory {figures.peak / MEGA:.0f} MiB ({figures.early_peak / MEGA:.0f} after a tenth; before the block "
        f"{figures.memory_before / MEGA:.0f}, after it {figures.memory_after / MEGA:.0f}); at once at most "
        f"{figures.most_records:,} records of {figures.most_bytes:,} bytes in {figures.most_lanes:,} lanes; "
        f"{figures.blocks_left:,} blocks of Python's are left"
    )


@pytest.mark.performance  # what coverage notes takes memory, too
async def test_a_million_keys(kafka: Cluster) -> None:
    """A key costs nothing once its record is done: a million of them take no more memory than the buffers do."""
    partitions, bound = 8, 5_000
    workload = Workload(KEYS, KEYS, value_size=10)
    topic = topic_with(kafka, workload.records(), partitions)
    config = configured(kafka, topic, max_buffered_records=bound)
    with trio.fail_after(PATIENCE + KEYS / 5_000):
        figures = await measured(
            KEYS, bootstrap_servers=config.bootstrap_servers, group_id=config.group_id, topics=config.topics,
            max_buffered_records=bound,
        )  # fmt: skip
    print(f"\n{KEYS:,} keys: {memory_of(figures)}; the statistics had {figures.statistics_size:,} characters")
    assert figures.handled == KEYS
    assert committed_offsets(kafka, config) == kafka.end_offsets(topic)
    assert bound < figures.most_records <= partitions * bound
    assert figures.most_lanes <= figures.most_records
    assert figures.statistics_size < 1_000 * partitions
    assert figures.peak < 320 * MEGA
    assert figures.peak < figures.early_peak + 80 * MEGA, "it grew while keys came and went"
    assert figures.objects_left == 0
    assert figures.blocks_left < 10_000
    assert figures.memory_after < figures.memory_before + 160 * MEGA


@pytest.mark.performance
async def test_many_large_records(kafka: Cluster) -> None:
    """Of records of 10 MB no more are in memory than the bounds allow, and what the client fetches ahead."""
    count, bound, most_at_once = 24, 30_000_000, 40_000_000
    topic = topic_with(kafka, Workload(count, count, value_size=LARGE).records(), max_message_bytes=str(LIMIT))
    config = configured(kafka, topic)
    with trio.fail_after(PATIENCE):
        figures = await measured(
            count, bootstrap_servers=config.bootstrap_servers, group_id=config.group_id, topics=config.topics,
            max_buffered_bytes=bound,
        )  # fmt: skip
    print(f"\n{count} records of 10 MB: {memory_of(figures)}")
    assert figures.handled == count
    assert committed_offsets(kafka, config) == {0: count}
    assert figures.most_bytes < bound + most_at_once
    assert figures.peak < 256 * MEGA
    assert figures.blocks_left < 10_000
