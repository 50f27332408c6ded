"""Where a partition starts: the committed offset, its map, the reset policies; and logs that change underneath."""

from __future__ import annotations

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from shell.kit import NO_ANSWER, P0, P1, Handling, World, commit, error, never, of
from trio.testing import MockClock

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.offset_map import encode
from trio_parallel_kafka.errors import AuthorizationError, KafkaError, OffsetResetError


async def test_reading_starts_at_the_committed_offset_and_skips_what_the_map_says(
    autojump_clock: MockClock, world: World
) -> None:
    """What the commit's map names as completed isn't handled again, and counts as not replayed."""
    world.broker.add(P0, "abcdefghij")
    commit(world, P0, 2, ((3, 5), (7, 8)))
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        assert sorted(handle.offsets(P0)) == [2, 5, 6, 8, 9]
        assert pc.statistics().totals.not_replayed == 3
        assert world.committed(P0) == 10


async def test_map_survives_commits_before_it_was_read(autojump_clock: MockClock, world: World) -> None:
    """Completed offsets of an earlier owner that weren't reached yet stay in what is committed."""
    world.broker.add(P0, [None] * 100)
    commit(world, P0, 0, ((1, 3), (90, 95)))
    handle = Handling(held={0, 3, 4, 5})
    async with world.consuming(handle, max_concurrency=2, max_buffered_records=8, shutdown_timeout=0.0) as pc:
        await trio.sleep(3)
        assert of(pc, P0).completed_above == 7
    offset, metadata = world.broker.one_group.offsets[P0]
    assert (offset, metadata) == (0, encode(0, ((1, 3), (90, 95)), topic_id=world.broker.topic_ids["orders"]).text)
    assert not handle.finished


