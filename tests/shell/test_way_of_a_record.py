"""From the batch to the commit: each record once, key order, the bound on concurrency, fairness."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
import trio
from shell.kit import P0, P1, HandlerError, Handling, World, settle
from trio.testing import MockClock

from trio_parallel_kafka import Record
from trio_parallel_kafka.execution.visits import VISIT


async def test_everything_is_handled_once_and_committed(autojump_clock: MockClock, world: World) -> None:
    """Every record of every partition is handled once, keys in order, and a stop commits behind the last."""
    for partition in (P0, P1):
        world.broker.add(partition, [f"k{n % 7}" for n in range(1200)])
    handle = Handling(work=0.003)
    async with world.consuming(handle) as pc:
        while pc.statistics().totals.completed < 2400:
            await trio.sleep(0.1)
    assert sorted(handle.finished) == [(partition, offset) for partition in (0, 1) for offset in range(1200)]
    for key in range(7):
        of_key = [offset for offset in handle.offsets(P0) if offset % 7 == key]
        assert of_key == sorted(of_key)
    assert not handle.overlaps
    assert world.committed(P0) == world.committed(P1) == 1200
    assert pc.statistics().totals.received == 2400


async def test_record_is_what_was_fetched(autojump_clock: MockClock, world: World) -> None:
    """The handler's record shows all of the message, its first attempt and its tenure."""
    world.broker.add(P1, ["k", None], value=b"v")
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(1)
    with_key, without = handle.records
    assert (with_key.topic, with_key.partition, with_key.offset) == ("orders", 1, 0)
    assert (with_key.key, with_key.value, with_key.headers, with_key.timestamp) == (b"k", b"v", (), 1.0)
    assert (with_key.attempt, with_key.assignment_epoch) == (1, 2)
    assert (without.key, without.offset) == (None, 1)


@pytest.mark.parametrize("bound", [1, 7, 40])
async def test_concurrency_reaches_its_bound_and_no_more(autojump_clock: MockClock, world: World, bound: int) -> None:
    """With work enough, exactly ``max_concurrency`` handlers run at once."""
    world.broker.add(P0, [f"k{n}" for n in range(50)])
    world.broker.add(P1, [f"k{n}" for n in range(50)])
    handle = Handling(work=1.0)
    async with world.consuming(handle, max_concurrency=bound) as pc:
        await trio.sleep(0.5)
        assert pc.statistics().in_flight == bound
        while len(handle.finished) < 100:
            await trio.sleep(1)
    assert handle.peak == bound


async def test_hot_key_gives_way(autojump_clock: MockClock, world: World) -> None:
    """Even a single worker leaves a hot key after a visit, so that other keys have their turn."""
    world.broker.add(P0, ["hot"] * 300 + ["a", "b", "c"])
    handle = Handling(work=0.01)
    async with world.consuming(handle, max_concurrency=1) as pc:
        while not {300, 301, 302} <= set(handle.offsets(P0)):
            await trio.sleep(0.01)
        hot = [offset for offset in handle.offsets(P0) if offset < 300]
        assert hot == list(range(len(hot)))
        assert len(hot) <= 2 * VISIT
        pc.stop()


async def test_preloaded_partition_starves_no_other(autojump_clock: MockClock, world: World) -> None:
    """Partitions have their turns, however much of one is buffered already."""
    world.broker.add(P0, [f"k{n}" for n in range(3000)])
    world.broker.add(P1, [f"k{n}" for n in range(10)])
    handle = Handling(work=0.01)
    async with world.consuming(handle, max_concurrency=1, shutdown_timeout=0) as pc:
        while len(handle.offsets(P1)) < 10:
            await trio.sleep(0.01)
        assert len(handle.offsets(P0)) <= 30
        pc.stop()


async def test_null_keys_have_no_order(autojump_clock: MockClock, world: World) -> None:
    """Records without a key run at once."""
    world.broker.add(P0, [None] * 5)
    handle = Handling(work=1.0)
    async with world.consuming(handle):
        await trio.sleep(0.5)
        assert len(handle.started) == 5


