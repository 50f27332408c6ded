"""Records that fail, on a real broker: retries, dead letters, deadlines and the breaker keep what they promise."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import pytest
import trio
from broker.cluster import Cluster, NewRecord
from broker.scenario import (
    PATIENCE,
    committed_offsets,
    configured,
    handled,
    numbered,
    running,
    topic_with,
    until,
    values,
)
from confluent_kafka import Message

from trio_parallel_kafka import (
    ConsumerConfig,
    DeadLetter,
    HandlerStuckError,
    HandlerTimeoutError,
    Record,
    Retry,
    Skip,
    TopicNotFoundError,
    parallel_consumer,
)
from trio_parallel_kafka.config import BreakerPolicy, DeadLetterConfig, RetryPolicy
from trio_parallel_kafka.errors import DeadLetterError, RecordTooLargeError

NEVER = 3600.0
SOON = RetryPolicy(max_attempts=3, initial_backoff=0.05, jitter=0.0)
MUCH_LATER = RetryPolicy(max_attempts=None, initial_backoff=NEVER, max_backoff=NEVER)


class CustomError(Exception):
    pass


class Failing:
    """A handler that notes its attempts, and raises by the number that a record's value is: one after another.

    Args:
        plan: what is raised, by number; after the last, the record is done.
    """

    def __init__(self, plan: Mapping[int, Iterable[Exception]] | None = None) -> None:
        self.attempts: list[tuple[int, int]] = []
        self.done: list[int] = []
        self._plan = {number: iter(errors) for number, errors in (plan or {}).items()}

    async def __call__(self, record: Record) -> None:
        number = int(record.value or b"")
        self.attempts.append((number, record.attempt))
        await trio.lowlevel.checkpoint()
        error = next(self._plan.get(number, iter(())), None)
        if error is not None:
            raise error
        self.done.append(number)

    def of(self, number: int) -> list[int]:
        """The attempts at one record."""
        return [attempt for each, attempt in self.attempts if each == number]

    async def wait_done(self, count: int) -> None:
        """Wait until so many records are done."""
        await until(lambda: len(self.done) >= count)


def same_key(first: int, end: int) -> list[NewRecord]:
    """Records of one key in one partition, numbered so."""
    return [NewRecord(b"key", b"%d" % n, 0) for n in range(first, end)]


def fails_for_good(*errors: Any) -> AbstractContextManager[Any]:
    """``run`` ends with these errors of handlers, in an :class:`ExceptionGroup` within those of nurseries."""
    return pytest.RaisesGroup(*errors, flatten_subgroups=True)


# Retries


async def test_one_worker_goes_on_beside_a_parked_lane(kafka: Cluster) -> None:
    """A record that waits for its next attempt holds up its key alone; attempts count, and the next begins at 1."""
    topic = topic_with(kafka, [*same_key(0, 2), *numbered(2, 200)])
    handle = Failing({0: [CustomError(), Retry(after=0.3), CustomError()]})
    policy = RetryPolicy(max_attempts=4, initial_backoff=1.0, multiplier=1.0, jitter=0.0)
    config = configured(kafka, topic, max_concurrency=1, retry=policy)
    async with running(config, handle) as pc:
        await handle.wait_done(198)
        assert handle.done == list(range(2, 200))
        (partition,) = pc.statistics().partitions
        assert (partition.parked, partition.position, partition.buffered_records) == (1, 0, 2)
        await handle.wait_done(200)
        totals = pc.statistics().totals
        assert (totals.failed, totals.retried, totals.completed) == (3, 3, 200)
    assert handle.done[198:] == [0, 1]
    assert (handle.of(0), handle.of(1)) == ([1, 2, 3, 4], [1])
    assert committed_offsets(kafka, config) == {0: 200}


@pytest.mark.parametrize("how", ["stop", "cancellation"])
async def test_ending_leaves_parked_lanes(kafka: Cluster, how: str) -> None:
    """All else is committed by position and map; the next member gets the parked record and what is behind, from 1."""
    topic = topic_with(kafka, [*numbered(0, 5), *same_key(5, 8), *numbered(8, 20)])
    config = configured(kafka, topic, commit_interval=NEVER, retry=MUCH_LATER, shutdown_timeout=NEVER)
    handle = Failing({5: [CustomError()]})
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await handle.wait_done(17)
            await until(lambda: pc.statistics().partitions[0].parked == 1)
            (pc.stop if how == "stop" else nursery.cancel_scope.cancel)()
    assert committed_offsets(kafka, config) == {0: 5}
    again = await handled(config, 3)
    assert [(int(each.value or b""), each.attempt) for each in again] == [(5, 1), (6, 1), (7, 1)]
    assert committed_offsets(kafka, config) == {0: 20}


async def test_revoke_leaves_parked_lanes(kafka: Cluster) -> None:
    """A partition that goes over to another member takes its parked record along, and nothing that is done."""
    records = [NewRecord(b"key-%d" % n, b"%d" % n, n % 2) for n in range(100)]
    topic = topic_with(kafka, records, partitions=2)
    config = configured(
        kafka, topic, commit_interval=NEVER, retry=MUCH_LATER, revoke_grace=60.0, kafka={"group.protocol": "consumer"}
    )
    first, second = Failing({4: [CustomError()], 5: [CustomError()]}), Failing()
    async with running(config, first) as early:
        await first.wait_done(98)
        await until(lambda: sum(each.parked for each in early.statistics().partitions) == 2)
        async with running(config, second) as late:
            await second.wait_done(1)
            await trio.sleep(0.5)
            assert len(late.statistics().partitions) == 1
            assert late.statistics().totals.not_replayed > 40
            assert second.attempts in ([(4, 1)], [(5, 1)])
    assert sorted(first.done + second.done) == sorted({*range(100)} - {9 - second.done[0]})


class AtRandom:
    """A handler that fails now and then, and notes records that pass one of their key, or miscount their attempts."""

    def __init__(self, keys: Mapping[int, bytes], seed: int) -> None:
        self.done: set[int] = set()
        self.violations: list[str] = []
        self.attempts: Counter[tuple[int, int]] = Counter()
        self.failures = 0
        self._chance = random.Random(seed)
        self._earlier = {n: {each for each in keys if each < n and keys[each] == keys[n]} for n in keys}
        self._running: set[bytes] = set()

    async def __call__(self, record: Record) -> None:
        number, key = int(record.value or b""), record.key or b""
        self.attempts[number, record.assignment_epoch] += 1
        if key in self._running or not self._earlier[number] <= self.done:
            self.violations.append(f"{record!r} passed another")
        if record.attempt != self.attempts[number, record.assignment_epoch]:
            self.violations.append(f"{record!r} isn't attempt {self.attempts[number, record.assignment_epoch]}")
        self._running.add(key)
        try:
            await trio.sleep(self._chance.choice([0, 0, 0.001, 0.01]))
            if self._chance.random() < 0.2:
                self.failures += 1
                raise CustomError
        finally:
            self._running.discard(key)
        self.done.add(number)


async def test_key_order_over_retries_and_restarts(kafka: Cluster) -> None:
    """However often records fail and members end, none is attempted before all earlier ones of its key are done."""
    keys = {n: b"key-%d" % (n % 17) for n in range(1000)}
    topic = topic_with(kafka, [NewRecord(key, b"%d" % n, n % 17 % 3) for n, key in keys.items()], partitions=3)
    policy = RetryPolicy(max_attempts=None, initial_backoff=0.02, max_backoff=0.2)
    config = configured(kafka, topic, retry=policy, commit_interval=0.1)
    handle = AtRandom(keys, seed=1)
    members = 0
    with trio.fail_after(PATIENCE):
        while len(handle.done) < len(keys):
            members += 1
            handle.attempts.clear()
            goal = min(members * 250, len(keys))
            async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
                nursery.start_soon(pc.run, handle)
                await until(lambda goal=goal: len(handle.done) >= goal)  # type: ignore[misc]
                (nursery.cancel_scope.cancel if members % 2 else pc.stop)()
    print(f"\n{handle.failures} failures under {members} members")
    assert handle.violations == []
    assert handle.failures > 100
    async with running(config, Failing()):
        await until(lambda: committed_count(kafka, config) == len(keys))


def committed_count(kafka: Cluster, config: ConsumerConfig) -> int:
    """How many records are below the committed offsets."""
    return sum(committed_offsets(kafka, config).values())


# When attempts end


async def test_last_failure_leaves(kafka: Cluster) -> None:
    """The error leaves with notes; the failed record and what is behind it come again, and nothing else."""
    topic = topic_with(kafka, [*numbered(0, 5), *same_key(5, 8), *numbered(8, 20)])
    config = configured(kafka, topic, commit_interval=NEVER, retry=SOON, shutdown_timeout=NEVER)
    handle = Failing({5: [CustomError("1"), CustomError("2"), CustomError("3")]})
    with trio.fail_after(PATIENCE), fails_for_good(pytest.RaisesExc(CustomError, match="3")) as caught:
        async with parallel_consumer(config) as pc:
            await pc.run(handle)
    (error,) = caught.value.exceptions
    assert error.__notes__ == [f"while handling topic={topic!r} partition=0 offset=5 key=b'key' attempt=3"]
    assert handle.of(5) == [1, 2, 3]
    assert handle.of(6) == []
    again = await handled(config, 3)
    assert values(again) == [5, 6, 7]


async def test_skipped_records_are_committed(kafka: Cluster) -> None:
    """A record that is skipped, by policy or by the handler, is done for the group."""
    topic = topic_with(kafka, same_key(0, 10))
    config = configured(kafka, topic, retry=SOON, on_failure="skip")
    handle = Failing({3: [CustomError()] * 3, 6: [Skip("a test order")]})
    async with running(config, handle) as pc:
        await handle.wait_done(8)
        totals = pc.statistics().totals
        assert (totals.skipped, totals.failed, totals.completed) == (2, 3, 10)
    assert handle.done == [0, 1, 2, 4, 5, 7, 8, 9]
    assert committed_offsets(kafka, config) == {0: 10}


async def test_key_that_cannot_be_had(kafka: Cluster) -> None:
    """A record for which ``key_of`` raises follows the policy at once: another attempt would fail just so."""
    topic = topic_with(kafka, numbered(0, 10))
    config = configured(kafka, topic, key_of=lambda record: 1 // int(record.value), retry=SOON, on_failure="skip")
    handle = Failing()
    async with running(config, handle) as pc:
        await handle.wait_done(9)
        await until(lambda: pc.statistics().totals.completed == 10)
        assert (pc.statistics().totals.skipped, pc.statistics().totals.retried) == (1, 0)
    assert sorted(handle.done) == list(range(1, 10))
    assert committed_offsets(kafka, config) == {0: 10}


# Dead letters


def headers(message: Message) -> list[tuple[str, bytes]]:
    """Pairs of name and value."""
    return cast("list[tuple[str, bytes]]", message.headers())


def header(message: Message, name: str) -> bytes:
    """The one value of a header."""
    (value,) = [value for each, value in headers(message) if each == name]
    return value


async def test_dead_letters(kafka: Cluster) -> None:
    """What fails for good is in the dead letters before it is committed, raw and with its origin; its key goes on."""
    topic = topic_with(kafka, [NewRecord(b"key", b"%d" % n, 0, [("trace", b"t")]) for n in range(10)])
    kafka.create_topic(f"{topic}.dlt")
    config = configured(kafka, topic, retry=SOON, on_failure="dead_letter")
    handle = Failing({2: [CustomError("no such customer")] * 3, 7: [DeadLetter("malformed")]})
    async with running(config, handle) as pc:
        await handle.wait_done(8)
        totals = pc.statistics().totals
        assert (totals.dead_lettered, totals.completed, totals.sent) == (2, 10, 0)
    assert handle.done == [0, 1, 3, 4, 5, 6, 8, 9]
    assert committed_offsets(kafka, config) == {0: 10}
    failed, given_up = kafka.read(f"{topic}.dlt")
    assert [(each.key(), each.value()) for each in (failed, given_up)] == [(b"key", b"2"), (b"key", b"7")]
    assert headers(failed)[0] == ("trace", b"t")
    assert header(failed, "kafka_dlt-original-topic") == topic.encode()
    assert int.from_bytes(header(failed, "kafka_dlt-original-offset"), "big") == 2
    assert int.from_bytes(header(failed, "kafka_deliveryAttempt"), "big") == 3
    assert header(failed, "kafka_dlt-exception-message") == b"no such customer"
    assert header(given_up, "kafka_dlt-reason") == b"malformed"


async def test_missing_dead_letter_topic(kafka: Cluster) -> None:
    """It is found at the start, not at the first failure, and isn't created."""
    topic = topic_with(kafka, [])
    with trio.fail_after(PATIENCE), pytest.raises(TopicNotFoundError, match=f"{topic}.dlt"):
        async with parallel_consumer(configured(kafka, topic, on_failure="dead_letter")):
            raise AssertionError
    assert f"{topic}.dlt" not in kafka.admin.list_topics(timeout=30).topics