async def test_start_waits_for_the_committed_offset(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """While the broker doesn't tell the committed offset, the partition is visible as starting; then it is read."""
    world.broker.add(P0, "abcde")
    commit(world, P0, 3)
    world.broker.network.errors["OffsetFetch"] += [error(NO_ANSWER)] * 3
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(0.5)
        statistics = of(pc, P0)
        assert (statistics.phase, statistics.paused) == ("starting", "position unknown")
        assert (statistics.position, statistics.next_offset, statistics.committed) == (None, None, None)
        assert "the committed offset of orders[0] isn't to be had yet" in caplog.text
        await trio.sleep(2)
        assert not handle.started
        assert not world.broker.one_group.taken
        await trio.sleep(2)
        assert handle.offsets(P0) == [3, 4]
        assert (of(pc, P0).phase, of(pc, P0).paused) == ("active", None)


@pytest.mark.parametrize("call", ["offset_range", "start"])
async def test_start_is_tried_again(autojump_clock: MockClock, world: World, call: str) -> None:
    """A broker or client that can't help for a moment delays a partition's start, and no more."""
    world.broker.add(P0, "abc")
    world.broker.network.errors["OffsetFetch"].append(error(NO_ANSWER))
    world.broker.network.errors[call] += [error(NO_ANSWER)] * 4
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(10)
        assert sorted(handle.offsets(P0)) == [0, 1, 2]


async def test_partition_that_is_lost_while_its_start_is_looked_for(autojump_clock: MockClock, world: World) -> None:
    """What is found out for an assignment that has ended meanwhile starts nothing."""
    world.broker.add(P0, ["a"])
    world.broker.network.errors["OffsetFetch"].append(error(NO_ANSWER))
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(0.5)
        world.broker.network.delays["ListOffsets"] = 3.0
        await trio.sleep(1)
        await world.rebalance(lose=[P0])
        await trio.sleep(5)
        assert P0 not in [(each.topic, each.partition) for each in pc.statistics().partitions]
    assert not handle.started


async def test_missing_acl_ends_the_consumer(autojump_clock: MockClock, world: World) -> None:
    """An answer that trying again can't change ends the consumer with an error that says what is missing."""
    world.broker.network.errors["OffsetFetch"].append(error(ClientError.GROUP_AUTHORIZATION_FAILED))
    with pytest.RaisesGroup(pytest.RaisesExc(AuthorizationError, match="READ on the consumer group")):
        async with world.consuming(never):
            await trio.sleep(5)


async def test_missing_acl_in_a_retry_ends_the_consumer(autojump_clock: MockClock, world: World) -> None:
    """The same when it comes out only at a later try."""
    world.broker.network.errors["OffsetFetch"] += [error(NO_ANSWER), error(ClientError.GROUP_AUTHORIZATION_FAILED)]
    with pytest.RaisesGroup(AuthorizationError):
        async with world.consuming(never):
            await trio.sleep(5)


@pytest.mark.parametrize(
    ("metadata", "warning"),
    [
        (None, "it isn't text"),
        ("tpk1.damaged", "commit metadata"),
        ("hello", "no known consumer writes"),
        ("R2-3,50", "goes beyond the log's end"),
    ],
)
async def test_metadata_that_is_not_certain_is_ignored(
    autojump_clock: MockClock, world: World, metadata: str | None, warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged or foreign map is ignored with a warning, and its records are handled."""
    world.broker.add(P0, [None] * 10)
    world.broker.one_group.offsets[P0] = (1, metadata)
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(2)
    assert sorted(handle.offsets(P0)) == list(range(1, 10))
    assert warning in caplog.text


async def test_foreign_map_within_the_log_is_used(autojump_clock: MockClock, world: World) -> None:
    """A map that another consumer wrote for this offset is followed."""
    world.broker.add(P0, [None] * 10)
    world.broker.one_group.offsets[P0] = (0, "R1-3,5")
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(2)
    assert sorted(handle.offsets(P0)) == [0, 4, 6, 7, 8, 9]


# Reset policies


async def test_earliest_starts_at_the_first_offset(autojump_clock: MockClock, world: World) -> None:
    """Without a committed offset, ``earliest`` begins at the first offset that is there."""
    world.broker.add(P0, "abcd")
    world.broker.delete_records(*P0, before=2)
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(2)
    assert handle.offsets(P0) == [2, 3]


async def test_latest_skips_what_stands_and_commits_its_start(autojump_clock: MockClock, world: World) -> None:
    """``latest`` begins at the end of a topic that the group meets first, and commits that at once."""
    world.broker.add(P0, "abc")
    handle = Handling()
    async with world.consuming(handle, auto_offset_reset="latest", commit_interval=500.0):
        await trio.sleep(0.1)
        assert (world.committed(P0), world.committed(P1)) == (3, 0)
        world.broker.add(P0, "d")
        await trio.sleep(1)
        assert handle.offsets(P0) == [3]


async def test_latest_reads_partitions_that_are_added_later_from_the_start(
    autojump_clock: MockClock, world: World
) -> None:
    """Under ``latest``, records written to a new partition before its first assignment aren't skipped."""
    added = TopicPartition("orders", 2)
    handle = Handling()
    async with world.consuming(handle, auto_offset_reset="latest"):
        await trio.sleep(1)
        world.broker.add(added, "abc")
        await world.rebalance(assign=[added])
        await trio.sleep(1)
        assert handle.offsets(added) == [0, 1, 2]


async def test_latest_reads_uncommitted_partitions_of_a_known_topic_from_the_start(
    autojump_clock: MockClock, world: World
) -> None:
    """A partition without a commit, in a topic that the group has commits for, is new: nothing in it is skipped."""
    commit(world, P0, 2)
    world.broker.add(P0, "abc")
    world.broker.add(P1, "ab")
    handle = Handling()
    async with world.consuming(handle, auto_offset_reset="latest"):
        await trio.sleep(1)
    assert sorted(handle.finished) == [(0, 2), (1, 0), (1, 1)]


@pytest.mark.parametrize(("api", "before"), [("Metadata", 1), ("OffsetFetch", 0)])
async def test_latest_does_not_guess_what_is_new(
    autojump_clock: MockClock, world: World, api: str, before: int
) -> None:
    """Without an answer about what the group knows, ``latest`` doesn't join: guessing would skip, or replay all."""
    world.broker.fail_next(api, *[0] * before, NO_ANSWER)
    with pytest.RaisesGroup(KafkaError, flatten_subgroups=True, allow_unwrapped=True):
        async with world.consuming(never, auto_offset_reset="latest"):
            await trio.sleep(1)
    assert not world.client.calls.of("subscribe")


async def test_none_refuses_a_partition_without_a_commit(autojump_clock: MockClock, world: World) -> None:
    """``none`` ends the consumer with an error that names the partition."""
    commit(world, P0, 0)
    with pytest.RaisesGroup(
        pytest.RaisesExc(OffsetResetError, match=r"nothing is committed for orders\[1\]")
    ) as caught:
        async with world.consuming(never, auto_offset_reset="none"):
            await trio.sleep(5)
    failure = caught.value.exceptions[0]
    assert isinstance(failure, OffsetResetError)
    assert (failure.topic, failure.partition) == ("orders", 1)
    assert not world.client.left_owned


async def test_none_refuses_a_reset_while_running(autojump_clock: MockClock, world: World) -> None:
    """``none`` ends the consumer when the log doesn't hold the next offset, and names it."""
    world.broker.add(P0, "abc")
    world.broker.delete_records(*P0, before=2)
    for partition in (P0, P1):
        commit(world, partition, 0)
    with pytest.RaisesGroup(pytest.RaisesExc(OffsetResetError, match="offset 0 of orders")) as caught:
        async with world.consuming(never, auto_offset_reset="none"):
            await trio.sleep(5)
    failure = caught.value.exceptions[0]
    assert isinstance(failure, OffsetResetError)
    assert failure.offset == 0
    assert not world.client.left_owned
