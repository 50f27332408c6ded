"""The last commit, and a client that is at its end: bounded, and told."""

from __future__ import annotations

import math
from typing import NoReturn

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from shell.kit import NEVER, P0, BodyError, Handling, World, error, later, settle
from trio.testing import MockClock

from trio_parallel_kafka import parallel_consumer
from trio_parallel_kafka.errors import (
    AuthenticationError,
    AuthorizationError,
    CloseTimeoutError,
    CommitError,
    KafkaError,
)

# The last commit


async def test_last_commit_that_never_is_answered(autojump_clock: MockClock, world: World) -> None:
    """The last commit is waited for no longer than ``close_timeout``, then the end is an error that says so."""
    world.broker.add(P0, ["a"])
    with pytest.raises(CommitError, match="close_timeout") as caught:  # noqa: PT012 - the block's end is part of it
        async with parallel_consumer(world.config(close_timeout=6.0, commit_interval=NEVER)) as pc:
            with trio.move_on_after(2):
                await pc.wait_assigned()
                await trio.sleep(1)
                world.broker.network.delays["OffsetCommit"] = math.inf
                world.broker.add(P0, ["b"])
                await pc.run(Handling())
    assert trio.current_time() < 16
    assert getattr(caught.value, "__notes__", []) == []  # the client closed in time: nothing was tried once more


async def test_last_commit_that_fails_is_a_note_on_the_body_error(autojump_clock: MockClock, world: World) -> None:
    """An error that is leaving already is told of the commit by a note."""
    world.broker.add(P0, ["a"])
    with pytest.raises(BodyError) as caught:  # noqa: PT012 - the block's end is part of it
        async with parallel_consumer(world.config(close_timeout=6.0)) as pc:
            await pc.wait_assigned()
            world.broker.network.delays["OffsetCommit"] = math.inf
            raise BodyError
    assert any("while leaving, CommitError" in note for note in caught.value.__notes__)


async def test_last_commit_is_tried_until_it_is_taken(autojump_clock: MockClock, world: World) -> None:
    """A broker in trouble gets the last commit as soon as it can take it."""
    world.broker.add(P0, ["a"])
    world.broker.network.errors["OffsetCommit"] += [error(ClientError.COORDINATOR_LOAD_IN_PROGRESS)] * 7
    async with world.consuming(Handling(), commit_interval=NEVER):
        await trio.sleep(1)
    assert world.committed(P0) == 1


async def test_last_commit_that_is_refused_for_good(autojump_clock: MockClock, world: World) -> None:
    """A member that the group doesn't know any more can't commit, and says so."""
    world.broker.add(P0, ["a"])
    with pytest.RaisesGroup(pytest.RaisesExc(CommitError, match="will be replayed")):
        async with world.consuming(Handling(), commit_interval=NEVER):
            await trio.sleep(2)
            world.broker.add(P0, ["a"])
            await trio.sleep(2)
            world.broker.network.errors["OffsetCommit"].append(error(ClientError.UNKNOWN_MEMBER_ID))
            before = len(world.client.calls.of("commit"))
    assert len(world.client.calls.of("commit")) == before + 1
    assert not world.client.left_owned


async def test_client_that_does_not_close_in_time(autojump_clock: MockClock, world: World) -> None:
    """A client that overruns its close is left behind with an error, which is a note on one that leaves already."""
    world.broker.network.delays["close"] = math.inf
    with pytest.raises(CloseTimeoutError):
        async with parallel_consumer(world.config(close_timeout=3.0)) as pc:
            await pc.wait_assigned()
    with pytest.raises(BodyError) as caught:
        async with parallel_consumer(world.config(close_timeout=3.0)):
            raise BodyError
    assert caught.value.__notes__ == ["while leaving, CloseTimeoutError: the simulated client didn't close in time"]


