"""Batches and outputs on a real broker."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from broker.cluster import Cluster, NewRecord
from broker.scenario import AT_ONCE, PATIENCE, committed_offsets, configured, handled, topic_with, until

from trio_parallel_kafka import (
    ConsumerConfig,
    DeadLetterConfig,
    ParallelConsumer,
    ProducerRecord,
    Record,
    Retry,
    RetryPolicy,
    parallel_consumer,
)

SCOPES = ["key", "partition", "any"]


@asynccontextmanager
async def batching(config: ConsumerConfig, handler: Any, **options: Any) -> AsyncIterator[ParallelConsumer]:
    """Consume batches for the length of a block, from the first assignment on; stop at its end."""
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            await nursery.start(functools.partial(pc.run_batches, handler, **options))
            yield pc
            pc.stop()


class Noting:
    """A handler of batches that notes them, and the order of each key's records.

    Args:
        seconds: how long a batch takes.
    """

    def __init__(self, seconds: float = 0.005) -> None:
        self.sizes: list[int] = []
        self.done: Counter[tuple[int, int]] = Counter()
        self.by_key: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        self.peak = 0
        self.seconds = seconds
        self._running: Counter[tuple[int, bytes | None]] = Counter()

    async def __call__(self, records: tuple[Record, ...]) -> None:
        self.sizes.append(len(records))
        keys = {(each.partition, each.key) for each in records}
        assert not any(self._running[key] for key in keys)
        self._running.update(keys)
        try:
            await trio.sleep(self.seconds)
        finally:
            self._running.subtract(keys)
        for each in records:
            self.done[each.partition, each.offset] += 1
            self.by_key[each.partition, each.key or b""].append(each.offset)


def records(count: int, partitions: int, keys: int) -> list[NewRecord]:
    """So many of them, spread over partitions, with so many keys in each."""
    return [NewRecord(b"k%d" % (n // partitions % keys), b"%d" % n, n % partitions) for n in range(count)]


@pytest.mark.parametrize("scope", SCOPES)
async def test_each_record_once_and_in_order(kafka: Cluster, scope: str) -> None:
    """Every record is in one batch, each key's in order, no batch is too large, and all is committed."""
    topic = topic_with(kafka, records(6000, 3, 40), partitions=3)
    config = configured(kafka, topic, max_concurrency=16, shutdown_timeout=30.0)
    noting = Noting()
    async with batching(config, noting, max_size=150, linger=0.05, scope=scope) as pc:
        await until(lambda: pc.statistics().totals.completed == 6000)
    assert max(noting.sizes) <= 150
    assert set(noting.done.values()) == {1}
    assert len(noting.done) == 6000
    assert all(offsets == sorted(offsets) for offsets in noting.by_key.values())
    assert committed_offsets(kafka, config) == {0: 2000, 1: 2000, 2: 2000}
    print(f"\n{scope}: {len(noting.sizes)} batches, {6000 / len(noting.sizes):.0f} records each")


async def test_stop_hands_out_what_lingers(kafka: Cluster) -> None:
    """A stop doesn't wait for fuller batches, and loses none."""
    topic = topic_with(kafka, records(90, 3, 7), partitions=3)
    config = configured(kafka, topic, shutdown_timeout=30.0)
    noting = Noting()
    async with batching(config, noting, max_size=1000, linger=1000.0) as pc:
        await until(lambda: pc.statistics().totals.received == 90)
        assert not noting.sizes
    assert sum(noting.sizes) == 90
    assert committed_offsets(kafka, config) == {0: 30, 1: 30, 2: 30}


async def test_one_bad_record_and_a_restart(kafka: Cluster) -> None:
    """The others of its batch are complete, and stay so: a restart hands out what was left and nothing else."""
    topic = topic_with(kafka, records(300, 1, 10))
    config = configured(kafka, topic, retry=RetryPolicy(max_attempts=None, initial_backoff=0.05))
    attempts: list[int] = []

    async def handle(batch: tuple[Record, ...]) -> list[Exception | None]:
        attempts.extend(each.attempt for each in batch if each.offset == 17)
        return [Retry() if each.offset == 17 else None for each in batch]

    async with batching(config, handle, max_size=100) as pc:
        await until(lambda: len(attempts) >= 3)
        blocked = [offset for offset in range(300) if offset % 10 == 7 and offset > 17]
        await until(lambda: pc.statistics().buffered_records <= 1 + len(blocked))
    assert attempts[:3] == [1, 2, 3]
    assert committed_offsets(kafka, config) == {0: 17}
    noting = Noting()
    async with batching(config, noting, max_size=100) as pc:
        await until(lambda: pc.statistics().buffered_records == 0 and len(noting.done) > 0)
        await trio.sleep(AT_ONCE)
    left = sorted(offset for _, offset in noting.done)
    assert left[0] == 17
    assert set(left) <= {17, *blocked}
    assert committed_offsets(kafka, config) == {0: 300}


