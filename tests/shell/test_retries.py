"""Retries: a failed record parks its lane, comes again in time, and never lets a later one of its key pass."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import trio
from shell.failing import Failing, fails
from shell.kit import NEVER, P0, P1, BodyError, HandlerError, Handling, World, of
from trio.testing import MockClock

from trio_parallel_kafka import Record, Retry, parallel_consumer
from trio_parallel_kafka.config import RetryPolicy
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.metadata import read_metadata

TEN_SECONDS = RetryPolicy(max_attempts=3, initial_backoff=10.0, multiplier=1.0, jitter=0.0)


def committed_records(world: World, partition: TopicPartition) -> set[int]:
    """The offsets that the group's commit says are completed, by position or map."""
    offset, metadata = world.broker.one_group.offsets.get(partition, (0, None))
    done = set(range(offset))
    for start, end in read_metadata(metadata or "", offset).completed if metadata else ():
        done |= set(range(start, end))
    return done


# What waits, and what goes on


async def test_only_the_lane_of_a_failed_record_waits(autojump_clock: MockClock, world: World) -> None:
    """The one worker goes on with other lanes at once; later records of the key wait for the next attempt."""
    world.broker.add(P0, ["a", "b", "a", "c"])
    handle = Failing({0: fails(1)})
    async with world.consuming(handle, max_concurrency=1, retry=TEN_SECONDS) as pc:
        await trio.sleep(5)
        assert handle.started(P0) == [(0, 1), (1, 1), (3, 1)]
        world.broker.add(P0, ["a", "d"])
        await trio.sleep(4)
        assert handle.started(P0)[3:] == [(5, 1)]
        assert pc.statistics().in_flight == 0
        await trio.sleep(3)
    assert handle.started(P0)[4:] == [(0, 2), (2, 1), (4, 1)]
    assert world.committed(P0) == 6


async def test_attempts_are_numbered_and_spaced(autojump_clock: MockClock, world: World) -> None:
    """Each attempt is one higher, and comes after the backoff that is due; the next record begins at 1."""
    world.broker.add(P0, ["a", "a"])
    handle = Failing({0: fails(4)}, work=1.0)
    policy = RetryPolicy(max_attempts=5, initial_backoff=1.0, multiplier=3.0, max_backoff=10.0, jitter=0.0)
    async with world.consuming(handle, retry=policy) as pc:
        await trio.sleep(40)
        totals = pc.statistics().totals
    assert handle.of(0) == [(1, 0), (2, 2), (3, 6), (4, 16), (5, 27)]
    assert handle.of(1) == [(1, 28)]
    assert (totals.failed, totals.retried, totals.completed) == (4, 4, 2)


async def test_no_policy_no_retry(autojump_clock: MockClock, world: World) -> None:
    """Without a policy the first failure is the last."""
    world.broker.add(P0, ["a"])
    handle = Failing({0: fails(1)})
    with pytest.RaisesGroup(pytest.RaisesGroup(HandlerError)):
        async with world.consuming(handle):
            await trio.sleep_forever()
    assert handle.started(P0) == [(0, 1)]


async def test_parked_record_is_seen(autojump_clock: MockClock, world: World) -> None:
    """The statistics tell how many keys are parked, what holds the position, its attempt, and when it comes again."""
    world.broker.add(P0, ["a", "a", "b", "c"])
    handle = Failing({0: fails(1), 2: fails(1)})
    async with world.consuming(handle, retry=TEN_SECONDS) as pc:
        await trio.sleep(4)
        assert (of(pc, P0).parked, of(pc, P0).in_flight, of(pc, P0).buffered_records) == (2, 0, 3)
        oldest = of(pc, P0).oldest_incomplete
        assert oldest is not None
        assert (oldest.offset, oldest.key, oldest.attempt, oldest.is_running) == (0, b"a", 2, False)
        assert oldest.retry_in == pytest.approx(6.0, abs=0.1)
        assert oldest.age == pytest.approx(4.0, abs=0.1)
        assert of(pc, P1).parked == 0
        await trio.sleep(7)
        assert of(pc, P0).parked == 0
        assert of(pc, P0).oldest_incomplete is None
        assert pc.statistics().totals.retried == 2


