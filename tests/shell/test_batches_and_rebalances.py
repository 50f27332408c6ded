"""Batches whose partitions come and go: what is handled again, and what is complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from shell.batching import SCOPES, Batches, batching, output
from shell.failing import graveyard
from shell.fake_outbox import FakeOutbox
from shell.kit import P0, P1, HandlerError, World, of, settle
from trio.testing import MockClock

from trio_parallel_kafka import DeadLetter, DeadLetterConfig, Inline, Record, Retry, Skip

BOTH = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("way", ["revoke", "lose"])
async def test_batch_of_any_loses_a_partition(autojump_clock: MockClock, world: World, way: str) -> None:
    """The batch is cancelled; its other records are handled again, at once, and nothing is complete twice."""
    world.broker.add(P0, "ab")
    world.broker.add(P1, "ab")
    handler = Batches(work=10)
    async with batching(world, handler, scope="any", revoke_grace=3) as pc:
        await trio.sleep(1)
        await world.rebalance(**{way: [P1]})
        await settle()
        assert handler.cancelled == [BOTH]
        assert world.committed(P1) in {None, 0}
        await trio.sleep(14)
        totals = pc.statistics().totals
        assert (totals.completed, totals.abandoned, totals.fenced) == (2, 4, 0)
        await world.rebalance(assign=[P1])
        await trio.sleep(12)
        assert pc.statistics().totals.completed == 4
    assert handler.places == [BOTH, BOTH[:2], BOTH[2:]]
    assert handler.times[:2] == ([0, 4] if way == "revoke" else [0, 1])
    assert [each.attempt for each in handler.given[1]] == [1, 1]
    assert (world.committed(P0), world.committed(P1)) == (2, 2)


async def test_batch_ends_within_the_grace(autojump_clock: MockClock, world: World) -> None:
    """A batch that ends in time is complete, and committed with the revoke."""
    world.broker.add(P0, "ab")
    world.broker.add(P1, "ab")
    handler = Batches(work=10)
    async with batching(world, handler, scope="any", revoke_grace=20) as pc:
        await trio.sleep(1)
        await world.rebalance(revoke=[P1])
        assert trio.current_time() == pytest.approx(10, abs=0.1)
        assert world.committed(P1) == 2
        assert (pc.statistics().totals.completed, handler.cancelled) == (4, [])
    assert handler.places == [BOTH]


@pytest.mark.parametrize("scope", SCOPES)
async def test_rest_of_a_revoked_lane(autojump_clock: MockClock, world: World, scope: str) -> None:
    """What is behind a batch that runs, and what it leaves for later, isn't started once its partition is revoked."""
    world.broker.add(P0, "aaaaa")
    handler = Batches({(0, 0): [Retry(after=0)]}, work=2)
    async with batching(world, handler, scope=scope, max_size=3) as pc:
        await trio.sleep(1)
        await world.rebalance(revoke=[P0])
        await trio.sleep(20)
        assert handler.places == [[(0, 0), (0, 1), (0, 2)]]
        assert world.committed(P0) == 0
        await world.rebalance(assign=[P0])
        await trio.sleep(20)
        assert pc.statistics().totals.not_replayed == 2
    assert handler.attempts[1:] == [[(0, 1), (3, 1), (4, 1)]]
    assert world.committed(P0) == 5


async def test_late_batch_of_a_lost_partition(autojump_clock: MockClock, world: World) -> None:
    """What a batch that can't be cancelled completes late counts for the partitions that are still there."""
    world.broker.add(P0, "ab")
    world.broker.add(P1, "ab")
    calls = 0

    async def handle(records: tuple[Record, ...]) -> None:
        nonlocal calls
        calls += 1
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    async with batching(world, handler=handle, scope="any") as pc:
        await trio.sleep(1)
        await world.rebalance(lose=[P1])
        await trio.sleep(15)
        totals = pc.statistics().totals
    assert (totals.completed, totals.fenced, totals.abandoned) == (2, 2, 0)
    assert calls == 1
    assert world.committed(P0) == 2
    assert world.committed(P1) in {None, 0}