async def test_outputs_and_dead_letters(kafka: Cluster) -> None:
    """What a batch returns is in Kafka once each, each key's in its order, and so are its dead letters."""
    topic = topic_with(kafka, records(900, 3, 11), partitions=3)
    results, graves = kafka.unique("results"), kafka.unique("graves")
    for name in (results, graves):
        kafka.create_topic(name, 2)
    config = configured(
        kafka,
        topic,
        on_failure="dead_letter",
        dead_letter=DeadLetterConfig(topic=graves),
        shutdown_timeout=30.0,
    )

    def outcome(record: Record) -> object:
        number = int(record.value or b"")
        if number % 97 == 0:
            return ValueError(number)
        key = b"%d/%s" % (record.partition, record.key or b"")
        return [ProducerRecord(results, b"%d.%d" % (number, part), key=key) for part in range(number % 3)]

    async def handle(batch: tuple[Record, ...]) -> Sequence[object]:
        return [outcome(each) for each in batch]

    async with batching(config, handle, max_size=50, scope="any") as pc:
        await until(lambda: pc.statistics().totals.completed == 900)
        totals = pc.statistics().totals
    dead = [number for number in range(900) if number % 97 == 0]
    alive = [number for number in range(900) if number % 97]
    expected = [b"%d.%d" % (number, part) for number in alive for part in range(number % 3)]
    assert (totals.sent, totals.dead_lettered) == (len(expected), len(dead))
    assert committed_offsets(kafka, config) == {0: 300, 1: 300, 2: 300}
    found = await handled(configured(kafka, results), len(expected))
    assert Counter(each.value for each in found) == Counter(expected)
    by_key: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for each in sorted(found, key=lambda each: (each.partition, each.offset)):
        number, part = (each.value or b"").split(b".")
        by_key[each.key or b""].append((int(number), int(part)))
    assert all(order == sorted(order) for order in by_key.values())
    letters = await handled(configured(kafka, graves), len(dead))
    assert sorted(int(each.value or b"") for each in letters) == dead


async def test_another_member_comes_and_goes(kafka: Cluster) -> None:
    """A rebalance that cancels batches over all partitions loses nothing and keeps each key's order."""
    topic = topic_with(kafka, records(3000, 6, 9), partitions=6)
    config = configured(kafka, topic, revoke_grace=0.05, shutdown_timeout=30.0, max_buffered_records=400)
    order: dict[tuple[int, bytes], dict[int, None]] = defaultdict(dict)
    gate = trio.Event()
    gate.set()

    async def handle(batch: tuple[Record, ...]) -> None:
        await trio.sleep(0.02)
        await gate.wait()
        for each in batch:
            order[each.partition, each.key or b""].setdefault(each.offset)

    async def handle_at_once(batch: tuple[Record, ...]) -> None:
        for each in batch:
            order[each.partition, each.key or b""].setdefault(each.offset)

    def count() -> int:
        return sum(map(len, order.values()))

    async with batching(config, handle, max_size=60, scope="any") as pc:
        await until(lambda: count() > 300)
        gate = trio.Event()
        await until(lambda: pc.statistics().in_flight > 0)
        async with batching(config, handle_at_once, max_size=60, scope="any") as other:
            await until(lambda: pc.statistics().totals.abandoned > 0)
            gate.set()
            await until(lambda: other.statistics().totals.completed > 0)
        await until(lambda: count() == 3000)
        await until(lambda: pc.statistics().buffered_records == 0)
        totals = pc.statistics().totals
        print(f"\n{totals.abandoned} records in batches that were cancelled, {totals.fenced} too late")
    assert all(list(offsets) == sorted(offsets) for offsets in order.values())
    assert committed_offsets(kafka, config) == kafka.end_offsets(topic)
