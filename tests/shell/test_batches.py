"""Batches: what is in one, how many there are, and when none is handed out."""

from __future__ import annotations

import pytest
import trio
from shell.batching import SCOPES, Batches, batching, run
from shell.kit import P0, P1, HandlerError, World, later, settle
from trio.testing import MockClock

from trio_parallel_kafka import (
    BreakerPolicy,
    HandlerTimeoutError,
    InvalidHandlerError,
    Retry,
    RetryPolicy,
    parallel_consumer,
)

# What is in a batch


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("key", [[(0, 0), (0, 2)], [(1, 0)], [(0, 1)], [(1, 1)], [(0, 3)]]),
        ("partition", [[(0, 0), (0, 1), (0, 2)], [(1, 0), (1, 1)], [(0, 3)]]),
        ("any", [[(0, 0), (0, 2), (1, 0)], [(0, 1), (0, 3), (1, 1)]]),
    ],
)
async def test_scopes(autojump_clock: MockClock, world: World, scope: str, expected: list[list[object]]) -> None:
    """A batch has records of one key, of one partition, or of any, at most max_size, in order."""
    world.broker.add(P0, "abac")
    world.broker.add(P1, "ab")
    handler = Batches()
    async with batching(world, handler, scope=scope, max_size=3, max_concurrency=1):
        await settle()
    assert handler.places == expected


@pytest.mark.parametrize("scope", SCOPES)
async def test_order_and_size(autojump_clock: MockClock, world: World, scope: str) -> None:
    """Whatever the scope: no batch is larger than max_size, each is in order, and so are the batches of a key."""
    world.broker.add(P0, "aabbbcabcaaab" * 3)
    world.broker.add(P1, "ccabbcabcab" * 3)
    handler = Batches(work=1)
    async with batching(world, handler, scope=scope, max_size=4, max_concurrency=5):
        await trio.sleep(60)
    assert max(map(len, handler.places)) == 4
    assert all(places == sorted(places) for places in handler.places)
    for partition in (0, 1):
        for key in (b"a", b"b", b"c"):
            mine = [r.offset for batch in handler.given for r in batch if (r.partition, r.key) == (partition, key)]
            assert mine == sorted(mine)
    assert handler.peak > 2
    assert sum(map(len, handler.places)) == 72


async def test_key_order_over_retries(autojump_clock: MockClock, world: World) -> None:
    """A lane's later records wait for one that is tried again; what was with it in its batch was handed out before."""
    world.broker.add(P0, ["a", "b", "a", "a", "b"])
    handler = Batches({(0, 0): [Retry(after=3), Retry(after=3)]})
    async with batching(world, handler, max_size=2):
        await trio.sleep(10)
    assert handler.attempts == [[(0, 1), (2, 1)], [(1, 1), (4, 1)], [(0, 2), (3, 1)], [(0, 3)]]
    assert handler.times == [0, 0, 3, 6]


async def test_order_of_several_that_are_tried_again(autojump_clock: MockClock, world: World) -> None:
    """Of one key, they come again together, in order, when the last of them may."""
    world.broker.add(P0, ["a"] * 5)
    handler = Batches({(0, 0): [Retry(after=1)], (0, 2): [Retry(after=6)], (0, 3): [Retry(after=3)]})
    async with batching(world, handler, max_size=4):
        await trio.sleep(10)
    assert handler.attempts == [[(0, 1), (1, 1), (2, 1), (3, 1)], [(0, 2), (2, 2), (3, 2), (4, 1)]]
    assert handler.times == [0, 6]


async def test_concurrency_bounds_batches(autojump_clock: MockClock, world: World) -> None:
    """max_concurrency is of batches; statistics count the records in them."""
    world.broker.add(P0, [f"k{n}" for n in range(20)])
    world.broker.add(P1, [f"k{n}" for n in range(20)])
    handler = Batches(work=1)
    async with batching(world, handler, max_size=4, max_concurrency=3) as pc:
        await trio.sleep(0.5)
        statistics = pc.statistics()
        assert handler.peak == len(handler.given) == 3
        assert statistics.in_flight == 12
        assert sum(each.in_flight for each in statistics.partitions) == 12
        await trio.sleep(9)
        assert pc.statistics().in_flight == 0
    assert handler.peak == 3
    assert sum(map(len, handler.given)) == 40


