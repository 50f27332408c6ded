"""The consumer as an object: waiting for partitions, states, use after the end."""

from __future__ import annotations

import pytest
import trio
from embedded.kit import (
    PATIENCE,
    Handled,
    committed,
    configured,
    phases,
    running,
    send,
    until,
)
from trio.testing import assert_checkpoints

from trio_parallel_kafka import (
    ConsumerClosedError,
    parallel_consumer,
)
from trio_parallel_kafka.testing import EmbeddedBroker


async def test_it_waits_for_its_partitions(embedded_broker: EmbeddedBroker) -> None:
    """wait_assigned() returns once a partition is being read, with and without run(), and checkpoints."""
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(configured(embedded_broker)) as pc:
            await pc.wait_assigned()
            assert "active" in phases(pc)
            with assert_checkpoints():
                await pc.wait_assigned()


async def test_a_member_without_partitions_waits(embedded_broker: EmbeddedBroker) -> None:
    """A member of a group that has more members than partitions waits until one is free."""
    embedded_broker.create_topic("single", 1)
    config = configured(embedded_broker, topics="single")
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as second:
            async with parallel_consumer(config) as first:
                await until(lambda: len(first.statistics().partitions) + len(second.statistics().partitions) == 1)
                waits, has = (first, second) if second.statistics().partitions else (second, first)
                with trio.move_on_after(0.3) as scope:
                    await waits.wait_assigned()
                assert scope.cancelled_caught
                assert len(has.statistics().partitions) == 1
            await second.wait_assigned()


async def test_nursery_start(embedded_broker: EmbeddedBroker) -> None:
    """nursery.start(pc.run, handler) returns once a partition is assigned, and the records come."""
    send(embedded_broker, 10)
    handled = Handled()
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(configured(embedded_broker)) as pc, trio.open_nursery() as nursery:
            await nursery.start(pc.run, handled)
            assert "active" in phases(pc)
            await handled.wait(10)
            pc.stop()


async def test_the_front_door_checkpoints(embedded_broker: EmbeddedBroker) -> None:
    """Opening, running and closing each give other tasks a turn."""
    config = configured(embedded_broker)
    with trio.fail_after(PATIENCE):
        manager = parallel_consumer(config)
        with assert_checkpoints():
            pc = await manager.__aenter__()
        pc.stop()
        with assert_checkpoints():
            await pc.run(Handled())
        with assert_checkpoints():
            await manager.__aexit__(None, None, None)
    assert pc.statistics().state == "closed"


async def test_states(embedded_broker: EmbeddedBroker) -> None:
    """The state goes from open over running and draining to stopped and closed."""
    send(embedded_broker, 1)
    seen = []
    may_end = trio.Event()
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(configured(embedded_broker)) as pc:
            seen.append(pc.statistics().state)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pc.run, Handled(lambda _record: may_end.wait()))
                await until(lambda: pc.statistics().in_flight)
                seen.append(pc.statistics().state)
                pc.stop()
                await until(lambda: pc.statistics().state != "running")
                seen.append(pc.statistics().state)
                may_end.set()
            seen.append(pc.statistics().state)
        seen.append(pc.statistics().state)
    assert seen == ["open", "running", "draining", "stopped", "closed"]
    assert committed(embedded_broker) == [(1, ()), (0, ())]


async def test_use_after_the_end(embedded_broker: EmbeddedBroker) -> None:
    """After the block run() and wait_assigned() say so, stop() does nothing, statistics() still tell."""
    send(embedded_broker, 6)
    with trio.fail_after(PATIENCE):
        async with running(configured(embedded_broker), handled := Handled()) as pc:
            await handled.wait(6)
        with pytest.raises(ConsumerClosedError, match="open another one"):
            await pc.run(handled)
        with pytest.raises(ConsumerClosedError, match="open another one"):
            await pc.wait_assigned()
    pc.stop()
    assert pc.statistics().totals.completed == 6
    assert pc.statistics().partitions == ()
