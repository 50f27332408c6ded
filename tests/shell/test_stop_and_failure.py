"""A stop, and a handler that fails: what is finished, what is left, what leaves."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from shell.kit import NEVER, P0, P1, HandlerError, Handling, World, error, later, of, settle
from trio.testing import MockClock

from trio_parallel_kafka import Attempt, Execute, ExecutionEngine, ParallelConsumer, parallel_consumer
from trio_parallel_kafka.control.dispatcher import Dispatcher
from trio_parallel_kafka.errors import (
    ConsumerClosedError,
)

# A stop


async def test_stop_finishes_what_is_buffered(autojump_clock: MockClock, world: World) -> None:
    """A stop handles what was fetched, commits it, lets everything go, and ``run`` returns."""
    world.broker.add(P0, [f"k{n % 3}" for n in range(30)])
    handle = Handling(work=1.0)
    async with parallel_consumer(world.config(commit_interval=NEVER)) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        await trio.sleep(2.5)
        pc.stop()
        pc.stop()
        await settle()
        assert pc.statistics().state == "draining"
        assert of(pc, P0).paused == "stopping"
        world.broker.add(P0, ["late"])
    assert sorted(handle.offsets(P0)) == list(range(30))
    assert world.committed(P0) == 30
    assert not world.client.owned
    assert not world.client.left_owned
    assert pc.statistics().state == "closed"


@pytest.mark.parametrize("wait", [1.0, 5.0])
async def test_stop_does_not_wait_for_an_engine(autojump_clock: MockClock, world: World, wait: float) -> None:
    """One that doesn't open within ``shutdown_timeout`` is given up; who waits for the start of ``run`` goes on."""
    world.broker.add(P0, "abc")
    async with parallel_consumer(world.config(shutdown_timeout=3)) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(later, wait, pc.stop)
        nursery.start_soon(later, wait + 1, pc.stop)  # changes nothing
        await nursery.start(functools.partial(pc.run, Handling(), engine=NeverOpen()))
        assert trio.current_time() == pytest.approx(wait + 3, abs=0.5)
    assert not world.client.left_owned
    assert pc.statistics().state == "closed"


async def test_stop_at_the_moment_when_an_engine_is_open(autojump_clock: MockClock, world: World) -> None:
    """Nothing is started by it any more."""
    world.broker.add(P0, "abc")
    handle = Handling()
    async with parallel_consumer(world.config(shutdown_timeout=0)) as pc, trio.open_nursery() as nursery:  # noqa: ASYNC112 - it is told of the start
        await nursery.start(functools.partial(pc.run, handle, engine=StopsWhenOpen(pc)))
    assert not handle.started
    assert pc.statistics().state == "closed"


class NeverOpen(ExecutionEngine):
    """Takes for ever to open."""

    @asynccontextmanager
    async def open(self, handler: object) -> AsyncIterator[Execute]:
        await trio.sleep_forever()
        raise AssertionError
        yield


class StopsWhenOpen(ExecutionEngine):
    """Opens in the same moment in which its consumer is stopped."""

    def __init__(self, consumer: ParallelConsumer) -> None:
        self._consumer = consumer

    @asynccontextmanager
    async def open(self, handler: object) -> AsyncIterator[Execute]:
        self._consumer.stop()

        async def execute(given: object, attempt: Attempt) -> None:
            raise AssertionError

        yield execute


