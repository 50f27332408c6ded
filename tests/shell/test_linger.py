"""How long a batch waits for more, and what never waits for that."""

from __future__ import annotations

import functools

import pytest
import trio
from shell.batching import SCOPES, Batches, batching
from shell.kit import P0, P1, World, of, settle
from trio.testing import MockClock

from trio_parallel_kafka import Retry, parallel_consumer

LONG = 300.0
"""Seconds of lingering that no test waits for."""


@pytest.mark.parametrize("scope", SCOPES)
async def test_first_record_waits_so_long(autojump_clock: MockClock, world: World, scope: str) -> None:
    """A batch that doesn't fill is taken when its first record has waited for linger."""
    world.broker.add(P0, "a")
    handler = Batches()
    async with batching(world, handler, scope=scope, linger=5) as pc:
        await trio.sleep(2)
        world.broker.add(P0, "a")
        await trio.sleep(2)
        assert (of(pc, P0).parked, pc.statistics().in_flight) == (0, 0)
        await trio.sleep(2)
        world.broker.add(P0, "a")
        await trio.sleep(7)
    assert handler.places == [[(0, 0), (0, 1)], [(0, 2)]]
    assert handler.times == [5, 11]


@pytest.mark.parametrize("scope", SCOPES)
async def test_full_batch_waits_no_more(autojump_clock: MockClock, world: World, scope: str) -> None:
    """A batch is taken at once when it is full; what is beyond waits for its own time."""
    world.broker.add(P0, "a")
    handler = Batches(work=100)
    async with batching(world, handler, scope=scope, linger=10, max_size=3) as pc:
        await trio.sleep(1)
        world.broker.add(P0, "a")
        await trio.sleep(1)
        world.broker.add(P0, "aa")
        await settle()
        assert of(pc, P0).parked == 0
        assert pc.statistics().in_flight == 3
        await trio.sleep(200)
    assert handler.places == [[(0, 0), (0, 1), (0, 2)], [(0, 3)]]
    assert handler.times == [2, 102]


@pytest.mark.parametrize(("scope", "sizes"), [("key", [1, 1, 1, 1]), ("partition", [2, 2]), ("any", [4])])
async def test_what_fills_a_batch(autojump_clock: MockClock, world: World, scope: str, sizes: list[int]) -> None:
    """Only records that can be in the same batch fill it."""
    world.broker.add(P0, "ab")
    world.broker.add(P1, "ab")
    handler = Batches()
    async with batching(world, handler, scope=scope, linger=7, max_size=4):
        await settle()
        assert (handler.times == [0]) == (scope == "any")
        await trio.sleep(8)
    assert list(map(len, handler.given)) == sizes


async def test_each_partition_by_itself(autojump_clock: MockClock, world: World) -> None:
    """A partition whose batch is ripe doesn't wait for another that isn't."""
    world.broker.add(P0, "ab")
    handler = Batches()
    async with batching(world, handler, linger=6):
        await trio.sleep(4)
        world.broker.add(P1, "ab")
        await trio.sleep(10)
    assert handler.places == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]
    assert handler.times == [6, 10]


async def test_keys_by_themselves(autojump_clock: MockClock, world: World) -> None:
    """Each key waits from its own first record on; a record without a key waits for nothing."""
    world.broker.add(P0, "a")
    handler = Batches()
    async with batching(world, handler, scope="key", linger=6, max_size=2):
        await trio.sleep(1)
        world.broker.add(P0, ["b", None])
        await trio.sleep(1)
        world.broker.add(P0, "b")
        await trio.sleep(10)
    assert handler.places == [[(0, 2)], [(0, 1), (0, 3)], [(0, 0)]]
    assert handler.times == [1, 2, 6]


@pytest.mark.parametrize("linger", [0.1, 0.2, 0.5])
async def test_due_in_the_same_moment_as_other_duties(autojump_clock: MockClock, world: World, linger: float) -> None:
    """Whatever else is done in the moment when a batch becomes ripe, and in whichever order, it is taken.

    A duty that moved the clock first hid the batch from the timer: its records waited for ever.
    """
    for _ in range(12):  # Trio shuffles what becomes runnable in one moment
        world.reset()
        handler = Batches()
        async with batching(world, handler, linger=linger) as pc:
            await pc.wait_assigned()
            began = trio.current_time()
            world.broker.add(P0, "a")
            await trio.sleep(3)
            assert handler.times == [round(began + linger, 3)]


@pytest.mark.parametrize("scope", SCOPES)
async def test_ripe_while_all_workers_are_busy(autojump_clock: MockClock, world: World, scope: str) -> None:
    """It is taken as soon as one is free, and the clock isn't asked in vain meanwhile."""
    world.broker.add(P0, "a")
    handler = Batches(work=20)
    async with batching(world, handler, scope=scope, linger=1, max_concurrency=1) as pc:
        await trio.sleep(2)
        world.broker.add(P1, "bc")
        counter = Turns()
        trio.lowlevel.add_instrument(counter)
        await trio.sleep(5)
        pc.resume()  # nothing was paused, but the timer is asked
        await trio.sleep(12)
        trio.lowlevel.remove_instrument(counter)
        await trio.sleep(60)
    assert counter.count < 1000
    assert handler.places[:2] == [[(0, 0)], [(1, 0)] if scope == "key" else [(1, 0), (1, 1)]]
    assert handler.times[:2] == [1, 21]


