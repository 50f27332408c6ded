"""The block is cancelled at every step of a short life full of failures: nothing is lost, passed over, or left."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from shell.failing import graveyard
from shell.fake_outbox import FakeOutbox
from shell.kit import P0, P1, Place, StepCounter, World
from trio.testing import MockClock

from trio_parallel_kafka import DeadLetter, ParallelConsumer, ProducerRecord, Record, Retry, Skip, parallel_consumer
from trio_parallel_kafka.config import BreakerPolicy, DeadLetterConfig, RetryPolicy
from trio_parallel_kafka.core.metadata import read_metadata
from trio_parallel_kafka.errors import CommitError, DeliveryError

STEPS = 450
"""Steps of the scheduler that the script takes at most."""

COUNT = 12

FIELDS: dict[str, Any] = {
    "max_concurrency": 4,
    "commit_interval": 0.02,
    "revoke_grace": 0.005,
    "handler_timeout": 0.02,
    "retry": RetryPolicy(max_attempts=3, initial_backoff=0.01, jitter=0.0),
    "on_failure": "dead_letter",
    "dead_letter": DeadLetterConfig(on_dead_letter_failure="retry"),
    "breaker": BreakerPolicy(failure_rate=0.6, min_attempts=4, window=0.1, probe_interval=0.01),
}


class Fates:
    """A handler whose records meet all that can become of one; ``ended`` are those that came to an end by it."""

    def __init__(self) -> None:
        self.ended: set[Place] = set()
        self.passed: list[Record] = []
        self.turns: set[str] = set()
        self._running: set[tuple[int, bytes]] = set()

    async def __call__(self, record: Record) -> ProducerRecord | None:
        lane = record.partition, record.key or b"%d" % record.offset
        earlier = {(record.partition, each) for each in range(record.offset % 3, record.offset, 3)}
        if lane in self._running or (record.key is not None and not earlier <= self.ended):
            self.passed.append(record)
        self._running.add(lane)
        try:
            await trio.sleep(0.007)
            return await self._fate(record)
        finally:
            self._running.discard(lane)

    async def _fate(self, record: Record) -> ProducerRecord | None:
        place = record.partition, record.offset
        match record.offset % 6:
            case 0 if record.attempt == 1:
                raise self._met(Retry(after=0.015))
            case 1 if record.attempt < 3:
                self.turns.add("timeout")
                await trio.sleep_forever()
            case 2:
                self.ended.add(place)  # what isn't sent isn't committed: see there
                raise self._met(DeadLetter("malformed") if record.offset == 2 else ValueError("bad"))
            case 3:
                self.turns.add("output")
                self.ended.add(place)
                return ProducerRecord("results", b"%d" % record.offset)
            case 4 if record.partition == 1:
                self.ended.add(place)
                raise self._met(Skip())
        self.ended.add(place)
        return None

    def _met(self, error: Exception) -> Exception:
        self.turns.add(type(error).__name__)
        return error


def script(world: World, outbox: FakeOutbox) -> None:
    """A broker and an outbox that are slow and in trouble now and then."""
    graveyard(world)
    world.broker.add(P0, [f"k{n % 3}" for n in range(COUNT)])
    world.broker.add(P1, [None] * COUNT)
    world.broker.network.delays["OffsetCommit"] = 0.007
    outbox.sent.clear()
    outbox.errors.clear()
    outbox.errors += [DeliveryError("no ack"), None, DeliveryError("no ack"), None]
    outbox.delay = 0.006


async def live(pc: ParallelConsumer, world: World, handle: Fates) -> None:
    """Partitions come and go, and are paused, while records fail; then a stop."""
    async with trio.open_nursery() as nursery:
        await nursery.start(pc.run, handle)
        await trio.sleep(0.03)
        await world.rebalance(revoke=[P1], assign=[P1])
        pc.pause([P0])
        await trio.sleep(0.02)
        pc.resume()
        await world.rebalance(lose=[P0], assign=[P0])
        await trio.sleep(0.05)
        pc.stop()


def check(world: World, outbox: FakeOutbox, handle: Fates) -> None:
    """What is committed came to its end, and what had to be sent was; nothing is left owned."""
    sent = set(outbox.places)
    for partition, (offset, metadata) in world.broker.one_group.offsets.items():
        assert metadata is not None
        named = set(range(offset))
        for start, end in read_metadata(metadata, offset).completed:
            named |= set(range(start, end))
        for each in named:
            place = partition.partition, each
            assert place in handle.ended
            assert each % 6 not in {2, 3} or place in sent
    assert not handle.passed
    for client in world.clients:
        assert client.ended.is_set()
        assert not client.left_owned


async def lives(world: World, scope: trio.CancelScope, handle: Fates) -> None:
    """A consumer's life within a scope."""
    try:
        with scope:
            async with parallel_consumer(world.config(**FIELDS)) as pc:
                await live(pc, world, handle)
    except* CommitError:
        pass  # a partition was lost before its commit was acknowledged


async def lives_on(world: World, outbox: FakeOutbox, handle: Fates) -> None:
    """The next member, whom nobody cancels, brings everything to its end."""
    async with world.consuming(handle, **FIELDS):
        while any(world.committed(each) != COUNT for each in (P0, P1)):
            await trio.sleep(0.05)
    check(world, outbox, handle)


async def test_uncancelled_life_is_worth_cancelling(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """The script runs to its end, within the steps that are tried below, and takes all the turns it is meant to."""
    script(world, outbox)
    handle = Fates()
    counter = StepCounter(STEPS)
    trio.lowlevel.add_instrument(counter)
    await lives(world, counter.scope, handle)
    trio.lowlevel.remove_instrument(counter)
    check(world, outbox, handle)
    assert not counter.scope.cancel_called
    assert handle.turns >= {"Retry", "timeout", "DeadLetter", "output", "Skip"}
    await lives_on(world, outbox, handle)
    assert set(outbox.places) == {(number, each) for number in (0, 1) for each in range(COUNT) if each % 6 in {2, 3}}


@pytest.mark.parametrize("first", range(0, STEPS, 50))
async def test_cancelled_after_steps(autojump_clock: MockClock, world: World, outbox: FakeOutbox, first: int) -> None:
    """Whenever the block is cancelled, what is committed had its end; the next member finishes the rest in order."""
    for steps in range(first, first + 50):
        world.reset()
        script(world, outbox)
        handle = Fates()
        counter = StepCounter(steps)
        trio.lowlevel.add_instrument(counter)
        try:
            await lives(world, counter.scope, handle)
        finally:
            trio.lowlevel.remove_instrument(counter)
        check(world, outbox, handle)
        if steps % 5 == 0:
            await lives_on(world, outbox, handle)