async def test_stop_cancels_what_hangs_at_its_timeout(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A hung handler is named and cancelled at ``shutdown_timeout``; what completed beside it is committed."""
    world.broker.add(P0, ["a", "b", "a", "c"])
    handle = Handling(held={0})
    async with parallel_consumer(world.config(shutdown_timeout=7.0)) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        await trio.sleep(2)
        pc.stop()
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(7.0, abs=0.5)
    assert handle.cancelled == [(0, 0)]
    assert handle.offsets(P0, started=True) == [0, 1, 3]
    assert "is cancelled: it didn't end within shutdown_timeout" in caplog.text
    assert world.committed(P0) == 0
    assert not world.client.left_owned


async def test_stop_before_run(autojump_clock: MockClock, world: World) -> None:
    """A consumer stopped before ``run`` finishes what was fetched by then; ``run`` returns."""
    world.broker.add(P0, ["a", "b", "a"])
    handle = Handling(work=1.0)
    async with parallel_consumer(world.config()) as pc:
        await pc.wait_assigned()
        await trio.sleep(1)
        pc.stop()
        await pc.run(handle)
        assert pc.statistics().state == "stopped"
        assert not world.client.owned
    assert sorted(handle.offsets(P0)) == [0, 1, 2]
    assert world.committed(P0) == 3


async def test_stop_before_anything_is_assigned(autojump_clock: MockClock, world: World) -> None:
    """A stop right after the start ends the run; waiting for an assignment says that none will come."""
    world.broker.network.delays["OffsetFetch"] = 5.0
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(ConsumerClosedError, match="no partition will be assigned"):
                await pc.wait_assigned()

        nursery.start_soon(wait)
        await settle()
        pc.stop()
        await pc.run(Handling())
    assert not world.client.left_owned


async def test_stop_after_the_end_does_nothing(autojump_clock: MockClock, world: World) -> None:
    """A late ``stop`` is no error."""
    async with parallel_consumer(world.config()) as pc:
        await pc.wait_assigned()
    pc.stop()
    assert pc.statistics().state == "closed"


async def test_partition_assigned_while_stopping_is_not_read(autojump_clock: MockClock, world: World) -> None:
    """What the group gives while the consumer drains is let go again, unread."""
    world.broker.share = [P0]
    world.broker.add(P0, ["a"])
    world.broker.add(P1, ["b"])
    handle = Handling(held={0})
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        await trio.sleep(2)
        pc.stop()
        await world.rebalance(assign=[P1])
        await trio.sleep(3)
        assert of(pc, P1).paused == "stopping"
        handle.let_go()
    assert handle.started == [(0, 0)]
    assert not world.client.left_owned


async def test_partition_that_starts_while_stopping_is_not_read(autojump_clock: MockClock, world: World) -> None:
    """A partition whose position becomes known while the consumer drains isn't fetched for nothing."""
    world.broker.add(P0, ["a"])
    world.broker.add(P1, ["b"])
    handle = Handling(held={0})
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        await pc.wait_assigned()
        await world.rebalance(revoke=[P1])
        world.broker.network.errors["OffsetFetch"] += [error(ClientError.REQUEST_TIMED_OUT)] * 3
        await world.rebalance(assign=[P1])
        nursery.start_soon(pc.run, handle)
        await trio.sleep(0.5)
        assert of(pc, P1).phase == "starting"
        pc.stop()
        await trio.sleep(10)
        assert (of(pc, P1).phase, of(pc, P1).paused) == ("active", "stopping")
        assert P1 in world.client.paused
        handle.let_go()
    assert handle.started == [(0, 0)]


async def test_failure_while_stopping_leaves(autojump_clock: MockClock, world: World) -> None:
    """A handler that fails during the drain is as loud as at any other time."""
    world.broker.add(P0, ["a"])
    handle = Handling(work=3.0, bad={0}, held={0})
    with pytest.RaisesGroup(pytest.RaisesGroup(HandlerError)):
        async with world.consuming(handle) as pc:
            await trio.sleep(1)
            pc.stop()
            await trio.sleep(1)
            handle.let_go()
    assert world.committed(P0) == 0


# A handler fails for good


async def test_handler_failure(autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Others in flight finish, nothing new starts, the failed lane is sealed, all is committed, the error leaves."""
    world.broker.add(P0, ["a", "b", "a", "b", "c"], value=b"hush")
    handle = Handling(held={0, 1, 4})
    async with parallel_consumer(world.config(commit_interval=NEVER)) as pc:
        async with trio.open_nursery() as nursery:
            handle.bad.add(0)
            nursery.start_soon(later, 2, lambda: handle.let_go(0))
            nursery.start_soon(later, 4, lambda: handle.let_go(1, 4))
            with pytest.RaisesGroup(HandlerError) as caught:
                await pc.run(handle)
        assert trio.current_time() == pytest.approx(4, abs=0.5)
        assert pc.statistics().totals.failed == 1
        assert not world.client.owned
        assert pc.statistics().state == "stopped"
    assert handle.offsets(P0, started=True) == [0, 1, 4]
    assert sorted(handle.offsets(P0)) == [1, 4]
    assert world.committed(P0) == 0
    assert caught.value.exceptions[0].__notes__ == [
        "while handling topic='orders' partition=0 offset=0 key=b'a' attempt=1"
    ]
    assert "<Record orders[0]@0 key=b'a' attempt=1 assignment_epoch=1> failed for good" in caplog.text
    assert "hush" not in caplog.text


async def test_failed_lane_is_sealed_while_others_drain(autojump_clock: MockClock, world: World) -> None:
    """No record behind a failed one is started, however long others take to finish, and whatever completes."""
    world.broker.add(P0, ["a", "b", "a", "a"])
    handle = Handling(bad={0}, held={0, 1})
    with pytest.RaisesGroup(pytest.RaisesGroup(HandlerError)):
        async with world.consuming(handle, shutdown_timeout=20.0):
            await trio.sleep(2)
            handle.let_go(0)
            await trio.sleep(math.inf)
    assert handle.offsets(P0, started=True) == [0, 1]
    assert handle.cancelled == [(0, 1)]
    assert world.committed(P0) == 0


async def test_nothing_starts_behind_a_failure(autojump_clock: MockClock, world: World) -> None:
    """A worker whose handler failed takes no other lane."""
    world.broker.add(P0, ["a", "b", "c"])
    handle = Handling(bad={0})
    with pytest.RaisesGroup(pytest.RaisesGroup(HandlerError)):
        async with world.consuming(handle, max_concurrency=1):
            await trio.sleep(math.inf)
    assert handle.started == [(0, 0)]


async def test_several_failures_leave_together(autojump_clock: MockClock, world: World) -> None:
    """Handlers that fail while the first failure drains are in the same group."""
    world.broker.add(P0, ["a", "b"])
    handle = Handling(held={0, 1}, bad={0, 1})
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(later, 2, lambda: handle.let_go(0))
        nursery.start_soon(later, 4, lambda: handle.let_go(1))
        with pytest.RaisesGroup(HandlerError, HandlerError, match="the handler failed"):
            await pc.run(handle)


async def test_failure_is_not_lost_in_a_cancellation(autojump_clock: MockClock, world: World) -> None:
    """A failure that is draining when the consumer is cancelled leaves all the same."""
    world.broker.add(P0, ["a", "b"])
    handle = Handling(bad={0}, held={1})
    async with parallel_consumer(world.config()) as pc:
        with pytest.RaisesGroup(HandlerError), trio.move_on_after(5):
            await pc.run(handle)


async def test_client_that_breaks_down_while_a_failure_drains(autojump_clock: MockClock, world: World) -> None:
    """The handler's failure leaves, with a note on what happened to the client then."""
    world.broker.add(P0, ["a", "b"])
    handle = Handling(held={0, 1}, bad={0})
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(later, 2, lambda: handle.let_go(0))
        nursery.start_soon(later, 4, lambda: world.client.fail(RuntimeError("gone")))
        with pytest.RaisesGroup(HandlerError) as caught:
            await pc.run(handle)
    assert "and then KafkaError: the Kafka client ended: gone" in caught.value.__notes__
    assert trio.current_time() < 12


async def test_bug_in_the_control_plane_is_loud(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nothing provides for leaves the block, in bounded time, and isn't taken for a cancellation."""

    def broken(*_arguments: object) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(Dispatcher, "dispatch", broken)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with world.consuming(Handling(), close_timeout=5.0):
            await trio.sleep(math.inf)
    assert trio.current_time() < 1
