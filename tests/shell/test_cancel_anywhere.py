"""The block is cancelled at every moment of a short life: nothing is lost, nothing is left, and it ends."""

from __future__ import annotations

from collections import defaultdict

import pytest
import trio
import trio.testing
from confluent_kafka import KafkaError as ClientError
from shell.kit import P0, P1, StepCounter, World, error
from trio.testing import MockClock

from trio_parallel_kafka import ParallelConsumer, Record, parallel_consumer
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.metadata import read_metadata
from trio_parallel_kafka.errors import CommitError

MOMENTS = 600
"""Milliseconds, and steps of the scheduler, that the script takes at most."""

Done = dict[TopicPartition, set[int]]


def script(world: World) -> None:
    """A broker that is slow and in trouble now and then, so that there is something to cancel everywhere."""
    world.broker.add(P0, [f"k{n % 3}" for n in range(12)])
    world.broker.add(P1, [None] * 12)
    for call in ("Metadata", "OffsetFetch", "DescribeTopicPartitions", "ListOffsets", "OffsetCommit", "start"):
        world.broker.network.delays[call] = 0.011
    world.broker.network.errors["OffsetFetch"] += [None, None, error(ClientError.REQUEST_TIMED_OUT)]
    world.broker.network.errors["OffsetCommit"] += [None, error(ClientError.REQUEST_TIMED_OUT)]


async def live(pc: ParallelConsumer, world: World, done: Done) -> None:
    """Partitions come and go while handlers run; then a stop."""
    running: set[tuple[int, bytes]] = set()

    async def handle(record: Record) -> None:
        lane = record.partition, record.key or b"%d" % record.offset
        assert lane not in running
        running.add(lane)
        try:
            await trio.sleep(0.017)
        finally:
            running.discard(lane)
        done[TopicPartition(record.topic, record.partition)].add(record.offset)

    async with trio.open_nursery() as nursery:
        await nursery.start(pc.run, handle)
        await trio.sleep(0.03)
        await world.rebalance(revoke=[P1])
        await world.rebalance(assign=[P1])
        await trio.sleep(0.02)
        await world.rebalance(lose=[P0], assign=[P0])
        await trio.sleep(0.02)
        world.client.rewind(P1, 1)
        await trio.sleep(0.05)
        pc.stop()


def check(world: World, done: Done) -> None:
    """No commit names more than what was handled; nothing is left owned, and no task or call is left waiting."""
    for partition, (offset, metadata) in world.broker.one_group.offsets.items():
        assert metadata is not None
        named = set(range(offset))
        for start, end in read_metadata(metadata, offset).completed:
            named |= set(range(start, end))
        assert named <= done[partition], partition
    for client in world.clients:
        assert client.ended.is_set()
        assert not client.left_owned


async def lives(world: World, scope: trio.CancelScope, done: Done) -> None:
    """A consumer's life within a scope."""
    config = world.config(max_concurrency=4, commit_interval=0.02, revoke_grace=0.005, max_buffered_records=8)
    try:
        with scope:
            async with parallel_consumer(config) as pc:
                await live(pc, world, done)
    except* CommitError:
        pass  # a partition was lost before its refused commit could be made again


async def test_uncancelled_life_is_worth_cancelling(autojump_clock: MockClock, world: World) -> None:
    """The script runs to its end, within the moments that are tried below, and takes all the turns it is meant to."""
    script(world)
    done: Done = defaultdict(set)
    counter = StepCounter(MOMENTS)
    trio.lowlevel.add_instrument(counter)
    await lives(world, trio.move_on_after(MOMENTS / 1000), done)
    trio.lowlevel.remove_instrument(counter)
    check(world, done)
    assert not counter.scope.cancel_called
    assert trio.current_time() < MOMENTS / 1000
    calls = {name for name, _ in world.client.calls.log}
    assert calls >= {"OffsetFetch", "commit", "start", "pause", "resume", "unsubscribe", "reply", "taken"}


@pytest.mark.parametrize("first", range(0, MOMENTS, 20))
async def test_cancelled_after_milliseconds(autojump_clock: MockClock, world: World, first: int) -> None:
    """Whenever the block is cancelled, what is committed was handled, and everything has ended."""
    for milliseconds in range(first, first + 20):
        world.reset()
        script(world)
        done: Done = defaultdict(set)
        await lives(world, trio.move_on_after(milliseconds / 1000), done)
        check(world, done)


@pytest.mark.parametrize("first", range(0, MOMENTS, 20))
async def test_cancelled_after_steps(autojump_clock: MockClock, world: World, first: int) -> None:
    """The same at steps of the scheduler, between which no time need pass."""
    for steps in range(first, first + 20):
        world.reset()
        script(world)
        done: Done = defaultdict(set)
        counter = StepCounter(steps)
        trio.lowlevel.add_instrument(counter)
        try:
            await lives(world, counter.scope, done)
        finally:
            trio.lowlevel.remove_instrument(counter)
        check(world, done)
