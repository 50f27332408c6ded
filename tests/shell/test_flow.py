"""Flow control: each partition has its bound, and one that is stuck freezes nothing."""

from __future__ import annotations

import functools
from itertools import pairwise

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from shell.kit import P0, P1, Handling, World, error, of
from trio.testing import MockClock

from trio_parallel_kafka import ParallelConsumer, Record, Retry, parallel_consumer
from trio_parallel_kafka.core.flow import MAX_BATCH, READ_IN_ALL, FlowLimits


async def watch(pc: ParallelConsumer, seconds: float) -> tuple[int, int]:
    """The most records, and bytes, that P0 had buffered in the next seconds."""
    await pc.wait_assigned()
    records = size = 0
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        records = max(records, of(pc, P0).buffered_records)
        size = max(size, of(pc, P0).buffered_bytes)
        await trio.sleep(0.003)
    return records, size


async def test_bound_in_records_is_never_passed(autojump_clock: MockClock, world: World) -> None:
    """A partition pauses before a batch could take it over ``max_buffered_records``, and resumes as it drains."""
    world.broker.add(P0, [f"k{n % 50}" for n in range(2000)])
    handle = Handling(work=0.05)
    async with world.consuming(handle, max_buffered_records=100, max_concurrency=20) as pc:
        records, _ = await watch(pc, 8.0)
        assert 75 < records <= 100
        assert len(handle.finished) == 2000
        assert len(world.client.calls.of("resume")) >= 10
        assert of(pc, P0).paused is None


async def test_only_the_partition_over_its_bound_pauses(autojump_clock: MockClock, world: World) -> None:
    """A partition that is full pauses, visibly, and its neighbour goes on."""
    world.broker.add(P0, ["hot"] * 500)
    handle = Handling(held={0})
    async with world.consuming(handle, max_buffered_records=40) as pc:
        await trio.sleep(3)
        assert of(pc, P0).paused == "buffer full"
        assert of(pc, P0).in_flight == 1
        assert world.client.paused == {P0}
        world.broker.add(P1, ["a"] * 500, at=1)
        await trio.sleep(3)
        assert len(handle.offsets(P1)) == 500
        handle.let_go()
        await trio.sleep(3)
        assert len(handle.offsets(P0)) == 500


async def test_hung_key_does_not_freeze_its_partition(autojump_clock: MockClock, world: World) -> None:
    """What waits behind a hung record doesn't count as runnable: the partition's other keys go on."""
    world.broker.add(P0, ["hot"] * 24 + [f"k{n}" for n in range(500)])
    handle = Handling(held={0})
    async with world.consuming(handle, max_buffered_records=40) as pc:
        await trio.sleep(30)
        assert len(handle.offsets(P0)) == 500
        assert of(pc, P0).buffered_records == 24
        assert not world.client.paused
        handle.let_go()


async def test_partition_full_of_hung_records_does_not_flap(autojump_clock: MockClock, world: World) -> None:
    """A buffer that only stuck records fill stays paused: each pause would throw away what was fetched ahead."""
    world.broker.add(P0, ["hot"] * 500)
    handle = Handling(held={0})
    async with world.consuming(handle, max_buffered_records=40, shutdown_timeout=0.0) as pc:
        await trio.sleep(3)
        calls = len(world.client.calls.of("pause"))
        await trio.sleep(30)
        assert len(world.client.calls.of("pause")) == calls
        assert of(pc, P0).paused == "buffer full"


async def test_no_more_is_read_ahead_than_is_soon_needed(autojump_clock: MockClock, world: World) -> None:
    """Far below its bound a partition pauses while lanes wait for workers, and goes on before they are all taken."""
    world.broker.add(P0, [f"k{n}" for n in range(30_000)])
    times: list[float] = []

    async def handle(_record: Record) -> None:
        times.append(trio.current_time())
        await trio.sleep(0.01)

    async with world.consuming(handle, max_buffered_records=100_000, max_concurrency=100) as pc:
        records, _ = await watch(pc, 0.3)
        assert of(pc, P0).paused == "enough read ahead"
        assert READ_IN_ALL < records <= READ_IN_ALL + 100 + 2 * MAX_BATCH
        await trio.sleep(4)
        assert len(times) == 30_000
        assert max(later - earlier for earlier, later in pairwise(times)) < 0.02, "workers had to wait for records"
        assert len(world.client.calls.of("pause")) < 10


