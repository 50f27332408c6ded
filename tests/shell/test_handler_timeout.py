"""A deadline for each attempt; handlers that don't heed it are named, and hold up nothing but their lane."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
from shell.failing import Failing, graveyard
from shell.fake_outbox import FakeOutbox
from shell.kit import NEVER, P0, P1, BodyError, HandlerError, Handling, World, of
from trio.testing import MockClock

from trio_parallel_kafka import (
    Attempt,
    Execute,
    ExecutionEngine,
    HandlerStuckError,
    HandlerTimeoutError,
    ParallelConsumer,
    ProducerRecord,
    Record,
    parallel_consumer,
)
from trio_parallel_kafka.config import RetryPolicy
from trio_parallel_kafka.core.metadata import read_metadata
from trio_parallel_kafka.execution import workers
from trio_parallel_kafka.testing.simulation.scheduling import seeded

AT_ONCE = RetryPolicy(max_attempts=2, initial_backoff=0.0)
NAMED = "<Record orders[0]@0 key=b'a' attempt=1 assignment_epoch=1> isn't done long after handler_timeout"


def times_named(caplog: pytest.LogCaptureFixture) -> int:
    """How many lines of the log say that a record isn't done in time."""
    return sum("long after handler_timeout" in line.getMessage() for line in caplog.records)


@contextmanager
def letting_go(handle: Handling) -> Iterator[None]:
    """Let handlers end with the block, on every path: a consumer can't end before they do."""
    try:
        yield
    finally:
        handle.let_go()


async def test_attempt_is_cancelled_in_time(autojump_clock: MockClock, world: World) -> None:
    """An attempt that takes too long is cancelled, and has failed; others are left alone."""
    world.broker.add(P0, ["a", "b"])
    handle = Handling(held={0})
    with pytest.RaisesGroup(
        pytest.RaisesGroup(pytest.RaisesExc(HandlerTimeoutError, match=r"longer than 7 s \(handler_timeout\)"))
    ) as caught:
        async with world.consuming(handle, handler_timeout=7.0):
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(7.0, abs=0.2)
    assert isinstance(caught.value.exceptions[0].exceptions[0], trio.TooSlowError)
    assert "offset=0" in caught.value.exceptions[0].exceptions[0].__notes__[0]
    assert (handle.cancelled, handle.finished) == ([(0, 0)], [(0, 1)])


@pytest.mark.parametrize("ordering", ["key", "unordered"])
async def test_each_record_has_its_own_time(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture, ordering: str
) -> None:
    """One worker that goes from record to record isn't taken for one that hangs."""
    world.broker.add(P0, ["a"] * 12)
    handle = Handling(work=10.0)
    async with world.consuming(handle, handler_timeout=15.0, max_concurrency=1, ordering=ordering):
        await trio.sleep(130)
    assert len(handle.finished) == 12
    assert times_named(caplog) == 0


async def test_timeout_is_a_failure_like_any_other(autojump_clock: MockClock, world: World) -> None:
    """It is tried again, each attempt within a bound of its own, and given up in the end."""
    world.broker.add(P0, ["a", "a"])
    handle = Handling(held={0})
    policy = RetryPolicy(max_attempts=3, initial_backoff=1.0, multiplier=1.0, jitter=0.0)
    async with world.consuming(handle, handler_timeout=5.0, retry=policy, on_failure="skip") as pc:
        await trio.sleep(16)
        assert handle.cancelled == [(0, 0), (0, 0)]
        await trio.sleep(2.5)
        totals = pc.statistics().totals
        assert (totals.failed, totals.retried, totals.skipped, totals.abandoned) == (3, 2, 1, 0)
        assert world.committed(P0) == 2
    assert handle.offsets(P0) == [1]


async def test_attempt_in_time_is_left_alone(autojump_clock: MockClock, world: World) -> None:
    """A lane may take much longer than one attempt."""
    world.broker.add(P0, ["a"] * 10)
    handle = Handling(work=4.0)
    async with world.consuming(handle, handler_timeout=5.0) as pc:
        await trio.sleep(41)
        assert pc.statistics().totals.failed == 0
    assert len(handle.finished) == 10


