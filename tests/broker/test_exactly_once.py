"""Exactly once on a real broker: what readers of the outputs see while members are killed."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio
from broker.cluster import ANSWER_TIMEOUT, Cluster
from broker.exactly_once_member import FAILS, start_member
from broker.scenario import until
from confluent_kafka import Consumer, TopicPartition

PARTITIONS = 8
KEYS = 400
MEMBERS = 3
PATIENCE = 240.0
"""Seconds after which a test hangs for certain."""


class Seen(NamedTuple):
    """A record as a reader sees it."""

    topic: str
    key: bytes
    number: int


class Reader:
    """Reads topics from their start, as somebody would who reads only what is committed, or also what isn't."""

    def __init__(self, kafka: Cluster, topics: Sequence[str], isolation_level: str = "read_committed") -> None:
        self.seen: list[Seen] = []
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "group.id": kafka.unique("reader"),
                "enable.auto.commit": False,
                "isolation.level": isolation_level,
                "fetch.wait.max.ms": 100,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(topic, n, 0) for topic in topics for n in range(PARTITIONS)])

    def read(self, seconds: float) -> None:
        """Take what comes within so many seconds, in a thread."""
        until_then = time.monotonic() + seconds
        while (remaining := until_then - time.monotonic()) > 0:
            for message in self._consumer.consume(1000, min(remaining, 0.1)):
                error = message.error()
                assert error is None, error
                topic, key, value = message.topic(), message.key(), message.value()
                assert topic is not None
                assert key is not None
                assert value is not None
                self.seen.append(Seen(topic, key, int(value)))

    def close(self) -> None:
        self._consumer.close()


@asynccontextmanager
async def reading(kafka: Cluster, topics: Sequence[str]) -> AsyncIterator[Reader]:
    """A reader that reads in the background for the length of a block."""
    reader = Reader(kafka, topics)

    async def read() -> None:
        while True:
            await trio.to_thread.run_sync(reader.read, 0.2)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            yield reader
            nursery.cancel_scope.cancel()
    finally:
        reader.close()


class Fleet:
    """Members, each with an identity that it keeps over its restarts."""

    def __init__(self, output: str, work_ms: float, config: dict[str, object]) -> None:
        self._output = output
        self._work_ms = work_ms
        self._config = config
        self._members: list[subprocess.Popen[bytes]] = [self._start(number) for number in range(MEMBERS)]

    def kill_and_restart(self, number: int) -> None:
        """Kill a member at once, and start another in its place."""
        assert self._members[number].poll() is None, "a member ended by itself"
        self._members[number].kill()
        self._members[number].wait()
        self._members[number] = self._start(number)

    async def stop(self) -> None:
        """Stop all members gracefully."""
        for member in self._members:
            assert member.poll() is None, "a member ended by itself"
            member.terminate()
        for member in self._members:
            code = await trio.to_thread.run_sync(member.wait, abandon_on_cancel=True)
            assert code in {0, -signal.SIGTERM}  # the latter if it was only about to start

    def kill(self) -> None:
        """Kill what is left."""
        for member in self._members:
            member.kill()
            member.wait()

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        identity = {"transactional_id": f"{self._config['group_id']}-{number}"}
        return start_member(self._output, self._work_ms, {**self._config, **identity})


async def test_results_of_killed_members(kafka: Cluster) -> None:
    """While members are killed ten times, 50,000 records lead to 50,000 results, each seen once, in key order."""
    await check_while_members_die(kafka, count=50_000, kills=10)


async def test_dead_letters_of_killed_members(kafka: Cluster) -> None:
    """Where every 97th record fails, it is seen once among the dead letters, and the others once among the results."""
    await check_while_members_die(kafka, count=20_000, kills=4, on_failure="dead_letter")


async def check_while_members_die(kafka: Cluster, *, count: int, kills: int, **config: Any) -> None:
    """Have a fleet handle so many records while its members are killed, and check what a reader sees of it."""
    source, output = kafka.unique("orders"), kafka.unique("results")
    has_dead_letters = "on_failure" in config
    topics = [output, f"{source}.dlt"] if has_dead_letters else [output]
    for topic in (source, *topics):
        kafka.create_topic(topic, PARTITIONS)
    kafka.produce(source, ((b"key-%d" % (number % KEYS), b"%d" % number) for number in range(count)))
    fields: dict[str, object] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "group_id": kafka.unique("billing"),
        "topics": [source],
        "delivery": "exactly_once",
        "max_concurrency": 64,
        "commit_interval": 0.02,  # so that many a kill hits an open transaction
        "kafka": {"session.timeout.ms": 2000, "heartbeat.interval.ms": 500, "log_level": 0},
        **config,
    }
    began = time.monotonic()
    with trio.fail_after(PATIENCE):
        async with reading(kafka, topics) as reader:
            fleet = Fleet(output, 20, fields)
            try:
                for kill in range(kills):
                    await until(lambda: len(reader.seen) > (kill + 0.5) * count / (kills + 1))  # noqa: B023 - at once
                    await trio.sleep(random.uniform(0, 0.3))
                    fleet.kill_and_restart(random.randrange(MEMBERS))
                await until(lambda: len(reader.seen) >= count)
                await fleet.stop()
                await trio.sleep(1)  # for what shouldn't come
            finally:
                fleet.kill()
    written = await trio.to_thread.run_sync(written_to, kafka, topics)
    print(
        f"\n{count} records, {kills} kills, {time.monotonic() - began:.1f} s: {len(reader.seen)} seen, "
        f"{len({each.number for each in reader.seen})} of them different; {written} written, "
        f"{written - len(reader.seen)} of them aborted"
    )
    check(reader.seen, count, output, has_dead_letters=has_dead_letters)
    committed = kafka.committed(str(fields["group_id"]), source)
    assert {partition: offset for partition, (offset, _) in committed.items()} == kafka.end_offsets(source)


def check(seen: Sequence[Seen], count: int, output: str, *, has_dead_letters: bool) -> None:
    """Each result once, where it belongs, in the order of its key."""
    times = Counter(each.number for each in seen)
    assert [number for number in range(count) if times[number] != 1] == []
    assert len(seen) == count
    by_lane: dict[tuple[str, bytes], list[int]] = defaultdict(list)
    for each in seen:
        by_lane[each.topic, each.key].append(each.number)
        assert (each.topic != output) == (has_dead_letters and each.number % FAILS == 0)
    assert [lane for lane, numbers in by_lane.items() if numbers != sorted(numbers)] == []


def written_to(kafka: Cluster, topics: Sequence[str]) -> int:
    """How many records were written, those of aborted transactions included."""
    reader = Reader(kafka, topics, "read_uncommitted")
    try:
        deadline = time.monotonic() + ANSWER_TIMEOUT
        before = -1
        while before != len(reader.seen) or not before:
            before = len(reader.seen)
            reader.read(1.0)
            assert time.monotonic() < deadline
        return before
    finally:
        reader.close()