async def test_retried_record_that_runs_is_seen(autojump_clock: MockClock, world: World) -> None:
    """In its second attempt a record counts as in flight, and as no longer parked."""
    world.broker.add(P0, ["a"])
    handle = Failing({0: fails(1)})
    async with world.consuming(handle, retry=TEN_SECONDS) as pc:
        await trio.sleep(5)
        handle.work = 10.0
        await trio.sleep(8)
        oldest = of(pc, P0).oldest_incomplete
        assert oldest is not None
        assert (oldest.attempt, oldest.is_running, oldest.retry_in) == (2, True, None)
        assert (of(pc, P0).parked, pc.statistics().in_flight) == (0, 1)


async def test_parked_record_stalls_its_partition_visibly(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A record that waits for its next attempt for long is told of like one whose handler hangs."""
    world.broker.add(P0, ["a", "b"])
    policy = RetryPolicy(max_attempts=None, initial_backoff=50.0, max_backoff=50.0, jitter=0.0)
    async with world.consuming(Failing({0: fails()}), retry=policy, stall_warning=20.0):
        await trio.sleep(30)
        assert "stall: <Record orders[0]@0 key=b'a' attempt=2 assignment_epoch=1> has been incomplete" in caplog.text


# When attempts end


async def test_last_failure_leaves(autojump_clock: MockClock, world: World) -> None:
    """``run`` ends with the error and notes that name the record and its last attempt; all else is committed."""
    world.broker.add(P0, ["a", "b", "a", "c"])
    handle = Failing({0: fails()})
    async with parallel_consumer(world.config(retry=TEN_SECONDS, commit_interval=NEVER)) as pc:
        with pytest.RaisesGroup(HandlerError, match="the handler failed") as caught:
            await pc.run(handle)
        assert not world.client.owned
        assert pc.statistics().totals.failed == 3
    assert caught.value.exceptions[0].__notes__ == [
        "while handling topic='orders' partition=0 offset=0 key=b'a' attempt=3"
    ]
    assert [number for offset, number in handle.started(P0) if offset == 0] == [1, 2, 3]
    assert (0, 2) not in handle.done
    assert committed_records(world, P0) == {1, 3}


async def test_lane_stays_sealed_while_others_drain(autojump_clock: MockClock, world: World) -> None:
    """After a final failure nothing of its lane starts, and nothing that is parked comes again; what runs ends."""
    world.broker.add(P0, ["a", "b", "a", "a", "c"])
    handle = Failing({0: fails(), 1: fails(error=lambda: Retry(after=15))})
    slow = Handling(work=30.0)

    async def either(record: Record) -> None:
        await (slow(record) if record.offset == 4 else handle(record))

    policy = RetryPolicy(max_attempts=2, initial_backoff=9.0, jitter=0.0)
    with pytest.RaisesGroup(pytest.RaisesGroup(HandlerError)):
        async with world.consuming(either, retry=policy, shutdown_timeout=60.0):
            await trio.sleep_forever()
    assert handle.started(P0) == [(0, 1), (1, 1), (0, 2)]
    assert committed_records(world, P0) == {4}


async def test_skipped_record_is_completed_and_committed(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """With ``skip`` the key goes on after the last attempt; the record is logged and counted."""
    world.broker.add(P0, ["a", "a"], value=b"hush")
    handle = Failing({0: fails()})
    async with world.consuming(handle, retry=TEN_SECONDS, on_failure="skip") as pc:
        await trio.sleep(25)
        totals = pc.statistics().totals
        assert (totals.failed, totals.retried, totals.skipped, totals.completed) == (3, 2, 1, 2)
        assert world.committed(P0) == 2
    assert handle.started(P0) == [(0, 1), (0, 2), (0, 3), (1, 1)]
    assert "<Record orders[0]@0 key=b'a' attempt=3 assignment_epoch=1> is skipped: attempt 3 failed" in caplog.text
    assert "hush" not in caplog.text


@pytest.mark.parametrize(
    ("retry_on", "attempts"), [((ValueError,), 1), ((HandlerError,), 3), (lambda error: "bad" in str(error), 3)]
)
async def test_not_every_failure_is_worth_another_attempt(
    autojump_clock: MockClock, world: World, retry_on: Any, attempts: int
) -> None:
    """``retry_on`` says which are."""
    world.broker.add(P0, ["a"])
    handle = Failing({0: fails()})
    policy = RetryPolicy(max_attempts=3, initial_backoff=0.0, retry_on=retry_on)
    async with world.consuming(handle, retry=policy, on_failure="skip"):
        await trio.sleep(5)
    assert len(handle.attempts) == attempts


# Partitions that go while lanes are parked


async def test_revoke_leaves_parked_lanes(autojump_clock: MockClock, world: World) -> None:
    """A revoke waits for no parked lane: it is left, the map covers what is done, and the next owner gets the rest.

    In its new assignment the record's attempts begin at 1.
    """
    world.broker.add(P0, ["a", "b", "a", "c"])
    handle = Failing({0: fails(2)})
    async with world.consuming(handle, retry=TEN_SECONDS, commit_interval=NEVER, revoke_grace=30.0) as pc:
        await trio.sleep(13)  # its third attempt is due at 20
        began = trio.current_time()
        await world.rebalance(revoke=[P0])
        assert trio.current_time() - began < 1
        assert committed_records(world, P0) == {1, 3}
        await trio.sleep(20)
        assert handle.started(P0) == [(0, 1), (1, 1), (3, 1), (0, 2)]
        await world.rebalance(assign=[P0])
        await trio.sleep(1)
        assert handle.started(P0)[4:] == [(0, 1), (2, 1)]
        assert pc.statistics().totals.not_replayed == 2
    assert world.committed(P0) == 4


async def test_lost_partition_takes_its_parked_lanes_with_it(autojump_clock: MockClock, world: World) -> None:
    """Nothing is committed and nothing comes again in the assignment that was lost."""
    world.broker.add(P0, ["a", "b"])
    handle = Failing({0: fails(1)})
    async with world.consuming(handle, retry=TEN_SECONDS, commit_interval=NEVER):
        await trio.sleep(5)
        await world.rebalance(lose=[P0])
        await trio.sleep(20)
        assert handle.started(P0) == [(0, 1), (1, 1)]
        assert committed_records(world, P0) == set()
        await world.rebalance(assign=[P0])
        await trio.sleep(1)
        assert handle.started(P0)[2:] == [(0, 1), (1, 1)]


async def test_attempt_that_fails_during_its_grace_is_left(autojump_clock: MockClock, world: World) -> None:
    """A handler that fails while its partition is revoked isn't waited for a second time."""
    world.broker.add(P0, ["a"])
    handle = Failing({0: fails(1)}, work=5.0)
    async with world.consuming(handle, retry=TEN_SECONDS, revoke_grace=60.0):
        await trio.sleep(2)
        await world.rebalance(revoke=[P0])
        assert trio.current_time() == pytest.approx(5.0, abs=0.1)
        await trio.sleep(20)
    assert handle.started(P0) == [(0, 1)]
    assert committed_records(world, P0) == set()


async def test_stop_leaves_parked_lanes(autojump_clock: MockClock, world: World) -> None:
    """A stop finishes what can run at once, and neither waits for parked lanes nor for what fails meanwhile."""
    world.broker.add(P0, ["a", "b", "c", "a"])
    handle = Failing({0: fails(1), 1: fails(1)})
    slow = Handling(work=12.0)

    async def either(record: Record) -> None:
        await (slow(record) if record.offset == 2 else handle(record))

    async with world.consuming(either, retry=TEN_SECONDS):
        await trio.sleep(1)
        handle.work = 3.0
        world.broker.add(P0, ["d"])
        await trio.sleep(1)
    assert trio.current_time() == pytest.approx(12.0, abs=0.5)
    assert handle.started(P0) == [(0, 1), (1, 1), (4, 1)]
    assert committed_records(world, P0) == {2, 4}


async def test_failure_during_the_drain_is_left(autojump_clock: MockClock, world: World) -> None:
    """A record that fails while the consumer stops, and is due at once, isn't attempted again."""
    world.broker.add(P0, ["a", "a"])
    handle = Failing({0: fails(1)}, work=3.0)
    policy = RetryPolicy(max_attempts=3, initial_backoff=0.0)
    async with world.consuming(handle, retry=policy):
        await trio.sleep(1)
    assert handle.started(P0) == [(0, 1)]
    assert committed_records(world, P0) == set()


@pytest.mark.parametrize("kind", ["body error", "cancellation"])
async def test_ending_at_once_leaves_parked_lanes(autojump_clock: MockClock, world: World, kind: str) -> None:
    """A body error and a cancellation leave parked lanes where they are, and commit what is done."""
    world.broker.add(P0, ["a", "b", "a", "c"])
    handle = Failing({0: fails(1)})
    config = world.config(retry=TEN_SECONDS, commit_interval=NEVER)
    with pytest.RaisesGroup(BodyError) if kind == "body error" else trio.move_on_after(3):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await trio.sleep(3)
            raise BodyError
    assert trio.current_time() < 4
    assert committed_records(world, P0) == {1, 3}
    assert not world.client.left_owned


# Under chance


class Watched:
    """A handler that fails at random, and notes records that pass one of their key or miscount their attempts."""

    def __init__(self, chance: random.Random, keys: dict[int, dict[int, str]]) -> None:
        self.done: dict[int, set[int]] = {0: set(), 1: set()}
        self.attempts: Counter[tuple[int, int, int]] = Counter()
        self.violations: list[Record] = []
        self.chance = chance
        self.keys = keys
        self.is_failing = True
        self._running: set[tuple[int, str]] = set()

    async def __call__(self, record: Record) -> None:
        key = self.keys[record.partition][record.offset]
        earlier = {o for o, each in self.keys[record.partition].items() if each == key and o < record.offset}
        place = record.partition, record.offset, record.assignment_epoch
        self.attempts[place] += 1
        if (
            not earlier <= self.done[record.partition]
            or (record.partition, key) in self._running
            or record.attempt != self.attempts[place]
        ):
            self.violations.append(record)
        self._running.add((record.partition, key))
        try:
            await trio.sleep(self.chance.choice([0, 0, 0.01, 0.3]))
            if self.is_failing and self.chance.random() < 0.3:
                raise HandlerError("bad luck")
        finally:
            self._running.discard((record.partition, key))
        self.done[record.partition].add(record.offset)


@pytest.mark.parametrize("seed", range(8))
async def test_key_order_under_chance(autojump_clock: MockClock, world: World, seed: int) -> None:
    """Whatever fails, comes and goes: no record is attempted before all earlier ones of its key are done.

    What is committed was done, attempts are counted within an assignment, and in the end all is done.
    """
    chance = random.Random(seed)
    keys = {p: {n: chance.choice("abcdef") for n in range(150)} for p in (0, 1)}
    for partition in (P0, P1):
        world.broker.add(partition, keys[partition.partition].values())
    handle = Watched(chance, keys)
    config = {
        "retry": RetryPolicy(max_attempts=None, initial_backoff=0.05, max_backoff=1.0),
        "max_concurrency": chance.choice([1, 3, 50]),
        "max_buffered_records": chance.choice([16, 1000]),
        "commit_interval": 0.1,
        "revoke_grace": 0.1,
    }
    for _ in range(3):
        handle.attempts.clear()
        async with world.consuming(handle, **config) as pc:
            await pc.wait_assigned()
            for _ in range(4):
                await trio.sleep(chance.uniform(0, 2))
                partition = chance.choice([P0, P1])
                action = chance.choice(["revoke", "lose"])
                await world.rebalance(**{action: [partition]}, assign=[partition])
        for partition in (P0, P1):
            assert committed_records(world, partition) <= handle.done[partition.partition]
    handle.is_failing = False
    handle.attempts.clear()
    async with world.consuming(handle, **config):
        await trio.sleep(60)
    assert not handle.violations
    assert (world.committed(P0), world.committed(P1)) == (150, 150)
