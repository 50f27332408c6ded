"""Pause and resume, whole or by partition: what is dispatched when. The breaker has a file of its own."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from shell.failing import Failing, fails
from shell.kit import NO_ANSWER, P0, P1, Handling, World, error, of
from trio.testing import MockClock

from trio_parallel_kafka import parallel_consumer
from trio_parallel_kafka.config import RetryPolicy


async def test_pause_holds_everything_back(autojump_clock: MockClock, world: World) -> None:
    """What runs goes on to its end; nothing else starts, not even the next record of its lane, until a resume."""
    world.broker.add(P0, ["a", "a", "b"])
    handle = Handling(held={0})
    async with world.consuming(handle, max_concurrency=1) as pc:
        await trio.sleep(1)
        pc.pause()
        handle.let_go()
        world.broker.add(P1, ["c"], at=10)
        await trio.sleep(5)
        assert handle.started == handle.finished == [(0, 0)]
        assert (pc.statistics().held, pc.statistics().in_flight, pc.statistics().buffered_records) == (
            ("paused",),
            0,
            3,
        )
        assert not world.client.paused
        pc.resume()
        await trio.sleep(1)
        assert pc.statistics().held == ()
    assert sorted(handle.finished) == [(0, 0), (0, 1), (0, 2), (1, 10)]


async def test_pause_of_a_partition_concerns_it_alone(autojump_clock: MockClock, world: World) -> None:
    """The other partition goes on; statistics say which one is held."""
    world.broker.add(P0, ["a", "a"])
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(1)
        pc.pause([P0])
        world.broker.add(P0, ["a", "b"])
        world.broker.add(P1, ["a", "b"], at=10)
        await trio.sleep(5)
        assert (handle.offsets(P0), sorted(handle.offsets(P1))) == ([0, 1], [10, 11])
        assert (of(pc, P0).is_held, of(pc, P1).is_held, pc.statistics().held) == (True, False, ())
        pc.resume([("orders", 0)])
        assert not of(pc, P0).is_held
        await trio.sleep(1)
        assert sorted(handle.offsets(P0)) == [0, 1, 2, 3]


async def test_lane_in_a_paused_partition_stops_behind_its_record(autojump_clock: MockClock, world: World) -> None:
    """A worker that runs a lane of the partition gives it up after the record in hand, and serves others."""
    world.broker.add(P0, ["a"] * 5)
    world.broker.add(P1, ["c"] * 3, at=10)
    handle = Handling(held={0})
    async with world.consuming(handle, max_concurrency=1) as pc:
        await trio.sleep(1)
        pc.pause([P0])
        handle.let_go()
        await trio.sleep(1)
        assert handle.offsets(P0) == [0]
        assert handle.offsets(P1) == [10, 11, 12]
        pc.resume([P0])
    assert handle.offsets(P0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("how", ["revoke", "lose"])
async def test_pause_of_a_partition_outlasts_rebalances(autojump_clock: MockClock, world: World, how: str) -> None:
    """A partition stays paused when it is assigned anew, and may be paused before it ever is."""
    world.broker.share = [P0]
    world.broker.add(P0, ["a", "b"])
    world.broker.add(P1, ["c"], at=10)
    handle = Handling()
    async with parallel_consumer(world.config()) as pc:
        pc.pause(iter([("orders", 0), ("orders", 1)]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await trio.sleep(1)
            assert (of(pc, P0).is_held, of(pc, P0).buffered_records) == (True, 2)
            await world.rebalance(**{how: [P0]}, assign=[P0, P1])
            await trio.sleep(1)
            assert (of(pc, P0).is_held, of(pc, P1).is_held) == (True, True)
            assert handle.started == []
            pc.resume([P1])
            await trio.sleep(1)
            assert handle.started == [(1, 10)]
            pc.resume()
            await trio.sleep(1)
            pc.stop()
    assert sorted(handle.offsets(P0)) == [0, 1]


async def test_resume_of_a_partition_while_it_is_not_assigned(autojump_clock: MockClock, world: World) -> None:
    """What was resumed in between isn't paused when it comes back."""
    world.broker.add(P0, ["a"])
    handle = Handling()
    async with parallel_consumer(world.config()) as pc:
        pc.pause([P0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await trio.sleep(1)
            await world.rebalance(revoke=[P0])
            pc.resume([P0])
            await world.rebalance(assign=[P0])
            await trio.sleep(1)
            assert handle.finished == [(0, 0)]
            pc.stop()


async def test_partition_that_starts_late_is_paused_all_the_same(autojump_clock: MockClock, world: World) -> None:
    """A paused partition whose position comes only after its assignment is held from its first record on."""
    world.broker.add(P0, ["a"])
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(1)
        await world.rebalance(revoke=[P0])
        pc.pause([P0])
        world.broker.network.errors["OffsetFetch"].append(error(NO_ANSWER))
        await world.rebalance(assign=[P0])
        assert of(pc, P0).phase == "starting"
        await trio.sleep(5)
        assert (of(pc, P0).phase, of(pc, P0).is_held, of(pc, P0).buffered_records) == ("active", True, 0)
        world.broker.add(P0, ["b"])
        await trio.sleep(5)
        assert handle.finished == [(0, 0)]


async def test_the_whole_and_its_parts(autojump_clock: MockClock, world: World) -> None:
    """While all is paused, resuming a partition starts nothing; resuming all lifts the pauses of partitions, too."""
    handle = Handling()
    async with world.consuming(handle) as pc:
        await pc.wait_assigned()
        pc.pause()
        pc.pause([P0, P1])
        world.broker.add(P0, ["a"])
        world.broker.add(P1, ["b"], at=10)
        pc.resume([P0])
        await trio.sleep(1)
        assert handle.started == []
        assert (of(pc, P0).is_held, of(pc, P1).is_held) == (False, True)
        pc.resume()
        await trio.sleep(1)
        assert sorted(handle.finished) == [(0, 0), (1, 10)]


@pytest.mark.parametrize("partitions", [None, [P0]])
async def test_parked_record_waits_for_the_resume(
    autojump_clock: MockClock, world: World, partitions: list[Any] | None
) -> None:
    """An attempt that is due during a pause is made after it, and was never counted."""
    world.broker.add(P0, ["a", "a"])
    handle = Failing({0: fails(1)})
    policy = RetryPolicy(max_attempts=2, initial_backoff=3.0, jitter=0.0)
    async with world.consuming(handle, retry=policy) as pc:
        await trio.sleep(1)
        pc.pause(partitions)
        await trio.sleep(20)
        assert handle.of(0) == [(1, 0)]
        assert of(pc, P0).parked == 0
        oldest = of(pc, P0).oldest_incomplete
        assert oldest is not None
        assert (oldest.attempt, oldest.retry_in, oldest.is_running) == (2, None, False)
        pc.resume(partitions)
        await trio.sleep(1)
    assert handle.of(0) == [(1, 0), (2, 21)]
    assert handle.of(1) == [(1, 21)]


async def test_pause_fills_the_buffer_and_no_more(autojump_clock: MockClock, world: World) -> None:
    """Fetching goes on until the partition's bound, stops there, and goes on after the resume."""
    world.broker.add(P0, [f"k{n}" for n in range(200)])
    handle = Handling()
    async with world.consuming(handle, max_buffered_records=40) as pc:
        pc.pause()
        await trio.sleep(5)
        assert (of(pc, P0).paused, world.client.paused) == ("buffer full", {P0})
        assert 30 < of(pc, P0).buffered_records <= 40
        pc.resume()
        await trio.sleep(5)
        assert len(handle.finished) == 200


async def test_stop_during_a_pause_leaves_what_is_held(autojump_clock: MockClock, world: World) -> None:
    """A stop doesn't wait for what may not start; what isn't held is finished, and everything else comes again."""
    world.broker.add(P0, ["a", "b"])
    world.broker.add(P1, ["c", "c"], at=10)
    handle = Handling(work=1.0)
    async with world.consuming(handle) as pc:
        pc.pause([P0])
        await trio.sleep(0.5)
    assert handle.finished == [(1, 10), (1, 11)]
    assert trio.current_time() < 3
    async with world.consuming(handle) as pc:
        pc.pause()
        await trio.sleep(1)
    assert trio.current_time() < 4
    assert world.committed(P0) == 0
    assert len(handle.finished) == 2
