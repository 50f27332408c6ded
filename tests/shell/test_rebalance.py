"""Partitions come and go: grace, cancellation, the commit in between, and the fence behind it."""

from __future__ import annotations

import math

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from shell.kit import NEVER, P0, P1, Handling, World, commit, error, of, settle
from trio.testing import MockClock

from trio_parallel_kafka.control.rebalance import SETTLE
from trio_parallel_kafka.core.metadata import read_metadata


async def test_revoked_partition_gets_grace_then_is_cancelled_and_committed(
    autojump_clock: MockClock, world: World
) -> None:
    """Nothing new starts, running handlers have the grace, then are cancelled; what completed is committed."""
    world.broker.add(P0, ["a", "b", "c", "a", "d"])
    handle = Handling(held={0})
    async with world.consuming(handle, revoke_grace=5.0, commit_interval=NEVER) as pc:
        await trio.sleep(2)
        began = trio.current_time()
        await world.rebalance(revoke=[P0])
        assert trio.current_time() - began == pytest.approx(5.0, abs=0.5)
        assert handle.cancelled == [(0, 0)]
        assert 3 not in handle.offsets(P0, started=True)
        offset, metadata = world.broker.one_group.offsets[P0]
        assert metadata is not None
        assert (offset, read_metadata(metadata, offset).completed) == (0, ((1, 3), (4, 5)))
        assert list(world.client.owned) == [P1]
        statistics = pc.statistics()
        assert [each.partition for each in statistics.partitions] == [1]
        assert (statistics.totals.abandoned, statistics.buffered_records) == (1, 0)


async def test_handlers_that_end_within_the_grace_count(autojump_clock: MockClock, world: World) -> None:
    """A rebalance goes on as soon as the last handler has ended, and its record is committed."""
    world.broker.add(P0, ["a", "a"])
    handle = Handling(held={0})
    async with world.consuming(handle, revoke_grace=50.0, commit_interval=NEVER) as pc, trio.open_nursery() as nursery:
        await trio.sleep(2)
        began = trio.current_time()
        nursery.start_soon(lambda: world.rebalance(revoke=[P0]))
        await trio.sleep(3)
        assert of(pc, P0).phase == "revoking"
        handle.let_go()
        await settle()
        assert P0 not in world.client.owned
        assert trio.current_time() - began < 4
        assert world.committed(P0) == 1
        assert handle.offsets(P0, started=True) == [0]


async def test_other_partitions_go_on_during_a_grace(autojump_clock: MockClock, world: World) -> None:
    """While one partition has its grace, what is buffered of others is handled."""
    world.broker.add(P0, ["a"])
    world.broker.add(P1, ["a"] * 6)
    handle = Handling(work=1.0)
    async with world.consuming(handle, revoke_grace=4.0), trio.open_nursery() as nursery:
        await trio.sleep(0.5)
        handle.work = 2.0
        handle.held.add(0)
        nursery.start_soon(lambda: world.rebalance(revoke=[P0]))
        await trio.sleep(3)
        assert len(handle.offsets(P1)) >= 2
    assert handle.offsets(P1) == list(range(6))


