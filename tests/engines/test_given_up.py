"""Handlers that were given up but can't be stopped: fenced, counted, and waited for before their lane goes on.

In virtual time, by an engine of the test's own; a thread is just such a handler.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from engines.unstoppable import Unstoppable
from shell.failing import graveyard
from shell.fake_outbox import FakeOutbox
from shell.kit import NEVER, P0, BodyError, Handling, Place, StepCounter, World, of
from trio.testing import MockClock

from trio_parallel_kafka import (
    DeadLetterConfig,
    DeliveryError,
    HandlerStuckError,
    HandlerTimeoutError,
    ParallelConsumer,
    ProducerRecord,
    Record,
    parallel_consumer,
)
from trio_parallel_kafka.config import RetryPolicy
from trio_parallel_kafka.control.client import Lost

TIMEOUT = 5.0
ONCE_MORE = RetryPolicy(max_attempts=2, initial_backoff=1.0, jitter=0.0)
POLICIES: dict[str, dict[str, Any]] = {
    "skip": {"on_failure": "skip"},
    "dead letter": {"on_failure": "dead_letter", "dead_letter": DeadLetterConfig(on_dead_letter_failure="retry")},
}
"""By which a record is done with after its attempt has failed."""


class Batched:
    """A handler of batches that hands their records to another one, all at once."""

    def __init__(self, handle: Handling) -> None:
        self._handle = handle

    async def __call__(self, records: tuple[Record, ...]) -> None:
        async with trio.open_nursery() as nursery:
            for record in records:
                nursery.start_soon(self._handle, record)


@asynccontextmanager
async def consuming(
    world: World, handle: Any, *, method: str = "run", **fields: Any
) -> AsyncIterator[ParallelConsumer]:
    """Consume with an engine that can't stop handlers; they are let go with the block."""
    async with (
        parallel_consumer(world.config(handler_timeout=TIMEOUT, commit_interval=1.0, **fields)) as pc,
        trio.open_nursery() as nursery,
    ):
        handler = handle if method == "run" else Batched(handle)
        run = functools.partial(getattr(pc, method), handler, engine=Unstoppable(), **sizes(method))
        nursery.start_soon(run)
        try:
            yield pc
            pc.stop()
        finally:
            handle.let_go()


def sizes(method: str) -> dict[str, int]:
    """Of batches: one."""
    return {"max_size": 1} if method == "run_batches" else {}


def abandoned(pc: ParallelConsumer) -> int:
    """How many handlers the statistics show as given up."""
    return pc.statistics().engine.abandoned


@pytest.fixture(params=["run", "run_batches"])
def method(request: pytest.FixtureRequest) -> str:
    """One record at a time, or batches of one."""
    found: str = request.param
    return found