class Turns(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    def __init__(self) -> None:
        self.count = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


@pytest.mark.parametrize("scope", SCOPES)
async def test_retries_linger_no_more(autojump_clock: MockClock, world: World, scope: str) -> None:
    """What is tried again has waited long enough; in its lane nothing goes before it."""
    world.broker.add(P0, "a")
    handler = Batches({(0, 0): [Retry(after=4)]})
    async with batching(world, handler, scope=scope, linger=5, max_size=3) as pc:
        await trio.sleep(6)
        assert of(pc, P0).parked == 1
        world.broker.add(P0, "aaa")
        await settle()
        assert of(pc, P0).parked == 1
        await trio.sleep(20)
    assert handler.attempts == [[(0, 1)], [(0, 2), (1, 1), (2, 1)], [(3, 1)]]
    assert handler.times == [5, 9, 11]


# What doesn't wait


@pytest.mark.parametrize("scope", SCOPES)
async def test_stop_ends_the_wait(autojump_clock: MockClock, world: World, scope: str) -> None:
    """What waits for more is handled at once, in full batches as far as it goes."""
    world.broker.add(P0, "aaaaa")
    world.broker.add(P1, "a")
    handler = Batches()
    async with batching(world, handler, scope=scope, linger=LONG, max_size=3) as pc:
        await trio.sleep(2)
        pc.stop()
        pc.stop()
    assert trio.current_time() == pytest.approx(2, abs=0.1)
    assert sum(map(len, handler.given)) == 6
    assert (world.committed(P0), world.committed(P1)) == (5, 1)


@pytest.mark.parametrize("scope", SCOPES)
async def test_stop_while_a_batch_is_handled(autojump_clock: MockClock, world: World, scope: str) -> None:
    """Nor does what is left of a lane wait, or what comes back because its partition isn't to blame."""
    world.broker.add(P0, "aaaa")
    handler = Batches(work=4)
    async with batching(world, handler, scope=scope, linger=LONG, max_size=3) as pc:
        await trio.sleep(2)
        pc.stop()
    assert trio.current_time() == pytest.approx(8, abs=0.1)
    assert handler.places == [[(0, 0), (0, 1), (0, 2)], [(0, 3)]]
    assert world.committed(P0) == 4


async def test_stop_leaves_what_is_to_be_tried_again(autojump_clock: MockClock, world: World) -> None:
    """A drain that takes longer than a record has to wait doesn't try that again, and doesn't spin for it."""
    world.broker.add(P0, "a")
    world.broker.add(P1, "b")
    handler = Batches({(0, 0): [Retry(after=6)]}, work=4)
    async with batching(world, handler, max_concurrency=2, shutdown_timeout=60) as pc:
        await trio.sleep(5)
        world.broker.add(P1, "b")
        handler.work = 15
        await settle()
        pc.stop()
    assert trio.current_time() == pytest.approx(20, abs=0.1)
    assert handler.places == [[(0, 0)], [(1, 0)], [(1, 1)]]
    assert world.committed(P0) == 0
    assert world.committed(P1) == 2


@pytest.mark.parametrize("scope", SCOPES)
async def test_stop_before_the_workers_begin(autojump_clock: MockClock, world: World, scope: str) -> None:
    """A consumer that is stopped before it runs, or in the moment when it begins to, doesn't wait either.

    It did: nobody told the workers, which had just come or were still to come.
    """
    for steps in range(6):  # Trio shuffles what is runnable in one moment
        world.reset()
        world.broker.add(P0, "abaaa")
        handler = Batches()
        async with parallel_consumer(world.config()) as pc:
            await pc.wait_assigned()
            await trio.sleep(2)
            stopped = trio.current_time()
            run = functools.partial(pc.run_batches, handler, scope=scope, linger=LONG, max_size=2)  # type: ignore[arg-type]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                pc.stop()
        assert trio.current_time() == pytest.approx(stopped, abs=0.1)
        assert world.committed(P0) == 5


@pytest.mark.parametrize("scope", SCOPES)
async def test_revoke_ends_the_wait(autojump_clock: MockClock, world: World, scope: str) -> None:
    """A revoke is answered at once, and what waited is left; what remains assigned waits on."""
    world.broker.add(P0, "aa")
    world.broker.add(P1, "aa")
    handler = Batches()
    async with batching(world, handler, scope=scope, linger=10, revoke_grace=60) as pc:
        await trio.sleep(2)
        await world.rebalance(revoke=[P0])
        assert trio.current_time() == pytest.approx(2, abs=0.1)
        await trio.sleep(5)
        await world.rebalance(assign=[P0])
        await trio.sleep(13)
        assert [each.buffered_records for each in pc.statistics().partitions] == [0, 0]
    if scope == "any":  # one of them has waited long enough
        assert handler.places == [[(0, 0), (0, 1), (1, 0), (1, 1)]]
        assert handler.times == [10]
    else:
        assert handler.places == [[(1, 0), (1, 1)], [(0, 0), (0, 1)]]
        assert handler.times == [10, 17]


@pytest.mark.parametrize("scope", SCOPES)
async def test_end_of_the_block(autojump_clock: MockClock, world: World, scope: str) -> None:
    """A cancelled block ends at once, and what waited is left."""
    world.broker.add(P0, "aa")
    handler = Batches()
    with trio.move_on_after(2):
        async with batching(world, handler, scope=scope, linger=LONG):
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(2, abs=0.1)
    assert not handler.given
    assert world.committed(P0) in {None, 0}
    assert world.client.ended.is_set()
