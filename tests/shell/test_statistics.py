"""What can be seen: every hold-up by topic, partition, offset, key and age; stalls in the log."""

from __future__ import annotations

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from shell.batching import Batches, batching
from shell.kit import P0, P1, Handling, World, error, of
from trio.testing import MockClock

from trio_parallel_kafka import parallel_consumer
from trio_parallel_kafka.statistics import OldestRecord


async def test_statistics_at_every_stage(autojump_clock: MockClock, world: World) -> None:
    """The state goes from open to closed, and the numbers with it."""
    world.broker.add(P0, ["a", "b", "a"], value=b"four")
    handle = Handling(held={0, 1})
    async with parallel_consumer(world.config()) as pc:
        await pc.wait_assigned()
        await trio.sleep(1)
        statistics = pc.statistics()
        assert (statistics.state, statistics.max_concurrency, statistics.in_flight) == ("open", 256, 0)
        assert (statistics.buffered_records, statistics.buffered_bytes) == (3, 15)
        assert [each.partition for each in statistics.partitions] == [0, 1]
        oldest = of(pc, P0).oldest_incomplete
        assert oldest is not None
        assert not oldest.is_running
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await trio.sleep(1)
            statistics = pc.statistics()
            assert (statistics.state, statistics.in_flight, of(pc, P0).in_flight) == ("running", 2, 2)
            handle.let_go(1)
            await trio.sleep(1)
            oldest = of(pc, P0).oldest_incomplete
            assert oldest is not None
            assert oldest == OldestRecord(offset=0, key=b"a", age=oldest.age, attempt=1, is_running=True)
            assert oldest.age == pytest.approx(3.0, abs=0.2)
            assert (of(pc, P0).position, of(pc, P0).next_offset, of(pc, P0).completed_above) == (0, 3, 1)
            assert of(pc, P1).oldest_incomplete is None
            pc.stop()
            await trio.sleep(1)
            assert pc.statistics().state == "draining"
            handle.let_go()
        statistics = pc.statistics()
        assert (statistics.state, statistics.partitions) == ("stopped", ())
        assert statistics.totals.completed == statistics.totals.received == 3
    assert pc.statistics().state == "closed"


async def test_lane_that_waits_to_be_filled_is_not_parked(autojump_clock: MockClock, world: World) -> None:
    """Neither before nor after it was filled does it count among those that wait for their next attempt."""
    world.broker.add(P0, "abc")
    async with batching(world, Batches(work=50), scope="key", linger=20, max_size=2) as pc:
        await trio.sleep(1)
        assert (of(pc, P0).parked, of(pc, P0).in_flight) == (0, 0)
        world.broker.add(P0, "a")
        await trio.sleep(1)
        assert (of(pc, P0).parked, of(pc, P0).in_flight) == (0, 2)


async def test_oldest_record_that_waits_is_not_running(autojump_clock: MockClock, world: World) -> None:
    """A record that waits for a worker shows as the oldest, not running."""
    world.broker.add(P1, ["x"], at=7)
    handle = Handling(held={7})
    async with world.consuming(handle, max_concurrency=1) as pc:
        await trio.sleep(1)
        world.broker.add(P0, ["a"])
        await trio.sleep(1)
        oldest = of(pc, P0).oldest_incomplete
        assert oldest is not None
        assert (oldest.offset, oldest.key, oldest.is_running) == (0, b"a", False)
        handle.let_go()


async def test_stall_is_logged_once_a_record(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A record that stays incomplete beyond ``stall_warning`` is logged, once, with its place, key and age."""
    world.broker.add(P0, ["a", "b", "c"], value=b"hush")
    handle = Handling(held={0, 2})
    async with world.consuming(handle, stall_warning=5.0):
        await trio.sleep(4)
        assert "stall" not in caplog.text
        await trio.sleep(30)
        assert caplog.text.count("stall: <Record orders[0]@0 key=b'a'") == 1
        assert "1 records of orders[0] are buffered behind it or beside it" in caplog.text
        handle.let_go(0)
        await trio.sleep(5)
        assert caplog.text.count("stall: <Record orders[0]@2 key=b'c'") == 1
        assert caplog.text.count("stall") == 2
        handle.let_go()
        world.broker.add(P0, ["d"], at=100)
        await trio.sleep(20)
        assert caplog.text.count("stall") == 2
    assert "hush" not in caplog.text


async def test_partition_that_can_not_be_read_shows(autojump_clock: MockClock, world: World) -> None:
    """A partition whose reading is given up for a while is shown as paused, with the reason."""
    world.broker.add(P0, [None] * 10)
    async with world.consuming(Handling()) as pc:
        await trio.sleep(1)
        world.broker.network.errors["ListOffsets"] += [error(ClientError.REQUEST_TIMED_OUT)] * 3
        world.client.send_error(ClientError._AUTO_OFFSET_RESET, P0)
        await trio.sleep(0.5)
        assert (of(pc, P0).phase, of(pc, P0).paused) == ("active", "position unknown")
        await trio.sleep(5)
        assert of(pc, P0).paused is None


async def test_notes_and_representations_hold_no_values(autojump_clock: MockClock, world: World) -> None:
    """Neither a record's representation nor the notes on a handler's failure show its value."""
    world.broker.add(P0, ["a"], value=b"hush")
    handle = Handling(bad={0})
    with pytest.RaisesGroup(pytest.RaisesGroup(Exception)) as caught:
        async with world.consuming(handle):
            await trio.sleep(5)
    group = caught.value.exceptions[0]
    assert isinstance(group, ExceptionGroup)
    assert "hush" not in repr(handle.records) + repr(group) + "".join(group.exceptions[0].__notes__)