async def test_group_that_does_not_take_its_partitions_back(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """If all is committed, but the partitions aren't let go in time, that is no failed commit."""
    world.broker.network.delays["OffsetFetch"] = math.inf
    with pytest.raises(CloseTimeoutError) as caught:  # noqa: PT012 - the block's end raises
        async with parallel_consumer(world.config(close_timeout=3.0)):
            await trio.sleep(2)
            assert world.client.calls.of("OffsetFetch")
    assert getattr(caught.value, "__notes__", []) == []
    assert "all is committed, but the partitions weren't taken back" in caplog.text


# The client's end


@pytest.mark.parametrize("wait", ["run", "wait_assigned", "start"])
async def test_client_that_breaks_down(autojump_clock: MockClock, world: World, wait: str) -> None:
    """What the client breaks down with leaves ``run``, ``wait_assigned`` and ``nursery.start``, chained."""
    world.broker.share = [] if wait != "run" else world.broker.share
    cause = RuntimeError("gone")
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(later, 2, lambda: world.client.fail(cause))
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
    world.broker.add(P0, ["a", "b"])
    handle = Handling(held={0})
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(later, 2, lambda: world.client.fail(RuntimeError("gone")))
        with pytest.raises(KafkaError):
            await pc.run(handle)
    assert handle.cancelled == [(0, 0)]
    assert trio.current_time() < 10


async def test_fatal_error(autojump_clock: MockClock, world: World) -> None:
    """The client's fatal error, which comes once and as a message, ends the run without waiting for commits."""
    world.broker.add(P0, ["a"])
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        await trio.sleep(2)
        world.broker.add(P0, ["b"])
        world.broker.network.errors["OffsetCommit"] += [error(ClientError._FATAL)] * 1000
        nursery.start_soon(later, 0.5, lambda: world.client.send_error(ClientError._FATAL))
        with pytest.raises(KafkaError, match="fatal error"):
            await pc.run(Handling())
    assert trio.current_time() < 6
    assert not world.client.left_owned


@pytest.mark.parametrize("how", ["message", "report"])
async def test_missing_acl(autojump_clock: MockClock, world: World, how: str) -> None:
    """A missing ACL ends the run with an error that names what is missing; completions are committed."""
    world.broker.add(P0, ["a"])
    handle = Handling()
    async with parallel_consumer(world.config(commit_interval=NEVER)) as pc, trio.open_nursery() as nursery:
        send = world.client.send_error if how == "message" else world.client.report
        nursery.start_soon(later, 2, lambda: send(ClientError.GROUP_AUTHORIZATION_FAILED))
        with pytest.raises(AuthorizationError, match="READ on the consumer group"):
            await pc.run(handle)
        assert not world.client.owned
    assert world.committed(P0) == 1


async def test_trouble_that_may_pass(autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What the client reports and gets over is logged, once, and shown, and ends nothing."""
    world.broker.add(P0, ["a"])
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
        assert pc.statistics().last_error == last_error, "what follows from trouble says less than the trouble"


async def test_error_of_a_partition_that_is_not_owned_is_no_reset(autojump_clock: MockClock, world: World) -> None:
    """A reset that is reported for a partition given away meanwhile is passed over."""
    async with world.consuming(Handling()) as pc:
        await trio.sleep(1)
        await world.rebalance(revoke=[P0])
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
        world.broker.add(P0, ["a"])
        await trio.sleep(1)
        with monkeypatch.context() as patch:
            patch.setattr(world.client, "commit", end)
            await world.rebalance(revoke=[P0])
        assert "the last commit of orders[0] failed, it will be replayed" in caplog.text
        assert P0 not in world.client.owned


async def test_failed_start_of_the_client_leaves_as_it_is(autojump_clock: MockClock, world: World) -> None:
    """An error of connecting leaves the opener unwrapped."""
    world.broker.fail_next("Metadata", ClientError._AUTHENTICATION)
    with pytest.raises(AuthenticationError):
        async with parallel_consumer(world.config()):
            pytest.fail("opened")