async def test_dead_letters_too_large_for_their_topic(kafka: Cluster) -> None:
    """What doesn't fit with its error loses some of that; what doesn't fit at all is loud, and comes again."""
    topic = topic_with(kafka, [NewRecord(b"a", b"0"), NewRecord(b"b", b"1".zfill(3000))])
    kafka.create_topic(f"{topic}.dlt", 1, {"max.message.bytes": "2000"})
    config = configured(kafka, topic, on_failure="dead_letter", dead_letter=DeadLetterConfig())
    small = Failing({0: [CustomError("x" * 5000)]})
    async with running(config, small):
        await small.wait_done(1)
    (message,) = kafka.read(f"{topic}.dlt")
    assert (message.key(), message.value()) == (b"a", b"0")
    assert "kafka_dlt-exception-stacktrace" not in dict(headers(message))
    assert header(message, "kafka_dlt-original-topic") == topic.encode()

    config = configured(kafka, topic, on_failure="dead_letter")
    large = Failing({1: [CustomError()]})
    loud = pytest.RaisesExc(DeadLetterError, check=lambda error: isinstance(error.__cause__, RecordTooLargeError))
    with trio.fail_after(PATIENCE), fails_for_good(loud) as caught:
        async with parallel_consumer(config) as pc:
            await pc.run(large)
    assert (caught.value.exceptions[0].partition, caught.value.exceptions[0].offset) == (0, 1)
    assert values(await handled(config, 1)) == [1]


