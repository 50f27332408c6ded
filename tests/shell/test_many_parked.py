"""What parked lanes cost: some memory. No task, no timer, no worker, and nothing to those who don't fail."""

from __future__ import annotations

import functools
import gc
import resource
import weakref
from pathlib import Path

import attrs
import trio
from shell.failing import Failing, fails
from shell.kit import P0, P1, HandlerError, Handling, World, of
from shell.scripted_broker import ScriptedBroker
from trio.testing import MockClock

from trio_parallel_kafka import Record, Retry, parallel_consumer
from trio_parallel_kafka.config import RetryPolicy
from trio_parallel_kafka.core.assignments import TopicPartition

MANY = 100_000
CONCURRENCY = 20
FAILING = [TopicPartition("orders", number) for number in range(4)]
SOUND = TopicPartition("orders", 4)

LANE_COST = 1500
"""Bytes that a parked lane may cost, the client's message not included: more than twice of what it does."""


def resident() -> int:
    """Bytes of memory that this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Fate:
    """Records of a sound partition take a while; all others ask to come again in ``after`` seconds, till it is 0."""

    def __init__(self) -> None:
        self.after = 200.0
        self.began = trio.current_time()
        self.failed = 0
        self.done: set[tuple[int, int]] = set()
        self.sound: list[tuple[int, float]] = []

    async def __call__(self, record: Record) -> None:
        if record.partition == SOUND.partition:
            await trio.sleep(0.1)
            self.sound.append((record.offset, trio.current_time() - self.began))
        elif self.after:
            self.failed += 1
            raise Retry(after=self.after)
        else:
            self.done.add((record.partition, record.offset))


async def live(world: World, count: int) -> tuple[Fate, int, int]:
    """Park so many lanes while a sound partition works; return how that went, and what tasks and memory it took."""
    world.broker = ScriptedBroker(orders=5)
    for partition in FAILING:
        world.broker.add(partition, [f"k{n}" for n in range(count // len(FAILING))])
    world.broker.add(SOUND, [f"k{n}" for n in range(3000)])
    fate = Fate()
    async with world.consuming(fate, max_concurrency=CONCURRENCY, max_buffered_records=MANY) as pc:
        await pc.wait_assigned()
        tasks, memory = trio.lowlevel.current_statistics().tasks_living, resident()
        await trio.sleep(10)
        world.broker.add(SOUND, [f"k{n}" for n in range(1000)])
        await trio.sleep(15)
        assert len(fate.sound) == 4000
        statistics = pc.statistics()
        assert sum(each.parked for each in statistics.partitions) == statistics.buffered_records == count
        assert (statistics.in_flight, statistics.totals.retried) == (0, count)
        tasks = trio.lowlevel.current_statistics().tasks_living - tasks
        memory = resident() - memory
        fate.after = 0.0
        await trio.sleep(200)
        assert len(fate.done) == count
    assert all(world.committed(each) == count // len(FAILING) for each in FAILING)
    return fate, tasks, memory


async def test_a_hundred_thousand_parked_lanes(autojump_clock: MockClock, world: World) -> None:
    """They cost memory by the record and no task; a partition without failures gets on as if they weren't there."""
    alone, _, _ = await live(world, 0)
    beside, tasks, memory = await live(world, MANY)
    print(f"\n{MANY:,} parked lanes: {memory / 2**20:.0f} MiB, {memory / MANY:.0f} bytes each; {tasks} tasks more")
    assert beside.failed == MANY
    assert tasks <= CONCURRENCY
    assert memory < MANY * LANE_COST
    slower = [at - at_alone for (_, at), (_, at_alone) in zip(beside.sound, alone.sound, strict=True)]
    assert max(slower) < 0.5


async def test_failures_that_never_wait_share_the_loop(autojump_clock: MockClock, world: World) -> None:
    """A worker that goes from failure to failure lets others run in between, even if no handler ever does.

    It kept the loop for all lanes that had become due together.
    """
    world.broker.add(P0, [f"k{n}" for n in range(20_000)])
    calls = 0
    have_begun = trio.Event()

    async def handle(record: Record) -> None:
        nonlocal calls
        if record.attempt == 2:
            calls += 1
            have_begun.set()
        if record.attempt < 3:
            raise Retry(after=20 if record.attempt == 1 else 100)

    async with world.consuming(handle, max_buffered_records=30_000, max_concurrency=2) as pc:
        await trio.sleep(15)
        assert of(pc, P0).parked == 20_000
        await have_begun.wait()
        longest = calls
        while calls < 20_000:
            before = calls
            await trio.lowlevel.checkpoint()
            longest = max(longest, calls - before)
        pc.stop()
    assert longest < 10_000