async def test_cancelled_while_sending(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """Nothing of a batch is complete before all its outputs are taken; those that stay are handled and sent again."""
    world.broker.add(P0, "ab")
    world.broker.add(P1, "ab")
    outbox.delay = 5
    plan = {place: [[output(str(place))], [output(str(place))]] for place in BOTH}
    handler = Batches(plan)
    async with batching(world, handler, scope="any", revoke_grace=1) as pc:
        await trio.sleep(2)
        await world.rebalance(revoke=[P1])
        assert not outbox.sent
        assert pc.statistics().totals.completed == 0
        assert world.committed(P1) in {None, 0}
        await trio.sleep(10)
    assert handler.places == [BOTH, BOTH[:2]]
    assert outbox.places == BOTH[:2]
    assert world.committed(P0) == 2


async def test_cancelled_while_burying(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """What was done stays done; the rest, whatever was decided about it, is handled again with the same attempt."""
    graveyard(world)
    world.broker.add(P0, "abcc")
    world.broker.add(P1, "ab")
    outbox.delay = 5
    plan: dict[tuple[int, int], Sequence[object]] = {
        (0, 0): [Retry(after=100)],
        (0, 1): [DeadLetter()],
        (1, 0): [Skip()],
        (1, 1): [DeadLetter()],
    }
    handler = Batches(plan)
    async with batching(world, handler, scope="any", revoke_grace=3, dead_letter=DeadLetterConfig()) as pc:
        await trio.sleep(4)
        assert pc.statistics().totals.completed == 2
        handler.work = 6
        await world.rebalance(revoke=[P1])
        await trio.sleep(2)
        assert pc.statistics().totals.completed == 4
        oldest = of(pc, P0).oldest_incomplete
        assert oldest is not None
        assert (oldest.offset, oldest.attempt, oldest.is_running) == (0, 1, True)
        await trio.sleep(10)
    assert handler.attempts == [[(0, 1), (1, 1), (2, 1), (3, 1), (0, 1), (1, 1)], [(0, 1)]]
    assert outbox.places == [(0, 1)]
    assert (world.committed(P0), world.committed(P1)) == (4, 1)


async def test_unknown_key_of_a_batch_that_is_cancelled(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """A record whose key couldn't be told is never handed out, however often its dead letter is cut short.

    After the first time it was forgotten that it had no key, and the handler got it.
    """
    graveyard(world)
    world.broker.add(P0, "x")
    world.broker.add(P1, "a")
    outbox.delay = 5
    handler = Batches({(1, 0): [Retry(after=100)]})

    def key_of(record: Record) -> bytes | None:
        if record.key == b"x":
            raise KeyError(record.key)
        return record.key

    fields: dict[str, Any] = {"key_of": key_of, "on_failure": "dead_letter", "revoke_grace": 1}
    async with batching(world, handler, scope="any", **fields):
        await trio.sleep(1)
        await world.rebalance(revoke=[P1])
        await trio.sleep(10)
    assert outbox.tried == 2
    assert handler.places == [[(1, 0)]]
    assert outbox.places == [(0, 0)]
    assert world.committed(P0) == 1


@pytest.mark.parametrize("scope", ["partition", "any"])
async def test_what_is_done_leaves_its_batch(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, scope: str
) -> None:
    """While a dead letter isn't out, only its key waits, and others go on at once.

    All keys of the batch waited.
    """
    graveyard(world)
    world.broker.add(P0, "abbbba")
    outbox.delay = 30
    handler = Batches({(0, 0): [DeadLetter()]})
    options: dict[str, Any] = {"scope": scope, "max_size": 4, "max_concurrency": 2}
    async with batching(world, handler, dead_letter=DeadLetterConfig(), **options) as pc:
        await trio.sleep(1)
        assert handler.places == [[(0, 0), (0, 1), (0, 2), (0, 5)], [(0, 3), (0, 4)]]
        assert (of(pc, P0).in_flight, pc.statistics().totals.completed) == (2, 5)
        world.broker.add(P0, "ab")
        await trio.sleep(1)
        assert handler.places[-1] == [(0, 7)]
        await trio.sleep(40)
    assert handler.places[-1] == [(0, 6)]
    assert handler.times == [0, 0, 1, 30]
    assert outbox.places == [(0, 0)]
    assert world.committed(P0) == 8


async def test_revoke_of_what_is_done(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A partition can go as soon as it has nothing in a batch that something else keeps from ending.

    Its revoke used up its grace, and cancelled what it wasn't about.
    """
    graveyard(world)
    world.broker.add(P0, "a")
    world.broker.add(P1, "a")
    outbox.delay = 30
    handler = Batches({(0, 0): [DeadLetter()]}, work=3)
    async with batching(world, handler, scope="any", dead_letter=DeadLetterConfig(), revoke_grace=20) as pc:
        await trio.sleep(1)
        await world.rebalance(revoke=[P1])
        assert trio.current_time() == pytest.approx(3, abs=0.1)
        assert world.committed(P1) == 1
        await trio.sleep(40)
        assert pc.statistics().totals.abandoned == 0
    assert outbox.places == [(0, 0)]
    assert outbox.tried == 1


def digits(data: bytes | None, _context: object) -> int:
    """Deserialise."""
    return int(data or b"")


@pytest.mark.parametrize("value", [b"1", b"one"], ids=["decodable", "undecodable"])
@pytest.mark.parametrize("scope", ["partition", "any"])
async def test_raises_when_cancelled(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture, scope: str, value: bytes
) -> None:
    """What a handler makes of its cancellation is no failure of its records, whatever else is in the batch.

    Beside a record that couldn't be decoded it was one, and stopped the consumer.
    """
    world.broker.add(P0, "a", value=b"1")
    world.broker.add(P0, "b", value=value)
    world.broker.add(P1, "a", value=b"1")
    calls: list[int] = []

    async def handle(records: tuple[Record, ...]) -> list[Exception]:
        calls.append(len(records))
        try:
            await trio.sleep(30)
        except trio.Cancelled:
            raise HandlerError from None  # noqa: ASYNC104 - what must not be done
        return [Skip()] * len(records)

    fields: dict[str, Any] = {"deserialize_value": Inline(digits), "revoke_grace": 1}
    async with batching(world, handle, scope=scope, **fields) as pc:
        await trio.sleep(1)
        await world.rebalance(revoke=[P0])
        assert world.committed(P0) in {None, 0}
        await trio.sleep(40)
        totals = pc.statistics().totals
    assert (totals.failed, totals.skipped, totals.completed) == (0, 1, 1)
    assert world.committed(P1) == 1
    assert calls[-1] == 1
    assert ("raised while it was cancelled" in caplog.text) == (value == b"1")


async def test_outcomes_of_a_cancelled_call(autojump_clock: MockClock, world: World) -> None:
    """A handler that returns outcomes in spite of its cancellation: what is done counts, what failed comes again."""
    world.broker.add(P0, "ab")
    world.broker.add(P1, "a")
    calls: list[int] = []

    async def handle(records: tuple[Record, ...]) -> list[Exception | None]:
        calls.append(len(records))
        with trio.move_on_after(30) as scope:
            scope.shield = len(calls) == 1
            await trio.sleep(5)
        return [None, *[HandlerError()] * (len(records) - 1)]

    async with batching(world, handle, scope="any", revoke_grace=1) as pc:
        await trio.sleep(1)
        await world.rebalance(revoke=[P1])
        await trio.sleep(20)
        totals = pc.statistics().totals
    assert (totals.completed, totals.failed, totals.abandoned) == (2, 0, 2)
    assert calls == [3, 1]
    assert world.committed(P0) == 2


@pytest.mark.parametrize("scope", SCOPES)
async def test_partition_comes_back(autojump_clock: MockClock, world: World, scope: str) -> None:
    """A partition that goes and comes is handled from its committed position on, its attempts counted anew."""
    world.broker.add(P0, [f"k{n % 3}" for n in range(12)])
    world.broker.add(P1, [f"k{n % 3}" for n in range(12)])
    handler = Batches({(0, 0): [Retry(after=3), Retry(after=3)], (1, 1): [Retry(after=2)]}, work=1)
    async with batching(world, handler, scope=scope, max_size=5, revoke_grace=0.5) as pc:
        for _ in range(3):
            await trio.sleep(1.3)
            await world.rebalance(revoke=[P0], assign=[P0])
        await trio.sleep(30)
        assert sum(each.buffered_records for each in pc.statistics().partitions) == 0
    first = [each.attempt for batch in handler.given for each in batch if (each.partition, each.offset) == (0, 0)]
    assert first.count(1) > 1
    assert (world.committed(P0), world.committed(P1)) == (12, 12)