# Deadlines


async def test_attempt_that_takes_too_long(kafka: Cluster) -> None:
    """It is cancelled and made again like any that failed, and leaves as what it is when attempts end."""
    topic = topic_with(kafka, same_key(0, 3))
    attempts: list[tuple[int, int]] = []

    async def handle(record: Record) -> None:
        number = int(record.value or b"")
        attempts.append((number, record.attempt))
        if number == 2 or (number == 1 and record.attempt == 1):
            await trio.sleep_forever()

    config = configured(kafka, topic, handler_timeout=0.2, retry=RetryPolicy(max_attempts=2, initial_backoff=0.0))
    with trio.fail_after(PATIENCE), fails_for_good(HandlerTimeoutError):
        async with parallel_consumer(config) as pc:
            await pc.run(handle)
    assert attempts == [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert committed_offsets(kafka, config) == {0: 2}


async def test_handler_that_never_ends(kafka: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """It is named; on leaving, the rest is committed and the group left while it runs; the block ends when it does."""
    topic = topic_with(kafka, numbered(0, 10))
    config = configured(kafka, topic, handler_timeout=0.2, commit_interval=NEVER, close_timeout=10.0)
    go_on = trio.Event()
    done = Failing()

    async def handle(record: Record) -> None:
        if int(record.value or b"") == 3:
            with trio.CancelScope(shield=True):
                await go_on.wait()
        await done(record)

    def members() -> int:
        described = kafka.admin.describe_consumer_groups([config.group_id])[config.group_id].result(30)
        return len(described.members)

    async def watch() -> None:
        await done.wait_done(9)
        await until(lambda: "long after handler_timeout" in caplog.text)
        assert await trio.to_thread.run_sync(members) == 1
        opened[0].stop()
        while await trio.to_thread.run_sync(members):
            await trio.sleep(0.1)
        committed = await trio.to_thread.run_sync(kafka.committed, config.group_id, topic)
        assert committed[0][0] == 3
        assert committed[0][1]
        go_on.set()

    opened = []
    stuck = pytest.RaisesExc(HandlerStuckError, match=r"\[0\]@3")
    with trio.fail_after(PATIENCE), fails_for_good(stuck):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            async with parallel_consumer(config) as pc:
                opened.append(pc)
                await pc.run(handle)
    assert f"<Record {topic}[0]@3" in caplog.text
    assert values(await handled(config, 1)) == [3]


# What stops dispatch


async def test_pause_keeps_the_membership(kafka: Cluster) -> None:
    """Nothing is handled while all is paused, and a pause longer than the poll interval costs no partition."""
    topic = topic_with(kafka, numbered(0, 50))
    impatient = {"max.poll.interval.ms": 3000, "session.timeout.ms": 3000, "heartbeat.interval.ms": 300}
    config = configured(kafka, topic, revoke_grace=0.1, close_timeout=1.0, kafka=impatient)
    handle = Failing()
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            pc.pause()
            nursery.start_soon(pc.run, handle)
            await until(lambda: pc.statistics().buffered_records == 50)
            await trio.sleep(4)
            assert handle.attempts == []
            assert [each.assignment_epoch for each in pc.statistics().partitions] == [1]
            pc.resume()
            await handle.wait_done(50)
            pc.stop()
    assert committed_offsets(kafka, config) == {0: 50}


async def test_outage_of_a_dependency_makes_no_dead_letters(kafka: Cluster) -> None:
    """With a breaker, 10,000 records that meet a dependency that is down are all handled once it is back."""
    topic = topic_with(kafka, [NewRecord(b"key-%d" % (n % 2000), b"%d" % n) for n in range(10_000)], partitions=2)
    kafka.create_topic(f"{topic}.dlt")
    is_down = True
    calls = 0
    done: set[int] = set()

    async def handle(record: Record) -> None:
        nonlocal calls
        calls += 1
        await trio.sleep(0.001)
        if is_down:
            raise CustomError("down")
        done.add(int(record.value or b""))

    config = configured(
        kafka,
        topic,
        max_buffered_records=8000,
        retry=RetryPolicy(max_attempts=3, initial_backoff=0.01),
        on_failure="dead_letter",
        breaker=BreakerPolicy(min_attempts=10, probe_interval=0.2),
    )
    async with running(config, handle) as pc:
        await until(lambda: pc.statistics().buffered_records == 10_000)
        await trio.sleep(2)
        assert pc.statistics().held == ("circuit open",)
        prevented = calls
        is_down = False
        await until(lambda: len(done) == 10_000)
        await until(lambda: pc.statistics().totals.completed == 10_000)
        assert pc.statistics().totals.dead_lettered == 0
    print(f"\n{prevented} attempts while it was down")
    assert prevented < 1000
    assert kafka.end_offsets(f"{topic}.dlt") == {0: 0}
    assert committed_count(kafka, config) == 10_000
