"""Every way out: what becomes of handlers, of what is buffered, of the last commit, and what leaves the block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from shell.kit import P0, P1, HandlerError, Handling, World, error, of, settle
from trio.testing import MockClock

from trio_parallel_kafka import Record, parallel_consumer
from trio_parallel_kafka.control.controller import Controller
from trio_parallel_kafka.control.dispatcher import Dispatcher
from trio_parallel_kafka.control.rebalance import SETTLE
from trio_parallel_kafka.errors import (
    AuthorizationError,
    CloseTimeoutError,
    CommitError,
    ConsumerClosedError,
    KafkaError,
)

NEVER = 1000.0
"""A commit interval that doesn't come: what is committed is committed by the ending under test."""


# A stop


async def test_stop_finishes_what_is_buffered(autojump_clock: MockClock, world: World) -> None:
    """A stop handles what was fetched, commits it, lets everything go, and ``run`` returns."""
    world.broker.produce(P0, [f"k{n % 3}" for n in range(30)])
    handle = Handling(work=1.0)
    async with parallel_consumer(world.config(commit_interval=NEVER)) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        await trio.sleep(2.5)
        pc.stop()
        pc.stop()
        await settle()
        assert pc.statistics().state == "draining"
        assert of(pc, P0).paused == "stopping"
        world.broker.produce(P0, ["late"])
    assert sorted(handle.offsets(P0)) == list(range(30))
    assert world.committed(P0) == 30
    assert not world.client.owned
    assert not world.client.left_owned
    assert pc.statistics().state == "closed"


