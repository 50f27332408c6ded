"""Body errors, cancellation, Ctrl-C, and a run outside its block: handlers end at once, completions are committed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest
import trio
from shell.kit import NEVER, P0, BodyError, Handling, World
from trio.testing import MockClock

from trio_parallel_kafka import Record, parallel_consumer
from trio_parallel_kafka.control.controller import Controller
from trio_parallel_kafka.control.rebalance import SETTLE
from trio_parallel_kafka.errors import (
    ConsumerClosedError,
    HandlerStuckError,
)

# Body error, outer cancellation, Ctrl-C


@pytest.mark.parametrize("kind", [BodyError, KeyboardInterrupt])
async def test_body_error(autojump_clock: MockClock, world: World, kind: type[BaseException]) -> None:
    """The body's error cancels handlers at once; completions so far are committed, and the error leaves."""
    world.broker.add(P0, ["a", "b", "b"])
    handle = Handling(held={0})
    mine = kind("mine")
    with pytest.RaisesGroup(pytest.RaisesExc(kind, check=lambda raised: raised is mine)):
        async with world.consuming(handle, commit_interval=NEVER):
            await trio.sleep(2)
            began = trio.current_time()
            raise mine
    assert trio.current_time() - began < 0.5
    assert handle.cancelled == [(0, 0)]
    assert handle.offsets(P0) == [1, 2]
    assert world.committed(P0) == 0
    assert world.broker.one_group.taken[-1].metadata
    assert not world.client.left_owned


async def test_body_error_leaves_unwrapped(autojump_clock: MockClock, world: World) -> None:
    """What the body raises itself leaves as it is, not in a group of the consumer's nurseries."""
    with pytest.raises(BodyError) as caught:  # noqa: PT012 - the block's end is part of it
        async with parallel_consumer(world.config()) as pc:
            await pc.wait_assigned()
            raise BodyError
    assert caught.value.__cause__ is None
    assert not world.client.left_owned


async def test_outer_cancellation(autojump_clock: MockClock, world: World) -> None:
    """A cancelled block cancels handlers at once and commits what completed, shielded."""
    world.broker.add(P0, ["a", "b", "b"])
    world.broker.network.delays["OffsetCommit"] = 2.0
    handle = Handling(held={0})
    with trio.move_on_after(5) as scope:
        async with parallel_consumer(world.config(commit_interval=NEVER)) as pc:
            await pc.run(handle)
    assert scope.cancelled_caught
    assert trio.current_time() < 8
    assert handle.cancelled == [(0, 0)]
    assert world.broker.one_group.taken[-1].metadata
    assert not world.client.left_owned


async def test_run_may_be_cancelled_alone(autojump_clock: MockClock, world: World) -> None:
    """When only ``run`` is cancelled, it leaves the group; the block goes on to its end."""
    world.broker.add(P0, ["a"])
    async with parallel_consumer(world.config(commit_interval=NEVER)) as pc:
        with trio.move_on_after(2):
            await pc.run(Handling())
        assert world.committed(P0) == 1
        assert not world.client.owned


async def test_interrupt_in_a_handler(autojump_clock: MockClock, world: World) -> None:
    """Ctrl-C that hits a handler ends all others at once and leaves; completions are committed."""
    world.broker.add(P0, ["a", "b", "c"])
    others = Handling(held={0})

    async def handle(record: Record) -> None:
        if record.offset == 1:
            await trio.sleep(2)
            raise KeyboardInterrupt
        await others(record)

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with parallel_consumer(world.config(commit_interval=NEVER)) as pc:
            await pc.run(handle)
    assert trio.current_time() < 3
    assert others.cancelled == [(0, 0)]
    assert world.committed(P0) == 0
    assert world.broker.one_group.taken[-1].metadata
    assert not world.client.left_owned