async def test_late_return_is_a_failure(autojump_clock: MockClock, world: World) -> None:
    """A handler that swallows its cancellation and returns hasn't handled its record: it may have done half."""
    world.broker.add(P0, ["a"])
    attempts = []

    async def handle(record: Record) -> None:
        attempts.append(record.attempt)
        with trio.CancelScope(shield=record.attempt == 1):
            await trio.sleep(8)

    async with world.consuming(handle, handler_timeout=5.0, retry=AT_ONCE, on_failure="skip") as pc:
        await trio.sleep(7)
        assert (of(pc, P0).position, pc.statistics().totals.failed) == (0, 0)
        await trio.sleep(2)
        assert (of(pc, P0).position, pc.statistics().totals.failed) == (0, 1)
        await trio.sleep(5)
        totals = pc.statistics().totals
        assert (totals.failed, totals.retried, totals.skipped) == (2, 1, 1)
    assert attempts == [1, 2]


async def test_handler_that_blocks_too_long_has_failed(autojump_clock: MockClock, world: World) -> None:
    """An attempt that can't be cancelled, because it blocks the loop, is late all the same."""
    world.broker.add(P0, ["a"])

    async def block(_record: Record) -> None:
        autojump_clock.jump(8)

    with pytest.RaisesGroup(pytest.RaisesGroup(HandlerTimeoutError)):
        async with world.consuming(block, handler_timeout=7.0):
            await trio.sleep_forever()
    assert world.committed(P0) == 0


async def test_what_a_late_handler_raises_is_its_failure(autojump_clock: MockClock, world: World) -> None:
    """An exception of its own says more than that it was late."""
    world.broker.add(P0, ["a"])

    async def handle(_record: Record) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise BodyError from None  # noqa: ASYNC104 - what must not be done

    with pytest.RaisesGroup(pytest.RaisesGroup(BodyError)):
        async with world.consuming(handle, handler_timeout=5.0):
            await trio.sleep_forever()


async def test_cancellation_from_outside_is_no_timeout(autojump_clock: MockClock, world: World) -> None:
    """A revoke before the deadline abandons the record; nothing has failed."""
    world.broker.add(P0, ["a"])
    handle = Handling(held={0})
    async with world.consuming(handle, handler_timeout=5.0, revoke_grace=0.0) as pc:
        await trio.sleep(2)
        await world.rebalance(revoke=[P0])
        await trio.sleep(10)
        totals = pc.statistics().totals
        assert (totals.failed, totals.abandoned) == (0, 1)


# One timer and one scope for many attempts


@pytest.mark.parametrize("how", ["ends", "returns", "raises"])
async def test_late_handler_of_a_revoked_partition_is_abandoned(
    autojump_clock: MockClock, world: World, how: str
) -> None:
    """Its partition is taken while it still ends, late: whatever becomes of it, nothing has failed, nothing is done."""
    world.broker.add(P0, ["a"])
    started: list[float] = []

    async def handle(_record: Record) -> None:
        started.append(trio.current_time())
        if len(started) > 1:
            return
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            if how == "returns":
                return  # noqa: ASYNC104, B012 - what must not be done
            if how == "raises":
                raise BodyError

    async with world.consuming(handle, handler_timeout=5.0, revoke_grace=0.0, on_failure="skip") as pc:
        await trio.sleep(6)
        await world.rebalance(revoke=[P0])
        await trio.sleep_until(9)
        totals = pc.statistics().totals
        assert (totals.failed, totals.skipped, totals.completed, totals.abandoned) == (0, 0, 0, 1)
        await world.rebalance(assign=[P0])
        await trio.sleep(2)
        assert pc.statistics().totals.completed == 1
    assert len(started) == 2


@pytest.mark.parametrize("seed", range(12))
async def test_timeout_and_revoke_at_the_same_moment(autojump_clock: MockClock, world: World, seed: int) -> None:
    """Either is what ends the attempt, and the record is given up, or handled again; never neither, nor both."""
    world.broker.add(P0, ["a"])
    handle = Handling(held={0})
    with seeded(seed):
        async with world.consuming(handle, handler_timeout=5.0, revoke_grace=0.0, on_failure="skip") as pc:
            await trio.sleep_until(5.0)
            await world.rebalance(revoke=[P0])
            totals = pc.statistics().totals
            assert (totals.failed, totals.skipped, totals.abandoned) in ((1, 1, 0), (0, 0, 1))
            assert world.committed(P0) == (1 if totals.skipped else None)
            handle.let_go()
            await world.rebalance(assign=[P0])
            await trio.sleep(3)
            assert pc.statistics().totals.completed == 1
    assert handle.cancelled == [(0, 0)]
    assert len(handle.finished) == totals.abandoned
    assert world.committed(P0) == 1