@pytest.mark.parametrize(("ordering", "peak"), [("key", 2), ("partition", 1), ("unordered", 4)])
async def test_ordering_modes(autojump_clock: MockClock, world: World, ordering: str, peak: int) -> None:
    """What runs at once: one record a key, one a partition, or all."""
    world.broker.add(P0, ["a", "a", "b", "b"])
    handle = Handling(work=1.0)
    async with world.consuming(handle, ordering=ordering):
        await trio.sleep(10)
    assert handle.peak == peak
    assert sorted(handle.offsets(P0)) == [0, 1, 2, 3]


async def test_partitions_by_turns_without_order(autojump_clock: MockClock, world: World) -> None:
    """Workers whose handlers wait take from another partition next, however much the first one has."""
    world.broker.add(P0, ["a"] * 100)
    handle = Handling(work=1.0)
    async with world.consuming(handle, ordering="unordered", max_concurrency=2, shutdown_timeout=0.0):
        await trio.sleep(1.5)
        world.broker.add(P1, ["a"] * 4)
        await trio.sleep(8)
        assert len(handle.offsets(P1)) == 4


async def test_key_of_orders(autojump_clock: MockClock, world: World) -> None:
    """``key_of`` decides what is ordered, and ``None`` from it means no order."""
    world.broker.add(P0, ["a1", "b1", "a2", "x", "x"])

    def first_letter(record: Record) -> Hashable | None:
        assert record.key is not None
        return None if record.key == b"x" else record.key[:1]

    handle = Handling(work=1.0)
    async with world.consuming(handle, key_of=first_letter):
        await trio.sleep(0.5)
        assert sorted(handle.offsets(P0, started=True)) == [0, 1, 3, 4]


def _raise(_record: Record) -> Hashable:
    raise HandlerError("no key")


@pytest.mark.parametrize("key_of", [_raise, lambda record: [record.key]], ids=["raises", "unhashable"])
async def test_key_of_that_fails_is_a_failure_of_its_record(
    autojump_clock: MockClock, world: World, key_of: object
) -> None:
    """What ``key_of`` raises, or an answer that can't be hashed, leaves as a failure of the first record."""
    world.broker.add(P0, ["a", "b"])
    handle = Handling()
    either = pytest.RaisesExc(check=lambda error: isinstance(error, HandlerError | TypeError))
    with pytest.RaisesGroup(pytest.RaisesGroup(either)) as caught:
        async with world.consuming(handle, key_of=key_of):
            await trio.sleep(5)
    failure = caught.value.exceptions[0]
    assert isinstance(failure, ExceptionGroup)
    assert failure.exceptions[0].__notes__ == ["while handling topic='orders' partition=0 offset=0 key=b'a' attempt=1"]
    assert not handle.started
    assert world.committed(P0) in {None, 0}


async def test_handler_that_never_awaits_leaves_the_loop_its_turns(autojump_clock: MockClock, world: World) -> None:
    """Handlers that return without waiting are no busy loop: other tasks run between them."""
    world.broker.add(P0, [f"k{n}" for n in range(4000)])
    world.broker.add(P1, [None] * 4000)
    handled = rounds = 0

    async def handle(_record: Record) -> None:
        nonlocal handled
        handled += 1

    async with world.consuming(handle):
        while handled < 8000:
            await trio.lowlevel.checkpoint()
            rounds += 1
    assert rounds > 10
    assert world.committed(P0) == world.committed(P1) == 4000


async def test_gaps_and_markers_hold_nothing_up(autojump_clock: MockClock, world: World) -> None:
    """Offsets that don't exist count as done, and the commit reaches the log's end behind a marker."""
    world.broker.add(P0, ["a"], at=10)
    world.broker.add(P0, ["b"], at=20)
    world.broker.logs[P0].end = 25
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        assert world.committed(P0) == 25
        assert pc.statistics().totals.received == 2
        await settle()
    assert handle.offsets(P0) == [10, 20]