async def test_next_attempt_waits(
    autojump_clock: MockClock, world: World, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The next attempt starts only after the last one has ended, and after the backoff from then on."""
    world.broker.add(P0, ["a", "a", "b"])
    handle = Handling(held={0})
    async with consuming(world, handle, method=method, retry=ONCE_MORE) as pc:
        await trio.sleep(4)
        assert (abandoned(pc), pc.statistics().totals.failed) == (0, 0)
        await trio.sleep(2)
        assert (abandoned(pc), pc.statistics().totals.failed) == (1, 1)
        assert "was given up, but goes on; its lane waits" in caplog.text
        await trio.sleep(30)
        assert sorted(handle.offsets(P0, started=True)) == [0, 2]
        handle.let_go()
        await trio.sleep(0.5)
        assert (abandoned(pc), len(handle.started)) == (0, 2)
        await trio.sleep(1)
        assert handle.offsets(P0, started=True)[2:] == [0, 1]
        assert pc.statistics().totals.completed == 3
    assert [record.attempt for record in handle.records if record.offset == 0] == [1, 2]
    assert not handle.overlaps


@pytest.mark.parametrize("policy", POLICIES)
async def test_next_record_waits(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, method: str, policy: str
) -> None:
    """A record that is passed over is done at once, but the record behind it waits for its handler to end."""
    graveyard(world)
    world.broker.add(P0, ["a", "a", "b"])
    handle = Handling(held={0})
    async with consuming(world, handle, method=method, **POLICIES[policy]) as pc:
        await trio.sleep(30)
        assert sorted(handle.offsets(P0, started=True)) == [0, 2]
        assert (world.committed(P0), pc.statistics().totals.completed, abandoned(pc)) == (1, 2, 1)
        handle.let_go()
        await trio.sleep(2)
        assert handle.offsets(P0, started=True)[2:] == [1]
        assert (world.committed(P0), abandoned(pc)) == (3, 0)
    assert outbox.places == ([(0, 0)] if policy == "dead letter" else [])
    assert not handle.overlaps


async def test_late_result_is_dropped(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """What a handler returns or raises after it was given up changes nothing."""
    world.broker.add(P0, ["a", "b"])
    handle = Handling(held={0, 1})

    async def respond(record: Record) -> ProducerRecord:
        await handle(record)
        if record.offset == 1:
            raise BodyError
        return ProducerRecord("results", f"{record.attempt}")

    respond.let_go = handle.let_go  # type: ignore[attr-defined]  # as consuming() asks for
    async with consuming(world, respond, on_failure="skip") as pc:
        await trio.sleep(6)
        handle.let_go()
        await trio.sleep(2)
        totals = pc.statistics().totals
        assert (totals.completed, totals.failed, totals.skipped, totals.sent) == (2, 2, 2, 0)
    assert outbox.sent == []


async def test_result_in_time_counts(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A user's engine hands on what handlers return, and is named in the statistics."""
    world.broker.add(P0, ["a"])
    handle = Handling()

    async def respond(record: Record) -> ProducerRecord:
        return ProducerRecord("results", record.key)

    respond.let_go = handle.let_go  # type: ignore[attr-defined]
    async with consuming(world, respond) as pc:
        await trio.sleep(1)
        assert pc.statistics().engine.mode == "unstoppable"
        assert (outbox.places, of(pc, P0).position) == ([(0, 0)], 1)


async def test_failure_for_good_is_named_and_waited_for(autojump_clock: MockClock, world: World, method: str) -> None:
    """The consumer stops, lets go of all, and names what goes on; the block is left once that has ended."""
    world.broker.add(P0, ["a", "a", "b"])
    handle = Handling(held={0})

    async def let_go() -> None:
        await trio.sleep(200)
        assert world.client.ended.is_set()
        assert pc.statistics().state != "running"
        handle.let_go()

    with pytest.RaisesGroup(pytest.RaisesGroup(HandlerTimeoutError)) as caught:
        async with consuming(world, handle, method=method, shutdown_timeout=10.0, close_timeout=10.0) as pc:
            await let_go()
            await trio.sleep_forever()
    error = caught.value.exceptions[0]
    assert trio.current_time() >= 200
    assert "the handler of <Record orders[0]@0" in error.__notes__[0]
    assert handle.offsets(P0, started=True) == [0, 2]
    assert world.committed(P0) in {None, 0}


async def test_leaving_the_block_waits_and_names(autojump_clock: MockClock, world: World, method: str) -> None:
    """A cancelled block doesn't end before its handlers do; then an error names them."""
    world.broker.add(P0, ["a", "a"])
    handle = Handling(held={0})
    handler = handle if method == "run" else Batched(handle)

    async def let_go() -> None:
        await trio.sleep(100)
        assert abandoned(pc) == 1
        handle.let_go()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        async with parallel_consumer(world.config(close_timeout=3.0)) as pc:
            with pytest.raises(HandlerStuckError, match=r"<Record orders\[0\]@0"), trio.move_on_after(2):
                await getattr(pc, method)(handler, engine=Unstoppable(), **sizes(method))
        assert trio.current_time() >= 100
    assert handle.finished == [(0, 0)]
    assert abandoned(pc) == 0
    assert world.committed(P0) in {None, 0}


async def test_revoke_during_the_wait(autojump_clock: MockClock, world: World, method: str) -> None:
    """A partition that comes back waits for the handler that was given up before it went."""
    world.broker.add(P0, ["a", "a"])
    handle = Handling(held={0})
    async with consuming(world, handle, method=method, retry=ONCE_MORE, revoke_grace=0.0) as pc:
        await trio.sleep(6)
        await world.rebalance(revoke=[P0])
        await world.rebalance(assign=[P0])
        await trio.sleep(5)
        assert (of(pc, P0).phase, len(handle.started), abandoned(pc)) == ("starting", 1, 1)
        handle.let_go()
        await trio.sleep(5)
        assert handle.offsets(P0, started=True) == [0, 0, 1]
        assert [record.attempt for record in handle.records] == [1, 1, 1]
    assert not handle.overlaps


async def test_loss_while_a_dead_letter_is_sent(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, method: str
) -> None:
    """Cut off between the end of the attempt's time and the handler's own, it is waited for all the same."""
    graveyard(world)
    world.broker.add(P0, ["a", "a"])
    outbox.delay = 10.0
    handle = Handling(held={0})
    async with consuming(world, handle, method=method, **POLICIES["dead letter"]) as pc:
        await trio.sleep(8)
        await world.rebalance(lose=[P0])
        await world.rebalance(assign=[P0])
        await trio.sleep(5)
        assert (of(pc, P0).phase, len(handle.started), abandoned(pc)) == ("starting", 1, 1)
        outbox.delay = 0.0
        handle.let_go()
        await trio.sleep(5)
        assert handle.offsets(P0, started=True) == [0, 0, 1]
        assert pc.statistics().totals.completed == 2
    assert not handle.overlaps


async def test_loss_as_a_dead_letter_is_acknowledged(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Where a loss comes too late to cancel the sending, the completion is fenced, and the handler waited for."""
    graveyard(world)
    world.broker.add(P0, ["a", "a"])
    handle = Handling(held={0})
    async with consuming(world, handle, method=method, **POLICIES["dead letter"]) as pc:

        async def lose_after(*args: Any, send_all: Any = outbox.send_all) -> Any:
            errors = await send_all(*args)
            monkeypatch.setattr(outbox, "send_all", send_all)
            pc._controller._rebalancer.lost(Lost((P0,)))
            return errors

        monkeypatch.setattr(outbox, "send_all", lose_after)
        await trio.sleep(6)
        assert (pc.statistics().totals.fenced, abandoned(pc)) == (1, 1)
        await world.rebalance(assign=[P0])
        await trio.sleep(5)
        assert (of(pc, P0).phase, len(handle.started)) == ("starting", 1)
        handle.let_go()
        await trio.sleep(5)
        assert handle.offsets(P0, started=True) == [0, 0, 1]
    assert not handle.overlaps


async def test_dead_letter_that_is_sent_again(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that has ended meanwhile isn't waited for, nor named, a second time."""
    graveyard(world)
    world.broker.add(P0, ["a", "a"])
    outbox.errors.extend([DeliveryError("no answer"), DeliveryError("no answer")])
    handle = Handling(held={0})
    async with consuming(world, handle, **POLICIES["dead letter"]) as pc:
        await trio.sleep(10)
        assert (abandoned(pc), outbox.tried) == (1, 1)
        handle.let_go()
        await trio.sleep(30)
        assert (abandoned(pc), outbox.places, of(pc, P0).position) == (0, [(0, 0)], 2)
    assert caplog.text.count("was given up, but goes on") == 1


async def test_block_that_waits_is_cancelled(autojump_clock: MockClock, world: World) -> None:
    """A record that was skipped stays done when the block is cancelled while its handler goes on."""
    world.broker.add(P0, ["a", "a"])
    handle = Handling(held={0})
    with pytest.RaisesGroup(BodyError):
        async with consuming(world, handle, on_failure="skip", close_timeout=100.0):
            await trio.sleep(6)
            raise BodyError
    assert (handle.started, handle.finished) == ([(0, 0)], [(0, 0)])
    assert world.committed(P0) == 1


@pytest.mark.parametrize("first", range(8))
async def test_cancelled_anywhere(autojump_clock: MockClock, world: World, method: str, first: int) -> None:
    """Wherever a cancellation strikes, no handler outlives the block, and none begins beside one of its lane."""
    fields: dict[str, Any] = {"commit_interval": NEVER, "retry": ONCE_MORE}
    for steps in range(2 * first, 240, 16):
        world.reset()
        world.broker.add(P0, ["a", "a", "b"])
        handle = Handling(work=TIMEOUT + 1)
        counter = StepCounter(steps)
        trio.lowlevel.add_instrument(counter)
        try:
            with counter.scope, trio.move_on_after(3 * TIMEOUT), suppress(HandlerStuckError):
                async with parallel_consumer(world.config(handler_timeout=TIMEOUT, on_failure="skip", **fields)) as pc:
                    handler = handle if method == "run" else Batched(handle)
                    await getattr(pc, method)(handler, engine=Unstoppable(), **sizes(method))
        finally:
            trio.lowlevel.remove_instrument(counter)
        left: list[Place] = [each for each in handle.started if each not in handle.finished]
        assert not left
        assert not handle.overlaps