async def test_batches_that_never_wait_share_the_loop(autojump_clock: MockClock, world: World) -> None:
    """The same is true of a worker that goes from batch to batch. It handled 20,000 records in one step."""
    world.broker.add(P0, [f"k{n}" for n in range(20_000)])
    done = 0
    have_begun = trio.Event()

    async def handle(records: tuple[Record, ...]) -> None:
        nonlocal done
        done += len(records)
        have_begun.set()

    config = world.config(max_buffered_records=30_000, max_concurrency=2)
    async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
        pc.pause()
        member = pc._controller.member
        member.limits = attrs.evolve(member.limits, read_ahead=config.max_buffered_records)
        nursery.start_soon(functools.partial(pc.run_batches, handle, max_size=10))
        await trio.sleep(5)
        pc.resume()
        await have_begun.wait()
        assert done < 10_000
        pc.stop()
    assert done == 20_000


async def test_failure_leaves_nothing_behind(autojump_clock: MockClock, world: World) -> None:
    """Once its lane is parked, an exception is gone, without the garbage collector's help.

    In cycles with their tracebacks, those of many failures cost pauses of a third of a second.
    """
    world.broker.add(P0, [f"k{n}" for n in range(10)])
    errors: list[weakref.ref[Exception]] = []

    async def handle(_record: Record) -> None:
        error = HandlerError("bad")
        errors.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    policy = RetryPolicy(max_attempts=2, initial_backoff=20.0)
    gc.disable()
    try:
        async with world.consuming(handle, retry=policy):
            await trio.sleep(3)
            assert [error() for error in errors] == [None] * 10
    finally:
        gc.enable()


async def test_partition_full_of_parked_lanes_pauses(autojump_clock: MockClock, world: World) -> None:
    """Back-pressure holds: the bound isn't passed, the pause doesn't flap, the neighbour goes on, and it resumes."""
    world.broker.add(P0, [f"k{n}" for n in range(500)])
    handle = Failing({offset: fails(1) for offset in range(500)})
    sound = Handling(work=0.1)

    async def either(record: Record) -> None:
        await (sound(record) if record.partition == 1 else handle(record))

    policy = RetryPolicy(max_attempts=2, initial_backoff=50.0, max_backoff=50.0, jitter=0.0)
    async with world.consuming(either, retry=policy, max_buffered_records=100, max_concurrency=10) as pc:
        await trio.sleep(3)
        parked, pauses = of(pc, P0).parked, len(world.client.calls.of("pause"))
        assert 75 < parked == of(pc, P0).buffered_records <= 100
        assert (of(pc, P0).paused, world.client.paused) == ("buffer full", {P0})
        world.broker.add(P1, [f"k{n}" for n in range(1000)], at=1000)
        await trio.sleep(40)
        assert len(sound.finished) == 1000
        assert of(pc, P0).parked == parked
        assert world.client.paused == {P0}
        assert len([each for each in world.client.calls.of("pause")[pauses:] if P0 in each]) == 0  # type: ignore[operator]
        await trio.sleep(300)
        assert len(handle.done) == 500
        assert of(pc, P0).paused is None
    assert world.committed(P0) == 500


async def test_records_behind_a_parked_one_do_not_freeze_their_partition(
    autojump_clock: MockClock, world: World
) -> None:
    """What waits in a parked lane, and what joins it there, isn't runnable: the partition's other keys go on."""
    world.broker.add(P0, ["hot"])
    handle = Failing({0: [Retry(after=60)]})
    async with world.consuming(handle, max_buffered_records=40) as pc:
        await trio.sleep(1)
        world.broker.add(P0, ["hot"] * 23 + [f"k{n}" for n in range(500)])
        await trio.sleep(30)
        assert len(handle.done) == 500
        assert (of(pc, P0).buffered_records, of(pc, P0).parked) == (24, 1)
        assert not world.client.paused
        await trio.sleep(31)
    assert [offset for _, offset in handle.done[500:]] == list(range(24))