async def test_late_completion_of_a_revoked_partition_changes_nothing(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that ignores its cancellation is named loudly, and fenced: what it completes changes nothing."""
    world.broker.add(P0, ["a", "b", "a"])
    handle = Handling(stubborn={0})
    async with world.consuming(handle, revoke_grace=1.0) as pc:
        await trio.sleep(2)
        began = trio.current_time()
        await world.rebalance(revoke=[P0])
        assert trio.current_time() - began == pytest.approx(1.0 + SETTLE, abs=0.5)
        assert "the handler of <Record orders[0]@0" in caplog.text
        assert "doesn't react to its cancellation" in caplog.text
        commits = len(world.broker.one_group.taken)
        handle.let_go()
        await trio.sleep(5)
        assert (pc.statistics().totals.fenced, pc.statistics().totals.completed) == (1, 1)
        assert len(world.broker.one_group.taken) == commits
        assert world.committed(P0) == 0
        assert handle.offsets(P0, started=True) == [0, 1]


async def test_partition_that_comes_back_waits_for_the_old_handler(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A partition isn't read again while a handler of its old tenure runs; then it is, in a new tenure."""
    world.broker.add(P0, ["a", "a"])
    handle = Handling(stubborn={0})
    async with world.consuming(handle, revoke_grace=0.0) as pc:
        await trio.sleep(2)
        await world.rebalance(revoke=[P0])
        await world.rebalance(assign=[P0])
        await trio.sleep(5)
        assert of(pc, P0).phase == "starting"
        assert "orders[0] waits for a handler of an earlier assignment to end" in caplog.text
        assert handle.offsets(P0, started=True) == [0]
        handle.let_go()
        await trio.sleep(5)
        assert handle.offsets(P0, started=True) == [0, 0, 1]
        assert not handle.overlaps
        epochs = [record.assignment_epoch for record in handle.records]
        assert epochs[0] < epochs[1] == epochs[2]


async def test_restarted_partition_waits_for_the_old_handler(autojump_clock: MockClock, world: World) -> None:
    """A partition whose log starts again isn't read while a handler of its old tenure runs.

    It once was: two handlers of one key ran at once.
    """
    world.broker.add(P0, ["a", "b", "c"])
    handle = Handling(stubborn={0})
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        world.client.rewind(P0, 0)
        await trio.sleep(5)
        assert of(pc, P0).phase == "starting"
        assert P0 in world.client.paused
        assert len(handle.started) == 3
        handle.let_go()
        await trio.sleep(5)
        assert handle.offsets(P0, started=True).count(0) == 2
        assert not handle.overlaps
        assert world.committed(P0) == 3


async def test_completions_before_a_revoke_are_not_replayed(autojump_clock: MockClock, world: World) -> None:
    """A partition that goes and comes back hands out again only what was incomplete."""
    world.broker.add(P0, [None] * 50)
    handle = Handling(held={7})
    async with world.consuming(handle, revoke_grace=0.0, commit_interval=NEVER) as pc:
        await trio.sleep(2)
        await world.rebalance(revoke=[P0])
        handle.let_go()
        await world.rebalance(assign=[P0])
        await trio.sleep(2)
        assert [handle.offsets(P0, started=True).count(offset) for offset in range(50)] == [
            2 if offset == 7 else 1 for offset in range(50)
        ]
        assert pc.statistics().totals.not_replayed == 42
    assert world.committed(P0) == 50


async def test_lost_partition_is_cancelled_at_once_and_not_committed(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A loss cancels handlers without a grace, commits nothing, and is logged."""
    world.broker.add(P0, ["a", "b", "c"])
    handle = Handling(held={1})
    async with world.consuming(handle, revoke_grace=50.0, commit_interval=NEVER):
        await trio.sleep(2)
        commits = len(world.client.calls.of("commit"))
        began = trio.current_time()
        await world.rebalance(lose=[P0])
        await settle()
        assert trio.current_time() - began < 1
        assert handle.cancelled == [(0, 1)]
        assert len(world.client.calls.of("commit")) == commits
        assert "lost: orders[0]" in caplog.text
    assert world.committed(P0) == 0


async def test_commit_for_what_was_lost_meanwhile_is_not_sent(autojump_clock: MockClock, world: World) -> None:
    """An acknowledgement that comes after the loss of its partition isn't taken for the next tenure's."""
    async with world.consuming(Handling()) as pc:
        await trio.sleep(5)
        world.broker.network.delays["OffsetCommit"] = 30.0
        world.broker.add(P0, ["a"])
        await trio.sleep(2)
        assert world.committed(P0) == 1
        await world.rebalance(lose=[P0])
        commit(world, P0, 0)  # by an owner in between
        await world.rebalance(assign=[P0])
        world.broker.delete_records(*P0, before=1)
        world.broker.add(P0, ["a"])
        await trio.sleep(30)
        assert of(pc, P0).committed == 0
        await trio.sleep(60)
        assert of(pc, P0).committed == 2
        world.broker.network.delays["OffsetCommit"] = 0.0


@pytest.mark.parametrize(("code", "tries"), [(ClientError.UNKNOWN_MEMBER_ID, 1), (ClientError.REQUEST_TIMED_OUT, 5)])
async def test_revoke_commit_that_fails_lets_go_all_the_same(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture, code: int, tries: int
) -> None:
    """If the last commit of a revoked partition is refused, for good or often, the partition is let go, and logged."""
    async with world.consuming(Handling(), commit_interval=NEVER):
        await trio.sleep(1)
        world.broker.add(P0, ["a"])
        await trio.sleep(1)
        world.broker.network.errors["OffsetCommit"] += [error(code)] * tries
        before = len(world.client.calls.of("commit"))
        await world.rebalance(revoke=[P0])
        assert P0 not in world.client.owned
        assert len(world.client.calls.of("commit")) == before + tries
        assert "the commit of orders[0] at offset 1 failed" in caplog.text
        assert world.committed(P0) == 0


async def test_revoke_commit_halves_a_map_that_is_too_long(autojump_clock: MockClock, world: World) -> None:
    """The last commit of a revoked partition isn't dropped for its map: it is sent with a shorter one."""
    world.broker.one_group.max_metadata = 300
    handle = Handling(held=set(range(0, 3000, 7)))
    async with world.consuming(
        handle, max_concurrency=1000, revoke_grace=0.0, commit_interval=NEVER, shutdown_timeout=0.0
    ):
        await trio.sleep(1)
        world.broker.add(P0, [None] * 3000)
        await trio.sleep(5)
        await world.rebalance(revoke=[P0])
        offset, metadata = world.broker.one_group.offsets[P0]
        assert metadata is not None
        assert read_metadata(metadata, offset).completed[:2] == ((1, 7), (8, 14))


async def test_partition_revoked_before_its_position_was_known(autojump_clock: MockClock, world: World) -> None:
    """A partition that never started is let go without a commit: there is no position to commit."""
    world.broker.one_group.offsets[P0] = (7, "")
    world.broker.network.errors["OffsetFetch"] += [error(ClientError.REQUEST_TIMED_OUT)] * 20
    async with world.consuming(Handling()) as pc:
        await trio.sleep(1)
        await world.rebalance(revoke=[P0])
        assert P0 not in world.client.owned
        assert not world.client.calls.of("commit")
        assert world.committed(P0) == 7
        await world.rebalance(lose=[P1])
        await settle()
        assert not pc.statistics().partitions


@pytest.mark.parametrize("life", range(4))
async def test_revoke_while_a_start_is_being_found_out(autojump_clock: MockClock, world: World, life: int) -> None:
    """An answer about a partition that has been given away meanwhile isn't used, nor for its next tenure."""
    world.broker.add(P0, [None] * 10)
    world.broker.network.errors["OffsetFetch"].append(error(ClientError.REQUEST_TIMED_OUT))
    handle = Handling()
    async with world.consuming(handle) as pc:
        world.broker.network.delays["ListOffsets"] = 3.0
        await trio.sleep(2)
        await world.rebalance(revoke=[P0])
        world.broker.one_group.offsets[P0] = (8, "")  # by the owner in between
        await world.rebalance(assign=[P0])
        await trio.sleep(20)
        assert handle.offsets(P0) == [8, 9]
        assert of(pc, P0).committed == 10
        world.broker.network.delays["ListOffsets"] = 0.0


async def test_retries_leave_an_assignment_alone_that_is_being_answered(
    autojump_clock: MockClock, world: World
) -> None:
    """However slow the broker, each question about a new assignment is asked once."""
    world.broker.network.delays["OffsetFetch"] = 7.0
    async with world.consuming(Handling()) as pc:
        await trio.sleep(10)
        assert [each.phase for each in pc.statistics().partitions] == ["active", "active"]
        assert len(world.client.calls.of("OffsetFetch")) == 1


async def test_assignment_without_a_revoke_before_ends_the_old_tenure(autojump_clock: MockClock, world: World) -> None:
    """A partition that is assigned while it is owned starts anew; handlers of the old tenure are cancelled."""
    world.broker.add(P0, ["a", "b"])
    handle = Handling(held={0})
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        await world.rebalance(assign=[P0])
        assert handle.cancelled == [(0, 0)]
        handle.let_go()
        await trio.sleep(2)
        assert handle.offsets(P0) == [1, 0]
        assert of(pc, P0).assignment_epoch == 3


async def test_commit_that_hangs_does_not_hold_an_interval_commit_up_for_ever(
    autojump_clock: MockClock, world: World
) -> None:
    """A revoke's commit doesn't wait behind an interval commit, whose answer comes only after the revoke."""
    world.broker.add(P0, ["a"])
    async with world.consuming(Handling()):
        world.broker.network.delays["OffsetCommit"] = 3.0
        await trio.sleep(2)
        world.broker.add(P0, ["b"])
        await trio.sleep(0.5)
        await world.rebalance(revoke=[P0])
        assert world.committed(P0) == 2
        world.broker.network.delays["OffsetCommit"] = 0.0


async def test_handler_that_raises_when_cancelled_is_logged(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """What a handler raises while it is being cancelled with its partition is logged, and ends nothing."""
    world.broker.add(P0, ["a"])

    async def handle(_record: object) -> None:
        try:
            await trio.sleep(math.inf)
        finally:
            raise ValueError("broken clean-up")

    async with world.consuming(handle, revoke_grace=0.0):
        await trio.sleep(1)
        await world.rebalance(revoke=[P0])
        await trio.sleep(1)
        assert "raised while it was cancelled" in caplog.text
        assert "broken clean-up" in caplog.text
