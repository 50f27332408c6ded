"""Interval commits: position and map, only what changed, made up for when they fail, one at a time."""

from __future__ import annotations

import logging

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from shell.kit import P0, P1, Handling, World, error, of
from trio.testing import MockClock

from trio_parallel_kafka.core.metadata import read_metadata


def completed_above(world: World) -> tuple[tuple[int, int], ...]:
    """What the commit of P0 says was completed above its offset."""
    offset, metadata = world.broker.one_group.offsets[P0]
    assert metadata is not None
    return read_metadata(metadata, offset).completed


async def test_position_and_map_are_committed(autojump_clock: MockClock, world: World) -> None:
    """Each interval commits the lowest incomplete offset, and beside it what completed above."""
    world.broker.add(P0, "abcdef")
    handle = Handling(held={1, 4})
    async with world.consuming(handle, commit_interval=5.0) as pc:
        await trio.sleep(4.5)
        assert not [each for each in world.broker.one_group.taken if each.offset]
        await trio.sleep(1)
        assert world.committed(P0) == 1
        assert completed_above(world) == ((2, 4), (5, 6))
        statistics = of(pc, P0)
        assert (statistics.position, statistics.committed, statistics.completed_above) == (1, 1, 3)
        assert statistics.next_offset == 6
        handle.let_go()
    assert world.committed(P0) == 6
    assert completed_above(world) == ()


async def test_nothing_is_sent_when_nothing_changed(autojump_clock: MockClock, world: World) -> None:
    """Once the broker has everything, intervals pass without a commit; only what changed is sent."""
    world.broker.add(P0, "abc")
    async with world.consuming(Handling()):
        await trio.sleep(5)
        count = len(world.broker.one_group.taken)
        await trio.sleep(60)
        assert len(world.broker.one_group.taken) == count
        world.broker.add(P1, "a")
        await trio.sleep(5)
        assert [each.partition for each in world.broker.one_group.taken[count:]] == [P1]


@pytest.mark.parametrize("code", [ClientError.REQUEST_TIMED_OUT, ClientError.COORDINATOR_NOT_AVAILABLE])
async def test_failed_commit_is_made_up_for(
    autojump_clock: MockClock, world: World, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused commit is logged, counted, and made again at the next interval."""
    world.broker.add(P0, "abc")
    handle = Handling(held={0, 1, 2})
    async with world.consuming(handle, commit_interval=5.0) as pc:
        await trio.sleep(7)
        world.broker.network.errors["OffsetCommit"].append(error(code))
        handle.let_go()
        await trio.sleep(5)
        assert world.committed(P0) == 0
        assert pc.statistics().totals.failed_commits == 1
        assert "the commit of orders[0] at offset 3 failed" in caplog.text
        await trio.sleep(5)
        assert world.committed(P0) == of(pc, P0).committed == 3


async def test_map_that_the_broker_refuses_is_halved(autojump_clock: MockClock, world: World) -> None:
    """A broker with a lower bound on metadata gets a shorter map, not none, and statistics say that it is cut."""
    world.broker.one_group.max_metadata = 1100
    held = set(range(0, 20000, 7))
    handle = Handling(held=held)
    world.broker.add(P0, [None] * 20000)
    async with world.consuming(handle, max_concurrency=4000, max_buffered_records=5000, shutdown_timeout=0.0) as pc:
        await trio.sleep(20)
        offset, metadata = world.broker.one_group.offsets[P0]
        assert offset == 0
        assert metadata is not None
        assert 500 < len(metadata) <= 1100
        ranges = completed_above(world)
        assert ranges[0] == (1, 7)
        assert of(pc, P0).is_map_cut
        assert all(start % 7 == 1 and end == start + 6 for start, end in ranges[:-1])


async def test_one_interval_commit_is_outstanding_at_most(autojump_clock: MockClock, world: World) -> None:
    """While a slow broker hasn't answered, no further interval commit is sent; then what has changed meanwhile is."""
    world.broker.network.delays["OffsetCommit"] = 10.0
    handle = Handling(work=1.0)
    world.broker.add(P0, ["a"] * 8)
    async with world.consuming(handle):
        await trio.sleep(9.5)
        assert len(world.client.calls.of("commit")) == 1
        await trio.sleep(12)
        assert world.committed(P0) == 8


async def test_last_commit_waits_for_the_outstanding_one(autojump_clock: MockClock, world: World) -> None:
    """What an outstanding interval commit says already isn't sent again by the last one."""
    async with world.consuming(Handling()):
        await trio.sleep(3)
        count = len(world.client.calls.of("commit"))
        world.broker.network.delays["OffsetCommit"] = 5.0
        world.broker.add(P0, ["a"])
        await trio.sleep(2)
    assert len(world.client.calls.of("commit")) == count + 1
    assert world.committed(P0) == 1


async def test_commit_without_an_answer_is_visible(autojump_clock: MockClock, world: World) -> None:
    """While a commit isn't answered, statistics show how far the committed offset is behind the position."""
    async with world.consuming(Handling()) as pc:
        await trio.sleep(3)
        world.broker.network.delays["OffsetCommit"] = 30.0
        world.broker.add(P0, "abc")
        await trio.sleep(20)
        assert (of(pc, P0).position, of(pc, P0).committed) == (3, 0)
        await trio.sleep(20)
        assert of(pc, P0).committed == 3
        world.broker.network.delays["OffsetCommit"] = 0.0


async def test_values_stay_out_of_logs(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """However a run goes, no log line holds a record's value."""
    caplog.set_level(logging.DEBUG)
    world.broker.add(P0, "abc", value=b"hush")
    world.broker.network.errors["OffsetCommit"].append(error(ClientError.REQUEST_TIMED_OUT))
    handle = Handling(stubborn={0})
    async with world.consuming(handle, stall_warning=1.0, revoke_grace=0.0) as pc:
        await trio.sleep(5)
        await world.rebalance(revoke=[P0])
        assert "hush" not in repr(pc.statistics())
        handle.let_go()
    assert "stall" in caplog.text
    assert "doesn't react" in caplog.text
    assert "hush" not in caplog.text