async def test_time_is_up_for_one_attempt_only(autojump_clock: MockClock, world: World) -> None:
    """What came before it in a row of handlers that never wait, and was late, isn't held against a handler."""
    world.broker.add(P0, ["a", "a", "b", "b"])

    async def handle(record: Record) -> None:
        if record.offset == 0:
            autojump_clock.jump(8)
        elif record.offset == 2:
            autojump_clock.jump(4)
        else:
            await trio.sleep(4)

    async with world.consuming(handle, handler_timeout=5.0, on_failure="skip", max_concurrency=1) as pc:
        await trio.sleep(30)
        totals = pc.statistics().totals
        assert (totals.failed, totals.skipped, totals.completed) == (1, 1, 4)


async def test_row_of_handlers_that_never_wait_may_take_longer(autojump_clock: MockClock, world: World) -> None:
    """Each of them has its own time, though nobody could look meanwhile."""
    world.broker.add(P0, ["a"] * 6)

    async def block(_record: Record) -> None:
        autojump_clock.jump(4)

    async with world.consuming(block, handler_timeout=5.0) as pc:
        await trio.sleep(30)
        assert (pc.statistics().totals.failed, pc.statistics().totals.completed) == (0, 6)


async def test_time_between_handlers_is_nobodys(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that lets other tasks run, and gets its turn late, hasn't made a record late."""
    monkeypatch.setattr(workers, "SLICE", 0.0)
    world.broker.add(P0, ["a"] * 40)
    handled: list[int] = []

    async def handle(record: Record) -> None:
        handled.append(record.offset)

    async def block() -> None:
        while len(handled) < 40:
            autojump_clock.jump(8)
            await trio.lowlevel.checkpoint()

    async with world.consuming(handle, handler_timeout=5.0) as pc, trio.open_nursery() as nursery:
        while not handled:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(block)
        await trio.sleep(100)
        assert (pc.statistics().totals.failed, pc.statistics().totals.completed) == (0, 40)


async def test_handler_after_one_that_was_revoked_has_its_own_time(autojump_clock: MockClock, world: World) -> None:
    """The time of an attempt that was cancelled for another reason isn't taken from the next one's."""
    world.broker.add(P0, ["a"])
    handle = Handling(held={0})
    async with world.consuming(handle, handler_timeout=5.0, revoke_grace=0.0, max_concurrency=1) as pc:
        await trio.sleep(3)
        handle.held.clear()
        handle.work = 4.0
        world.broker.add(P1, ["b"])
        await trio.sleep(1)
        await world.rebalance(revoke=[P0])
        await trio.sleep(6)
        assert (pc.statistics().totals.failed, pc.statistics().totals.completed) == (0, 1)
    assert handle.finished == [(1, 0)]


@pytest.mark.parametrize("first", ["sends", "fails"])
async def test_handler_after_one_whose_end_took_time_is_bounded(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, first: str
) -> None:
    """The time of the next begins once what the one before it led to is dealt with."""
    outbox.delay = 3.0
    graveyard(world)
    world.broker.add(P0, ["a", "a"])
    cancelled_at: list[float] = []

    async def handle(record: Record) -> ProducerRecord:
        if record.offset == 0 and first == "fails":
            raise BodyError
        if record.offset == 0:
            return ProducerRecord("results", b"done")
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at.append(trio.current_time())

    async with world.consuming(handle, handler_timeout=5.0, on_failure="dead_letter", max_concurrency=1):
        await trio.sleep(20)
    assert cancelled_at == [pytest.approx(8.0, abs=0.2)]


@pytest.mark.parametrize(
    "ends", ["with its cancellation", "with an error of its own", "with both", "as if nothing were"]
)
async def test_worker_goes_on_after_a_timeout(autojump_clock: MockClock, world: World, ends: str) -> None:
    """The only worker has a scope that isn't cancelled for what comes next."""
    world.broker.add(P0, ["a", "a", "b"])
    handled: list[int] = []
    sources: list[str] = []

    async def handle(record: Record) -> None:
        try:
            await trio.sleep(math.inf if record.offset == 0 else 4)
        except trio.Cancelled as cancelled:
            sources.append(cancelled.source)
            if ends == "with its cancellation":
                raise
            if ends == "with an error of its own":
                raise BodyError from None  # noqa: ASYNC104 - what must not be done
            if ends == "with both":
                raise BaseExceptionGroup("of a nursery", [cancelled, BodyError()]) from None  # noqa: ASYNC104
        handled.append(record.offset)

    async with world.consuming(handle, handler_timeout=5.0, on_failure="skip", max_concurrency=1) as pc:
        await trio.sleep(15)
        totals = pc.statistics().totals
        assert (totals.failed, totals.skipped, totals.abandoned, totals.completed) == (1, 1, 0, 3)
    assert sorted(set(handled) - {0}) == [1, 2]
    assert sources == ["deadline"]
    assert world.committed(P0) == 3


async def test_bound_is_the_handlers_not_that_of_its_dead_letter(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """A failure may take longer to be dealt with, and the next attempt begins after that."""
    outbox.delay = 20.0
    graveyard(world)
    world.broker.add(P0, ["a", "a"])
    handle = Failing({0: [HandlerError("bad")]}, work=4.0)
    async with world.consuming(handle, handler_timeout=5.0, on_failure="dead_letter", max_concurrency=1) as pc:
        await trio.sleep(40)
        totals = pc.statistics().totals
        assert (totals.failed, totals.dead_lettered, totals.completed, totals.abandoned) == (1, 1, 2, 0)
    assert outbox.places == [(0, 0)]


# Handlers that don't end


async def test_handler_that_does_not_end_is_named(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names it once, the statistics show it, its lane waits; all others go on, and are committed."""
    world.broker.add(P0, ["a", "a", "b"])
    handle = Handling(stubborn={0})
    async with world.consuming(handle, handler_timeout=5.0, retry=AT_ONCE) as pc:
        with letting_go(handle):
            await trio.sleep(5.5)
            assert not times_named(caplog)
            await trio.sleep(10)
            world.broker.add(P0, ["b"])
            await trio.sleep(10)
            assert NAMED in caplog.text
            assert times_named(caplog) == 1
            oldest = of(pc, P0).oldest_incomplete
            assert oldest is not None
            assert (oldest.offset, oldest.key, oldest.is_running) == (0, b"a", True)
            assert oldest.age > 20
            assert handle.offsets(P0) == [2, 3]
            assert world.broker.one_group.taken[-1].metadata
        await trio.sleep(5)
    assert handle.offsets(P0, started=True) == [0, 2, 3, 0, 1]
    assert world.committed(P0) == 4


class WaitsForItsTurn(ExecutionEngine):
    """Begins each call after 20 seconds."""

    @asynccontextmanager
    async def open(self, handler: Any) -> AsyncIterator[Execute]:
        async def execute(given: Any, attempt: Attempt) -> object:
            await trio.sleep(20)
            attempt.started()
            return await handler(given)

        yield execute


@pytest.mark.parametrize("method", ["run", "run_batches"])
async def test_record_that_waits_for_its_turn_is_not_named(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """One that an engine hasn't come to yet isn't late; the log names it once its own time is up."""
    world.broker.add(P0, ["a"])

    async def handle(_given: object) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    async with (
        parallel_consumer(world.config(handler_timeout=5.0, on_failure="skip")) as pc,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(functools.partial(getattr(pc, method), handle, engine=WaitsForItsTurn()))
        await trio.sleep(24)
        assert not times_named(caplog)
        await trio.sleep(5)
        assert times_named(caplog) == 1
        await trio.sleep(20)
        pc.stop()


async def test_second_stuck_attempt_is_named_again(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Each attempt that doesn't end is told of once."""
    world.broker.add(P0, ["a"])

    async def handle(_record: Record) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    async with world.consuming(handle, handler_timeout=5.0, retry=AT_ONCE, on_failure="skip"):
        await trio.sleep(42)
    assert times_named(caplog) == 2


async def test_quick_handlers_are_never_named(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A lane that is always busy isn't mistaken for one that is stuck, nor a handler that ends when it is told to."""
    world.broker.add(P0, ["a"] * 100)
    world.broker.add(P1, ["b"])
    handle = Handling(work=0.3)
    slow = Handling(held={0})

    async def either(record: Record) -> None:
        await (slow(record) if record.partition == 1 else handle(record))

    async with world.consuming(either, handler_timeout=2.0, retry=RetryPolicy(max_attempts=None, max_backoff=0.1)):
        await trio.sleep(31)
    assert len(handle.finished) == 100
    assert len(slow.cancelled) > 10
    assert not times_named(caplog)


async def test_slow_acknowledgement_is_not_taken_for_a_hung_handler(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The deadline is the handler's: what it returned may take longer to be sent. The log names it as what it may be.

    It once said that the handler didn't react to its cancellation.
    """
    outbox.delay = 20.0
    world.broker.add(P0, ["a"])

    async def handle(_record: Record) -> ProducerRecord:
        await trio.sleep(1)
        return ProducerRecord("results", b"done")

    async with world.consuming(handle, handler_timeout=5.0) as pc:
        await trio.sleep(25)
        assert (pc.statistics().totals.completed, pc.statistics().totals.failed) == (1, 0)
    assert times_named(caplog) == 1
    assert "or what it resulted in isn't sent yet" in caplog.text


@pytest.mark.parametrize("how", ["stop", "body error", "cancellation"])
async def test_leaving_with_a_handler_that_does_not_end(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """The rest is committed, the group left and the client closed within their bounds; the block ends when it does.

    The error that leaves, beside what else does, names the record.
    """
    world.broker.add(P0, ["a", "a", "b"])
    handle = Handling(stubborn={0})
    fields = {"handler_timeout": 5.0, "shutdown_timeout": 3.0, "close_timeout": 4.0, "commit_interval": NEVER}
    seen: list[str] = []

    async def watch() -> None:
        with trio.CancelScope(shield=True), letting_go(handle):
            await trio.sleep(20)
            client = world.client
            assert (client.owned, client.left_owned, client.ended.is_set()) == ({}, (), True)
            assert world.committed(P0) == 0
            assert read_metadata(world.broker.one_group.taken[-1].metadata, 0).completed == ((2, 3),)
            seen.append(opened[0].statistics().state)

    async def live() -> None:
        async with parallel_consumer(world.config(**fields)) as pc, trio.open_nursery() as nursery:
            opened.append(pc)
            nursery.start_soon(pc.run, handle)
            await trio.sleep(9)
            if how == "stop":
                pc.stop()
            elif how == "body error":
                raise BodyError
            else:
                nursery.cancel_scope.cancel()

    opened: list[ParallelConsumer] = []
    stuck = pytest.RaisesExc(
        HandlerStuckError,
        match=r"orders\[0\]@0.*didn't react.*handled again",
        check=lambda error: (error.topic, error.partition, error.offset) == ("orders", 0, 0),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with pytest.RaisesGroup(stuck, *([BodyError] if how == "body error" else []), flatten_subgroups=True):
            await live()
        assert trio.current_time() == pytest.approx(20.0, abs=0.2)
    assert seen == ["stopped"]
    assert NAMED in caplog.text
    assert world.committed(P0) == 0


async def test_stuck_record_of_a_lost_partition_holds_up_its_next_assignment(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The partition isn't read in this member until the old handler has ended, whose late return changes nothing."""
    world.broker.add(P0, ["a", "a"])
    handle = Handling(stubborn={0})
    async with world.consuming(handle, handler_timeout=5.0, retry=AT_ONCE) as pc:
        with letting_go(handle):
            await trio.sleep(8)
            await world.rebalance(lose=[P0], assign=[P0])
            await trio.sleep(10)
            assert of(pc, P0).phase == "starting"
            assert "orders[0] waits for a handler of an earlier assignment" in caplog.text
        await trio.sleep(5)
        assert pc.statistics().totals.failed == 0
        assert pc.statistics().totals.completed == 2
    assert handle.offsets(P0, started=True) == [0, 0, 1]
    assert world.committed(P0) == 2


async def test_timeout_that_hits_while_the_consumer_stops(autojump_clock: MockClock, world: World) -> None:
    """In the drain, too, an attempt has its own deadline; what fails by it is left."""
    world.broker.add(P0, ["a"])
    handle = Failing(work=math.inf)
    async with world.consuming(handle, handler_timeout=5.0, shutdown_timeout=60.0, retry=AT_ONCE):
        await trio.sleep(1)
    assert trio.current_time() == pytest.approx(5.0, abs=0.5)
    assert handle.started(P0) == [(0, 1)]
    assert world.committed(P0) == 0