async def test_stop_cancels_what_hangs_at_its_timeout(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A hung handler is named and cancelled at ``shutdown_timeout``; what completed beside it is committed."""
    world.broker.produce(P0, ["a", "b", "a", "c"])
    handle = Handling(held={0})
    async with parallel_consumer(world.config(shutdown_timeout=7.0)) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        await trio.sleep(2)
        pc.stop()
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(7.0, abs=0.5)
    assert handle.cancelled == [(0, 0)]
    assert handle.offsets(P0, started=True) == [0, 1, 3]
    assert "didn't end within shutdown_timeout and is cancelled" in caplog.text
    assert world.committed(P0) == 0
    assert not world.client.left_owned


async def test_stop_before_run(autojump_clock: MockClock, world: World) -> None:
    """A consumer stopped before ``run`` finishes what was fetched by then; ``run`` returns."""
    world.broker.produce(P0, ["a", "b", "a"])
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
    world.broker.delays["committed"] = 5.0
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
    world.broker.produce(P0, ["a"])
    world.broker.produce(P1, ["b"])
    handle = Handling(held={0})
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        await trio.sleep(2)
        pc.stop()
        await world.client.rebalance(assign=[P1])
        await trio.sleep(3)
        assert of(pc, P1).paused == "stopping"
        handle.let_go()
    assert handle.started == [(0, 0)]
    assert not world.client.left_owned


async def test_partition_that_starts_while_stopping_is_not_read(autojump_clock: MockClock, world: World) -> None:
    """A partition whose position becomes known while the consumer drains isn't fetched for nothing."""
    world.broker.produce(P0, ["a"])
    world.broker.produce(P1, ["b"])
    handle = Handling(held={0})
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        await pc.wait_assigned()
        await world.client.rebalance(revoke=[P1])
        world.broker.errors["committed"] += [error(ClientError.REQUEST_TIMED_OUT)] * 3
        await world.client.rebalance(assign=[P1])
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
    world.broker.produce(P0, ["a"])
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
    world.broker.produce(P0, ["a", "b", "a", "b", "c"], value=b"hush")
    handle = Handling(held={0, 1, 4})
    async with parallel_consumer(world.config(commit_interval=NEVER)) as pc:
        async with trio.open_nursery() as nursery:
            handle.bad.add(0)
            nursery.start_soon(_later, 2, lambda: handle.let_go(0))
            nursery.start_soon(_later, 4, lambda: handle.let_go(1, 4))
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
    assert "the handler of <Record orders[0]@0 key=b'a'" in caplog.text
    assert "hush" not in caplog.text


async def test_failed_lane_is_sealed_while_others_drain(autojump_clock: MockClock, world: World) -> None:
    """No record behind a failed one is started, however long others take to finish, and whatever completes."""
    world.broker.produce(P0, ["a", "b", "a", "a"])
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
    world.broker.produce(P0, ["a", "b", "c"])
    handle = Handling(bad={0})
    with pytest.RaisesGroup(pytest.RaisesGroup(HandlerError)):
        async with world.consuming(handle, max_concurrency=1):
            await trio.sleep(math.inf)
    assert handle.started == [(0, 0)]


async def test_several_failures_leave_together(autojump_clock: MockClock, world: World) -> None:
    """Handlers that fail while the first failure drains are in the same group."""
    world.broker.produce(P0, ["a", "b"])
    handle = Handling(held={0, 1}, bad={0, 1})
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(_later, 2, lambda: handle.let_go(0))
        nursery.start_soon(_later, 4, lambda: handle.let_go(1))
        with pytest.RaisesGroup(HandlerError, HandlerError, match="the handler failed"):
            await pc.run(handle)


async def test_failure_is_not_lost_in_a_cancellation(autojump_clock: MockClock, world: World) -> None:
    """A failure that is draining when the consumer is cancelled leaves all the same."""
    world.broker.produce(P0, ["a", "b"])
    handle = Handling(bad={0}, held={1})
    async with parallel_consumer(world.config()) as pc:
        with pytest.RaisesGroup(HandlerError), trio.move_on_after(5):
            await pc.run(handle)


async def _later(seconds: float, do: Callable[[], object]) -> None:
    await trio.sleep(seconds)
    do()


async def test_client_that_breaks_down_while_a_failure_drains(autojump_clock: MockClock, world: World) -> None:
    """The handler's failure leaves, with a note on what happened to the client then."""
    world.broker.produce(P0, ["a", "b"])
    handle = Handling(held={0, 1}, bad={0})
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(_later, 2, lambda: handle.let_go(0))
        nursery.start_soon(_later, 4, lambda: world.client.fail(RuntimeError("gone")))
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


# Body error, outer cancellation, Ctrl-C


class BodyError(Exception):
    pass


@pytest.mark.parametrize("kind", [BodyError, KeyboardInterrupt])
async def test_body_error(autojump_clock: MockClock, world: World, kind: type[BaseException]) -> None:
    """The body's error cancels handlers at once; completions so far are committed, and the error leaves."""
    world.broker.produce(P0, ["a", "b", "b"])
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
    assert world.broker.commits[-1].metadata
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
    world.broker.produce(P0, ["a", "b", "b"])
    world.broker.delays["commit"] = 2.0
    handle = Handling(held={0})
    with trio.move_on_after(5) as scope:
        async with parallel_consumer(world.config(commit_interval=NEVER)) as pc:
            await pc.run(handle)
    assert scope.cancelled_caught
    assert trio.current_time() < 8
    assert handle.cancelled == [(0, 0)]
    assert world.broker.commits[-1].metadata
    assert not world.client.left_owned


async def test_run_may_be_cancelled_alone(autojump_clock: MockClock, world: World) -> None:
    """When only ``run`` is cancelled, it leaves the group; the block goes on to its end."""
    world.broker.produce(P0, ["a"])
    async with parallel_consumer(world.config(commit_interval=NEVER)) as pc:
        with trio.move_on_after(2):
            await pc.run(Handling())
        assert world.committed(P0) == 1
        assert not world.client.owned


async def test_interrupt_in_a_handler(autojump_clock: MockClock, world: World) -> None:
    """Ctrl-C that hits a handler ends all others at once and leaves; completions are committed."""
    world.broker.produce(P0, ["a", "b", "c"])
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
    assert world.broker.commits[-1].metadata
    assert not world.client.left_owned


async def test_interrupt_in_run_itself(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C that hits ``run`` cancels handlers at once; it once gave them a settling time and a grace."""
    world.broker.produce(P0, ["a"])
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
    world.broker.produce(P0, ["a", "b"])
    handle = Handling(stubborn={0})
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
    world.broker.produce(P0, ["a"])
    handle = Handling(held={0})
    with trio.move_on_after(5):
        async with parallel_consumer(world.config(revoke_grace=100.0)) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await trio.sleep(2)
            await world.client.rebalance(revoke=[P0])
    assert trio.current_time() < 7
    assert handle.cancelled == [(0, 0)]
    assert not world.client.left_owned


# A run outside the block


async def test_block_that_ends_around_a_run_ends_the_run(autojump_clock: MockClock, world: World) -> None:
    """A ``run`` that outlives its block is ended with it: handlers cancelled, completions committed, and an error."""
    world.broker.produce(P0, ["a", "b"])
    handle = Handling(held={0})
    with pytest.RaisesGroup(pytest.RaisesExc(ConsumerClosedError, match="the block ended")):
        async with trio.open_nursery() as nursery:
            async with parallel_consumer(world.config(commit_interval=NEVER)) as pc:
                nursery.start_soon(pc.run, handle)
                await trio.sleep(2)
            assert not world.client.left_owned
    assert handle.cancelled == [(0, 0)]
    assert world.broker.commits[-1].metadata


async def test_block_that_ends_ends_waiting_for_an_assignment(autojump_clock: MockClock, world: World) -> None:
    """A task that waits for an assignment beyond the block gets an error, and doesn't wait for ever."""
    world.broker.share = []
    with pytest.RaisesGroup(ConsumerClosedError):
        async with trio.open_nursery() as nursery, parallel_consumer(world.config()) as pc:
            nursery.start_soon(pc.wait_assigned)
            await trio.sleep(2)


# The last commit


async def test_last_commit_that_never_is_answered(autojump_clock: MockClock, world: World) -> None:
    """The last commit is waited for no longer than ``close_timeout``, then the end is an error that says so."""
    world.broker.produce(P0, ["a"])
    with pytest.raises(CommitError, match="close_timeout") as caught:  # noqa: PT012 - the block's end is part of it
        async with parallel_consumer(world.config(close_timeout=6.0, commit_interval=NEVER)) as pc:
            with trio.move_on_after(2):
                await pc.wait_assigned()
                await trio.sleep(1)
                world.broker.delays["commit"] = math.inf
                world.broker.produce(P0, ["b"])
                await pc.run(Handling())
    assert trio.current_time() < 16
    assert getattr(caught.value, "__notes__", []) == []  # the client closed in time: nothing was tried once more


async def test_last_commit_that_fails_is_a_note_on_the_body_error(autojump_clock: MockClock, world: World) -> None:
    """An error that is leaving already is told of the commit by a note."""
    world.broker.produce(P0, ["a"])
    with pytest.raises(BodyError) as caught:  # noqa: PT012 - the block's end is part of it
        async with parallel_consumer(world.config(close_timeout=6.0)) as pc:
            await pc.wait_assigned()
            world.broker.delays["commit"] = math.inf
            raise BodyError
    assert any("while leaving, CommitError" in note for note in caught.value.__notes__)


async def test_last_commit_is_tried_until_it_is_taken(autojump_clock: MockClock, world: World) -> None:
    """A broker in trouble gets the last commit as soon as it can take it."""
    world.broker.produce(P0, ["a"])
    world.broker.errors["commit"] += [error(ClientError.COORDINATOR_LOAD_IN_PROGRESS)] * 7
    async with world.consuming(Handling(), commit_interval=NEVER):
        await trio.sleep(1)
    assert world.committed(P0) == 1


async def test_last_commit_that_is_refused_for_good(autojump_clock: MockClock, world: World) -> None:
    """A member that the group doesn't know any more can't commit, and says so."""
    world.broker.produce(P0, ["a"])
    with pytest.RaisesGroup(pytest.RaisesExc(CommitError, match="will be replayed")):
        async with world.consuming(Handling(), commit_interval=NEVER):
            await trio.sleep(2)
            world.broker.produce(P0, ["a"])
            await trio.sleep(2)
            world.broker.errors["commit"].append(error(ClientError.UNKNOWN_MEMBER_ID))
    assert not world.client.left_owned


async def test_client_that_does_not_close_in_time(autojump_clock: MockClock, world: World) -> None:
    """A client that overruns its close is left behind with an error, which is a note on one that leaves already."""
    world.broker.delays["close"] = math.inf
    with pytest.raises(CloseTimeoutError):
        async with parallel_consumer(world.config(close_timeout=3.0)) as pc:
            await pc.wait_assigned()
    with pytest.raises(BodyError) as caught:
        async with parallel_consumer(world.config(close_timeout=3.0)):
            raise BodyError
    assert caught.value.__notes__ == ["while leaving, CloseTimeoutError: the fake client didn't close in time"]


async def test_group_that_does_not_take_its_partitions_back(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """If all is committed, but the partitions aren't let go in time, that is no failed commit."""
    world.broker.delays["committed"] = math.inf
    with pytest.raises(CloseTimeoutError) as caught:  # noqa: PT012 - the block's end raises
        async with parallel_consumer(world.config(close_timeout=3.0)):
            await trio.sleep(2)
            assert world.client.calls.of("committed")
    assert getattr(caught.value, "__notes__", []) == []
    assert "all is committed, but the partitions weren't taken back" in caplog.text


# The client's end


@pytest.mark.parametrize("wait", ["run", "wait_assigned", "start"])
async def test_client_that_breaks_down(autojump_clock: MockClock, world: World, wait: str) -> None:
    """What the client breaks down with leaves ``run``, ``wait_assigned`` and ``nursery.start``, chained."""
    world.broker.share = [] if wait != "run" else world.broker.share
    cause = RuntimeError("gone")
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(_later, 2, lambda: world.client.fail(cause))
        with pytest.raises(KafkaError, match="the Kafka client ended: gone") as caught:  # noqa: PT012 - the block's end is part of it
            if wait == "run":
                await pc.run(Handling())
            elif wait == "wait_assigned":
                await pc.wait_assigned()
            else:
                await nursery.start(pc.run, Handling())
    assert caught.value.__cause__ is cause
    assert trio.current_time() < 5


async def test_client_that_breaks_down_under_load(autojump_clock: MockClock, world: World) -> None:
    """Handlers are cancelled when the client is gone, and nothing waits for a commit that can't be."""
    world.broker.produce(P0, ["a", "b"])
    handle = Handling(held={0})
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(_later, 2, lambda: world.client.fail(RuntimeError("gone")))
        with pytest.raises(KafkaError):
            await pc.run(handle)
    assert handle.cancelled == [(0, 0)]
    assert trio.current_time() < 10


async def test_fatal_error(autojump_clock: MockClock, world: World) -> None:
    """The client's fatal error, which comes once and as a message, ends the run without waiting for commits."""
    world.broker.produce(P0, ["a"])
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        await trio.sleep(2)
        world.broker.produce(P0, ["b"])
        world.broker.errors["commit"] += [error(ClientError._FATAL)] * 1000
        nursery.start_soon(_later, 0.5, lambda: world.client.send_error(ClientError._FATAL))
        with pytest.raises(KafkaError, match="fatal error"):
            await pc.run(Handling())
    assert trio.current_time() < 6
    assert not world.client.left_owned


@pytest.mark.parametrize("how", ["message", "report"])
async def test_missing_acl(autojump_clock: MockClock, world: World, how: str) -> None:
    """A missing ACL ends the run with an error that names what is missing; completions are committed."""
    world.broker.produce(P0, ["a"])
    handle = Handling()
    async with parallel_consumer(world.config(commit_interval=NEVER)) as pc, trio.open_nursery() as nursery:
        send = world.client.send_error if how == "message" else world.client.report
        nursery.start_soon(_later, 2, lambda: send(ClientError.GROUP_AUTHORIZATION_FAILED))
        with pytest.raises(AuthorizationError, match="READ on the consumer group"):
            await pc.run(handle)
        assert not world.client.owned
    assert world.committed(P0) == 1


async def test_trouble_that_may_pass(autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What the client reports and gets over is logged, once, and shown, and ends nothing."""
    world.broker.produce(P0, ["a"])
    async with world.consuming(Handling()) as pc:
        await trio.sleep(1)
        world.client.report(ClientError._ALL_BROKERS_DOWN)
        world.client.send_error(ClientError._MAX_POLL_EXCEEDED)
        world.client.send_error(ClientError.UNKNOWN_TOPIC_OR_PART, P0)
        await trio.sleep(1)
        last_error = pc.statistics().last_error
        assert last_error is not None
        assert "UNKNOWN_TOPIC_OR_PART" in last_error
        assert "_ALL_BROKERS_DOWN" in caplog.text
        assert "_MAX_POLL_EXCEEDED" in caplog.text
        world.client.report(ClientError._ALL_BROKERS_DOWN)
        await trio.sleep(1)
        assert caplog.text.count("_ALL_BROKERS_DOWN") == 1


async def test_error_of_a_partition_that_is_not_owned_is_no_reset(autojump_clock: MockClock, world: World) -> None:
    """A reset that is reported for a partition given away meanwhile is passed over."""
    async with world.consuming(Handling()) as pc:
        await trio.sleep(1)
        await world.client.rebalance(revoke=[P0])
        world.client.send_error(ClientError._AUTO_OFFSET_RESET, P0)
        await trio.sleep(1)
        assert [each.partition for each in pc.statistics().partitions] == [1]


async def test_first_of_several_failures_leaves(autojump_clock: MockClock, world: World) -> None:
    """What follows from a failure doesn't take its place."""
    async with parallel_consumer(world.config()) as pc:
        await pc.wait_assigned()
        world.client.report(ClientError.GROUP_AUTHORIZATION_FAILED)
        world.client.report(ClientError._FATAL)
        await settle()
        with pytest.raises(AuthorizationError):
            await pc.run(Handling())


async def test_revoke_commit_that_the_client_does_not_survive(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the client ends over the last commit of a revoked partition, that is logged, and the partition let go."""

    async def end(_entries: object) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise KafkaError("the client has ended")

    async with world.consuming(Handling(), commit_interval=NEVER):
        await trio.sleep(1)
        world.broker.produce(P0, ["a"])
        await trio.sleep(1)
        with monkeypatch.context() as patch:
            patch.setattr(world.client, "commit", end)
            await world.client.rebalance(revoke=[P0])
        assert "the last commit of orders[0] failed, it will be replayed" in caplog.text
        assert P0 not in world.client.owned


async def test_failed_start_of_the_client_leaves_as_it_is(autojump_clock: MockClock, world: World) -> None:
    """An error of connecting leaves the opener unwrapped."""
    world.broker.errors["connect"].append(error(ClientError._TRANSPORT))
    with pytest.raises(KafkaError, match="connect is refused"):
        async with parallel_consumer(world.config()):
            pytest.fail("opened")