async def test_interrupt_in_run_itself(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C that hits ``run`` cancels handlers at once; it once gave them a settling time and a grace."""
    world.broker.add(P0, ["a"])
    handle = Handling(held={0})

    async def interrupted(_controller: Controller) -> NoReturn:
        await trio.sleep(2)
        raise KeyboardInterrupt

    monkeypatch.setattr(Controller, "wait_until_ending", interrupted)
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with parallel_consumer(world.config(revoke_grace=4.0)) as pc:
            await pc.run(handle)
    assert handle.cancelled == [(0, 0)]
    assert trio.current_time() < 2.5


async def test_interrupt_while_leaving(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C, while the block waits for its last commit, ends it; it once waited for ever."""
    leave = Controller.leave

    async def interrupted(controller: Controller) -> None:
        with trio.move_on_after(1):
            await leave(controller)
        raise KeyboardInterrupt

    monkeypatch.setattr(Controller, "leave", interrupted)
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True, allow_unwrapped=True):
        async with parallel_consumer(world.config()) as pc:
            await pc.wait_assigned()
    assert trio.current_time() < 5


async def test_hung_handler_does_not_hold_the_group_up(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The block's end cuts a grace: a handler that ignores its cancellation is named, and partitions are let go."""
    world.broker.add(P0, ["a", "b"])
    handle = Handling(stubborn={0})
    with pytest.RaisesGroup(pytest.RaisesExc(HandlerStuckError, match=r"orders\[0\]@0"), flatten_subgroups=True):
        async with (
            parallel_consumer(world.config(revoke_grace=100.0, close_timeout=20.0)) as pc,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(pc.run, handle)
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
            began = trio.current_time()
            nursery.start_soon(_shielded_until, lambda: not world.client.owned)
            nursery.start_soon(_shielded_later, 60, handle.let_go)
    assert _released_at - began < 2 * SETTLE + 1
    assert world.client.ended.is_set()
    assert "doesn't react to its cancellation" in caplog.text
    assert world.committed(P0) == 0


_released_at = 0.0


async def _shielded_until(condition: Callable[[], bool]) -> None:
    global _released_at  # noqa: PLW0603 - a result for the test
    with trio.CancelScope(shield=True):
        while not condition():
            await trio.sleep(0.1)
        _released_at = trio.current_time()


async def _shielded_later(seconds: float, do: Callable[[], object]) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)
    do()


async def test_grace_is_cut_by_the_end_of_the_block(autojump_clock: MockClock, world: World) -> None:
    """A revoke that is waiting for its grace doesn't hold up a cancelled block."""
    world.broker.add(P0, ["a"])
    handle = Handling(held={0})
    with trio.move_on_after(5):
        async with parallel_consumer(world.config(revoke_grace=100.0)) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await trio.sleep(2)
            await world.rebalance(revoke=[P0])
    assert trio.current_time() < 7
    assert handle.cancelled == [(0, 0)]
    assert not world.client.left_owned


# A run outside the block


async def test_block_that_ends_around_a_run_ends_the_run(autojump_clock: MockClock, world: World) -> None:
    """A ``run`` that outlives its block is ended with it: handlers cancelled, completions committed, and an error."""
    world.broker.add(P0, ["a", "b"])
    handle = Handling(held={0})
    with pytest.RaisesGroup(pytest.RaisesExc(ConsumerClosedError, match="the block ended")):
        async with trio.open_nursery() as nursery:
            async with parallel_consumer(world.config(commit_interval=NEVER)) as pc:
                nursery.start_soon(pc.run, handle)
                await trio.sleep(2)
            assert not world.client.left_owned
    assert handle.cancelled == [(0, 0)]
    assert world.broker.one_group.taken[-1].metadata


async def test_block_that_ends_ends_waiting_for_an_assignment(autojump_clock: MockClock, world: World) -> None:
    """A task that waits for an assignment beyond the block gets an error, and doesn't wait for ever."""
    world.broker.share = []
    with pytest.RaisesGroup(ConsumerClosedError):
        async with trio.open_nursery() as nursery, parallel_consumer(world.config()) as pc:
            nursery.start_soon(pc.wait_assigned)
            await trio.sleep(2)