async def test_handler_timeout(autojump_clock: MockClock, world: World) -> None:
    """The bound is one for the call; a batch that takes longer has failed, all of it."""
    world.broker.add(P0, "abc")
    handler = Batches(work=5)
    with pytest.RaisesGroup(pytest.RaisesExc(HandlerTimeoutError, match="3 s")):
        await run(world, handler, handler_timeout=3)
    assert handler.cancelled == [[(0, 0), (0, 1), (0, 2)]]
    assert world.committed(P0) in {None, 0}


# While nothing is to be started


@pytest.mark.parametrize("scope", SCOPES)
async def test_pause(autojump_clock: MockClock, world: World, scope: str) -> None:
    """Nothing is taken while it is paused, whatever has waited long enough; then at once."""
    world.broker.add(P0, "aa")
    handler = Batches()
    async with batching(world, handler, scope=scope, linger=3) as pc:
        pc.pause()
        await trio.sleep(5)
        assert not handler.given
        pc.resume()
        await settle()
    assert handler.times == [5]


@pytest.mark.parametrize("scope", SCOPES)
async def test_pause_of_a_partition(autojump_clock: MockClock, world: World, scope: str) -> None:
    """Records of a paused partition are in no batch."""
    world.broker.add(P0, "aa")
    world.broker.add(P1, "aa")
    handler = Batches()
    async with batching(world, handler, scope=scope, linger=3) as pc:
        pc.pause([P1])
        await trio.sleep(5)
        assert handler.places == [[(0, 0), (0, 1)]]
        pc.resume([P1])
        await settle()
    assert handler.places[1:] == [[(1, 0), (1, 1)]]
    assert handler.times == [3, 5]


@pytest.mark.parametrize("scope", SCOPES)
async def test_breaker(autojump_clock: MockClock, world: World, scope: str) -> None:
    """While it is open single records try; then batches are as large as before."""
    world.broker.add(P0, ["a"] * 8)
    policy = BreakerPolicy(failure_rate=0.5, min_attempts=4, window=10.0, probe_interval=5.0)
    handler = Batches(raises=[HandlerError(), HandlerError()])
    retry = RetryPolicy(max_attempts=9, initial_backoff=1.0, multiplier=1.0, jitter=0.0)
    async with batching(world, handler, scope=scope, max_size=4, breaker=policy, retry=retry) as pc:
        await trio.sleep(8)
        assert pc.statistics().held == ("circuit open",)
        await trio.sleep(8)
        assert pc.statistics().held == ()
    assert handler.attempts[:3] == [[(0, 1), (1, 1), (2, 1), (3, 1)], [(0, 2)], [(0, 3)]]
    assert handler.attempts[3:] == [[(1, 2), (2, 2), (3, 2), (4, 1)], [(5, 1), (6, 1), (7, 1)]]
    assert handler.times == [0, 5, 10, 10, 10]


# What may be asked for


async def test_misuse(autojump_clock: MockClock, world: World) -> None:
    """What makes no sense is refused, and leaves the consumer as it was."""
    world.broker.add(P0, "ab")
    handler = Batches()
    async with parallel_consumer(world.config()) as pc:
        with pytest.raises(InvalidHandlerError, match="has to be an async function"):
            await pc.run_batches(lambda _records: None)
        for options in (
            {"max_size": 0},
            {"max_size": 2.5},
            {"linger": -0.1},
            {"linger": float("inf")},
            {"linger": float("nan")},
        ):
            with pytest.raises(
                ValueError, match="max_size must be a whole number from 1 on and linger seconds from 0 on"
            ):
                await pc.run_batches(handler, **options)
        with pytest.raises(ValueError, match="scope must be one of key, partition, any"):
            await pc.run_batches(handler, scope="topic")  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(later, 1, pc.stop)
            await pc.run_batches(handler)
    assert world.committed(P0) == 2