async def test_partition_among_full_ones_reads_little_ahead(autojump_clock: MockClock, world: World) -> None:
    """Once all together have enough, one partition after another pauses until a third of it is handled."""
    for partition in (P0, P1):
        world.broker.add(partition, [f"k{n}" for n in range(20_000)])
    handle = Handling(work=1.0)
    async with world.consuming(handle, max_buffered_records=100_000, max_concurrency=10) as pc:
        await trio.sleep(2)
        assert {each.paused for each in pc.statistics().partitions} == {"enough read ahead"}
        assert pc.statistics().buffered_records <= READ_IN_ALL + 3 * MAX_BATCH


async def test_as_many_are_read_as_workers_can_have(autojump_clock: MockClock, world: World) -> None:
    """What workers have in their hands isn't what they will need next: one partition can keep any number busy."""
    world.broker.add(P0, [f"k{n}" for n in range(4500)])
    handle = Handling(work=100.0)
    async with world.consuming(handle, max_concurrency=4000):
        await trio.sleep(0.5)
        assert handle.peak == 4000


async def test_hot_key_does_not_hide_the_others(autojump_clock: MockClock, world: World) -> None:
    """What waits behind a key's running record keeps nobody busy, so it isn't enough."""
    world.broker.add(P0, ["hot"] * 800 + [f"k{n}" for n in range(1000)])
    handle = Handling(work=30.0)
    async with world.consuming(handle, max_concurrency=2000, shutdown_timeout=0.0):
        await trio.sleep(0.7)
        assert handle.offsets(P0, started=True) == [0, *range(800, 1800)]


async def test_failures_that_come_again_later_do_not_slow_reading_down(autojump_clock: MockClock, world: World) -> None:
    """Parked records aren't enough either, and what parks them says so at once."""
    world.broker.add(P0, [f"k{n}" for n in range(4000)])
    world.broker.add(P1, ["other"])

    async def handle(record: Record) -> None:
        if record.partition == P1.partition:
            await trio.sleep(30)
        elif record.attempt == 1:
            raise Retry(after=20)

    async with world.consuming(handle) as pc:
        await trio.sleep(0.1)
        assert of(pc, P0).parked == 4000


async def test_batches_become_as_full_as_they_may(autojump_clock: MockClock, world: World) -> None:
    """What is read ahead grows with the batches."""
    world.broker.add(P0, [f"k{n}" for n in range(9000)])
    sizes: list[int] = []

    async def handle(records: tuple[Record, ...]) -> None:
        sizes.append(len(records))
        await trio.sleep(0.5)

    config = world.config(max_buffered_records=20_000, max_concurrency=1)
    async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(pc.run_batches, handle, max_size=3000, linger=0.2))
        await trio.sleep(5)
        pc.stop()
    assert sizes == [3000] * 3


async def test_bound_in_bytes_pauses(autojump_clock: MockClock, world: World) -> None:
    """A partition pauses when keys and values reach ``max_buffered_bytes``: one batch above it at most."""
    world.broker.add(P0, [f"k{n:03}" for n in range(1000)], value=bytes(996))
    handle = Handling(work=0.1)
    limits = FlowLimits(max_records=200, max_bytes=60_000)
    async with world.consuming(
        handle, max_buffered_records=limits.max_records, max_buffered_bytes=limits.max_bytes, max_concurrency=10
    ) as pc:
        _, size = await watch(pc, 15.0)
        assert limits.max_bytes <= size < limits.max_bytes + limits.batch_size * 1000
        assert len(handle.finished) == 1000
        assert of(pc, P0).buffered_bytes == 0


@pytest.mark.parametrize("failures", [0, 2])
async def test_pause_survives_a_restart_of_reading_only_where_it_is_due(
    autojump_clock: MockClock, world: World, failures: int
) -> None:
    """A full partition whose log lost what is next stays paused when its reading goes on elsewhere."""
    world.broker.add(P0, ["hot"] * 36)
    handle = Handling(held={0})
    async with world.consuming(handle, max_buffered_records=40) as pc:
        await trio.sleep(3)
        assert of(pc, P0).paused == "buffer full"
        world.broker.network.errors["ListOffsets"] += [error(ClientError.REQUEST_TIMED_OUT)] * failures
        world.client.paused.clear()  # as if the error had been on its way
        world.broker.add(P0, ["hot"] * 100, at=1000)
        world.broker.delete_records(*P0, before=1000)
        world.client.calls.notify()
        await trio.sleep(3)
        await trio.sleep(failures)
        assert of(pc, P0).next_offset == 1000
        assert of(pc, P0).paused == "buffer full"
        assert world.client.paused == {P0}
        handle.let_go()
        await trio.sleep(3)
        assert len(handle.offsets(P0)) >= 100
