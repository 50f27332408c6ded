"""Where a partition starts: the committed offset, its map, the reset policies; and logs that change underneath."""

from __future__ import annotations

import pytest
import trio
from confluent_kafka import KafkaError as ClientError, Message
from shell.kit import P0, P1, Handling, World, error, never, of, settle
from trio.testing import MockClock

from trio_parallel_kafka import Record
from trio_parallel_kafka.control.client import Fetched
from trio_parallel_kafka.control.controller import CHECK_TOPICS
from trio_parallel_kafka.control.rebalance import SETTLE
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.offset_map import encode
from trio_parallel_kafka.core.ranges import OffsetRanges
from trio_parallel_kafka.errors import AuthorizationError, KafkaError, OffsetResetError

NO_ANSWER = ClientError.REQUEST_TIMED_OUT


def commit(world: World, partition: TopicPartition, offset: int, completed: OffsetRanges = (), **kwargs: bytes) -> None:
    """The group has committed this before."""
    world.broker.group[partition] = (offset, encode(offset, completed, topic_id=kwargs.get("topic_id")).text)


async def test_reading_starts_at_the_committed_offset_and_skips_what_the_map_says(
    autojump_clock: MockClock, world: World
) -> None:
    """What the commit's map names as completed isn't handled again, and counts as not replayed."""
    world.broker.produce(P0, "abcdefghij")
    commit(world, P0, 2, ((3, 5), (7, 8)))
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        assert sorted(handle.offsets(P0)) == [2, 5, 6, 8, 9]
        assert pc.statistics().totals.not_replayed == 3
        assert world.committed(P0) == 10


async def test_map_survives_commits_before_it_was_read(autojump_clock: MockClock, world: World) -> None:
    """Completed offsets of an earlier owner that weren't reached yet stay in what is committed."""
    world.broker.produce(P0, [None] * 100)
    commit(world, P0, 0, ((1, 3), (90, 95)))
    handle = Handling(held={0, 3, 4, 5})
    async with world.consuming(handle, max_concurrency=2, max_buffered_records=8, shutdown_timeout=0.0) as pc:
        await trio.sleep(3)
        assert of(pc, P0).completed_above == 7
    offset, metadata = world.broker.group[P0]
    assert (offset, metadata) == (0, encode(0, ((1, 3), (90, 95)), topic_id=world.broker.topic_ids["orders"]).text)
    assert not handle.finished


async def test_start_waits_for_the_committed_offset(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """While the broker doesn't tell the committed offset, the partition is visible as starting; then it is read."""
    world.broker.produce(P0, "abcde")
    commit(world, P0, 3)
    world.broker.errors["committed"] += [error(NO_ANSWER)] * 3
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(0.5)
        statistics = of(pc, P0)
        assert (statistics.phase, statistics.paused) == ("starting", "position unknown")
        assert (statistics.position, statistics.next_offset, statistics.committed) == (None, None, None)
        assert "the committed offset of orders[0] isn't to be had yet" in caplog.text
        await trio.sleep(2)
        assert not handle.started
        assert not world.broker.commits
        await trio.sleep(2)
        assert handle.offsets(P0) == [3, 4]
        assert (of(pc, P0).phase, of(pc, P0).paused) == ("active", None)


@pytest.mark.parametrize("call", ["offset_range", "start"])
async def test_start_is_tried_again(autojump_clock: MockClock, world: World, call: str) -> None:
    """A broker or client that can't help for a moment delays a partition's start, and no more."""
    world.broker.produce(P0, "abc")
    world.broker.errors["committed"].append(error(NO_ANSWER))
    world.broker.errors[call] += [error(NO_ANSWER)] * 4
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(10)
        assert sorted(handle.offsets(P0)) == [0, 1, 2]


async def test_missing_acl_ends_the_consumer(autojump_clock: MockClock, world: World) -> None:
    """An answer that trying again can't change ends the consumer with an error that says what is missing."""
    world.broker.errors["committed"].append(error(ClientError.GROUP_AUTHORIZATION_FAILED))
    with pytest.RaisesGroup(pytest.RaisesExc(AuthorizationError, match="READ on the consumer group")):
        async with world.consuming(never):
            await trio.sleep(5)


async def test_missing_acl_in_a_retry_ends_the_consumer(autojump_clock: MockClock, world: World) -> None:
    """The same when it comes out only at a later try."""
    world.broker.errors["committed"] += [error(NO_ANSWER), error(ClientError.GROUP_AUTHORIZATION_FAILED)]
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
    world.broker.produce(P0, [None] * 10)
    world.broker.group[P0] = (1, metadata)
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(2)
    assert sorted(handle.offsets(P0)) == list(range(1, 10))
    assert warning in caplog.text


async def test_foreign_map_within_the_log_is_used(autojump_clock: MockClock, world: World) -> None:
    """A map that another consumer wrote for this offset is followed."""
    world.broker.produce(P0, [None] * 10)
    world.broker.group[P0] = (0, "R1-3,5")
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(2)
    assert sorted(handle.offsets(P0)) == [0, 4, 6, 7, 8, 9]


# Reset policies


async def test_earliest_starts_at_the_first_offset(autojump_clock: MockClock, world: World) -> None:
    """Without a committed offset, ``earliest`` begins at the first offset that is there."""
    world.broker.produce(P0, "abcd")
    world.broker.truncate(P0, first=2)
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(2)
    assert handle.offsets(P0) == [2, 3]


async def test_latest_skips_what_stands_and_commits_its_start(autojump_clock: MockClock, world: World) -> None:
    """``latest`` begins at the end of a topic that the group meets first, and commits that at once."""
    world.broker.produce(P0, "abc")
    handle = Handling()
    async with world.consuming(handle, auto_offset_reset="latest", commit_interval=500.0):
        await trio.sleep(0.1)
        assert (world.committed(P0), world.committed(P1)) == (3, 0)
        world.broker.produce(P0, "d")
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
        world.broker.produce(added, "abc")
        await world.client.rebalance(assign=[added])
        await trio.sleep(1)
        assert handle.offsets(added) == [0, 1, 2]


async def test_latest_reads_uncommitted_partitions_of_a_known_topic_from_the_start(
    autojump_clock: MockClock, world: World
) -> None:
    """A partition without a commit, in a topic that the group has commits for, is new: nothing in it is skipped."""
    commit(world, P0, 2)
    world.broker.produce(P0, "abc")
    world.broker.produce(P1, "ab")
    handle = Handling()
    async with world.consuming(handle, auto_offset_reset="latest"):
        await trio.sleep(1)
    assert sorted(handle.finished) == [(0, 2), (1, 0), (1, 1)]


@pytest.mark.parametrize("call", ["partition_counts", "committed"])
async def test_latest_does_not_guess_what_is_new(autojump_clock: MockClock, world: World, call: str) -> None:
    """Without an answer about what the group knows, ``latest`` doesn't join: guessing would skip, or replay all."""
    world.broker.errors[call].append(error(NO_ANSWER))
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
    world.broker.produce(P0, "abc")
    world.broker.truncate(P0, first=2)
    for partition in (P0, P1):
        commit(world, partition, 0)
    with pytest.RaisesGroup(pytest.RaisesExc(OffsetResetError, match="offset 0 of orders")) as caught:
        async with world.consuming(never, auto_offset_reset="none"):
            await trio.sleep(5)
    failure = caught.value.exceptions[0]
    assert isinstance(failure, OffsetResetError)
    assert failure.offset == 0
    assert not world.client.left_owned


# Logs that change


async def test_records_lost_to_retention_are_counted(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """What the broker deleted before it was read is counted and logged; reading goes on in the same tenure."""
    world.broker.produce(P0, [None] * 60)
    world.broker.truncate(P0, first=50)
    commit(world, P0, 10)
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        assert sorted(handle.offsets(P0)) == list(range(50, 60))
        assert pc.statistics().totals.lost_to_retention == 40
        assert "40 offsets from 10 on were deleted by the broker" in caplog.text
        assert of(pc, P0).assignment_epoch == 1
        assert world.committed(P0) == 60


async def test_reset_waits_for_the_broker(autojump_clock: MockClock, world: World) -> None:
    """If the log's range isn't to be had when it has to be reset, that is tried again."""
    world.broker.produce(P0, [None] * 60)
    world.broker.truncate(P0, first=50)
    commit(world, P0, 10)
    commit(world, P1, 0)
    world.broker.errors["offset_range"] += [error(NO_ANSWER)] * 3
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(10)
        assert sorted(handle.offsets(P0)) == list(range(50, 60))


@pytest.mark.parametrize("policy", ["earliest", "latest"])
async def test_truncation_starts_a_new_tenure_and_skips_nothing(
    autojump_clock: MockClock, world: World, policy: str
) -> None:
    """A log that ends below what was read starts again in a new tenure, and what was incomplete isn't skipped."""
    for partition in (P0, P1):
        commit(world, partition, 0)
    world.broker.produce(P0, [None] * 100)
    handle = Handling(held={5})
    async with world.consuming(handle, auto_offset_reset=policy) as pc:
        await trio.sleep(2)
        assert world.committed(P0) == 5
        before = of(pc, P0).assignment_epoch
        world.broker.truncate(P0, end=40)
        world.client.rewind(P0, 100)
        await trio.sleep(2)
        assert (0, 5) in handle.cancelled
        assert of(pc, P0).assignment_epoch > before
        handle.let_go()
        world.broker.produce(P0, [None])
        await trio.sleep(2)
        assert 5 in handle.offsets(P0)
        assert handle.offsets(P0).count(40) == 2
        assert world.committed(P0) == 41


async def test_offsets_that_go_back_start_a_new_tenure_and_skip_nothing(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """An offset below what was seen starts a new tenure from there, or from what is incomplete below it."""
    world.broker.produce(P0, [None] * 20)
    handle = Handling(held={5})
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        before = of(pc, P0).assignment_epoch
        world.client.rewind(P0, 10)
        await trio.sleep(2)
        assert "offset 10 came after offset 19" in caplog.text
        assert of(pc, P0).assignment_epoch > before
        assert (0, 5) in handle.cancelled
        handle.let_go()
        await trio.sleep(2)
        assert 5 in handle.offsets(P0)
        assert world.committed(P0) == 20


async def test_offsets_that_go_back_beside_a_failing_key(autojump_clock: MockClock, world: World) -> None:
    """A record whose offset went back is no failure of ``key_of``, even if that would raise."""
    world.broker.produce(P0, "abc")
    broken = False

    def key_of(_record: object) -> str:
        if broken:
            raise ValueError("no key")
        return "k"

    handle = Handling()
    with pytest.RaisesGroup(pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="no key"))):
        async with world.consuming(handle, key_of=key_of):
            await trio.sleep(2)
            broken = True
            world.client.rewind(P0, 0)
            await trio.sleep(5)


async def test_recreated_topic_with_fewer_records_is_read_from_its_start(
    autojump_clock: MockClock, world: World
) -> None:
    """A topic made again under its name is another: all its partitions are read from the first offset."""
    for partition in (P0, P1):
        world.broker.produce(partition, [None] * 10)
    handle = Handling()
    async with world.consuming(handle, auto_offset_reset="latest") as pc:
        await trio.sleep(2)
        before = of(pc, P1).assignment_epoch
        world.broker.recreate("orders")
        world.broker.produce(P0, [None] * 4)
        world.broker.produce(P1, [None] * 30)
        await trio.sleep(60)
        assert [each for each in handle.offsets(P0) if each < 10] == [0, 1, 2, 3]
        assert set(handle.offsets(P1)) >= set(range(10))
        assert of(pc, P1).assignment_epoch > before
        assert (world.committed(P0), world.committed(P1)) == (4, 30)


async def test_recreated_topic_that_is_longer_is_found_out(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A topic made again goes on at the old offset without an error; its changed id tells, and it starts again."""
    world.broker.produce(P0, [None] * 10)
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        before = of(pc, P0).assignment_epoch
        world.broker.recreate("orders")
        world.broker.errors["offset_range"].append(error(NO_ANSWER))
        world.broker.produce(P0, [None] * 30)
        await trio.sleep(100)
        assert "orders[0] was deleted and made again" in caplog.text
        assert [handle.offsets(P0).count(offset) for offset in (0, 9, 10, 29)] == [2, 2, 2, 2]
        assert of(pc, P0).assignment_epoch > before
        assert world.committed(P0) == 30


async def test_batch_of_the_tenure_before_is_dropped(autojump_clock: MockClock, world: World) -> None:
    """What was on its way while a partition starts again elsewhere is of the tenure before, and moves nothing.

    It once was taken for the new tenure's: the position jumped over all that the new log holds below it.
    """
    world.broker.produce(P0, [None] * 20)
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        before = of(pc, P0).assignment_epoch
        late = [world.broker.logs[P0].records[offset] for offset in range(15, 20)]
        late.append(Message(*P0, 20, error=error(ClientError._PARTITION_EOF)))
        world.broker.recreate("orders")
        world.broker.produce(P0, [None] * 30)
        world.broker.delays["start"] = 5.0
        while of(pc, P0).assignment_epoch == before:
            await trio.sleep(0.5)
        world.client._post(Fetched(late, {P0: before}, lambda: None))
        await trio.sleep(2)
        assert (of(pc, P0).position, of(pc, P0).next_offset) == (0, 0)
        await trio.sleep(10)
        assert sorted(handle.offsets(P0)[-30:]) == list(range(30))


async def test_commit_of_a_deleted_topic_is_not_used(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A committed offset whose map names another topic id is of a deleted topic: reading starts at the first offset."""
    world.broker.produce(P0, [None] * 5)
    commit(world, P0, 3, ((4, 5),), topic_id=b"x" * 16)
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(2)
    assert sorted(handle.offsets(P0)) == [0, 1, 2, 3, 4]
    assert "of a topic that was deleted" in caplog.text


async def test_failing_key_of_a_completed_record_is_no_failure(autojump_clock: MockClock, world: World) -> None:
    """What the map names as completed needs no lane: ``key_of`` may raise on it."""
    world.broker.produce(P0, ["a", "bad", "a"])
    commit(world, P0, 0, ((1, 2),))

    def key_of(record: Record) -> bytes | None:
        if record.key == b"bad":
            raise ValueError
        return record.key

    handle = Handling()
    async with world.consuming(handle, key_of=key_of) as pc:
        await trio.sleep(2)
        assert handle.offsets(P0) == [0, 2]
        assert pc.statistics().totals.not_replayed == 1


async def test_topic_id_is_learnt_later(autojump_clock: MockClock, world: World) -> None:
    """A topic whose id wasn't to be had at the start gets it at the next check, and is watched from then on."""
    world.broker.produce(P0, [None] * 5)
    ids, world.broker.topic_ids = world.broker.topic_ids, {}
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        world.broker.topic_ids = ids
        await trio.sleep(40)
        before = of(pc, P0).assignment_epoch
        world.broker.recreate("orders")
        world.broker.produce(P0, [None] * 9)
        world.broker.topic_ids, ids = {}, world.broker.topic_ids
        await trio.sleep(40)
        assert of(pc, P0).assignment_epoch == before
        world.broker.topic_ids = ids
        await trio.sleep(40)
        assert of(pc, P0).assignment_epoch > before
        assert handle.offsets(P0).count(0) == 2


async def test_partition_that_goes_while_its_topic_is_looked_at(autojump_clock: MockClock, world: World) -> None:
    """A partition that is lost while a neighbour of the same topic starts anew is left alone."""
    for partition in (P0, P1):
        world.broker.produce(partition, [None] * 5)
    handle = Handling(stubborn={0})
    async with world.consuming(handle) as pc:
        await trio.sleep(CHECK_TOPICS - 0.5)
        world.broker.topic_ids["orders"] = b"anew".ljust(16)
        await trio.sleep(SETTLE)
        (waiting,) = [each for each in (P0, P1) if of(pc, each).phase == "starting"]
        other = P1 if waiting == P0 else P0
        await world.client.rebalance(lose=[other])
        await trio.sleep(5)
        assert [each.partition for each in pc.statistics().partitions] == [waiting.partition]
        handle.let_go()


async def test_partition_that_goes_while_it_is_reset(autojump_clock: MockClock, world: World) -> None:
    """A partition that starts anew for another reason while its reset is found out isn't touched by that."""
    world.broker.produce(P0, [None] * 5)
    async with world.consuming(Handling()) as pc:
        await trio.sleep(2)
        world.broker.errors["offset_range"].append(error(NO_ANSWER))
        world.client.send_error(ClientError._AUTO_OFFSET_RESET, P0)
        await settle()
        world.broker.delays["committed"] = 1.5
        world.broker.delays["topic_ids"] = 1.5
        await trio.sleep(1.2)
        await world.client.rebalance(lose=[P0], assign=[P0])
        starts = len(world.client.calls.of("start"))
        await trio.sleep(10)
        assert len(world.client.calls.of("start")) == starts
        assert of(pc, P0).phase == "active"


async def test_partition_that_starts_anew_while_its_going_back_is_dealt_with(
    autojump_clock: MockClock, world: World
) -> None:
    """Of two reasons to start a partition anew, the first counts, if the second is dealt with later."""
    for partition in (P0, P1):
        world.broker.produce(partition, [None] * 5)
    handle = Handling(stubborn={0})
    async with world.consuming(handle) as pc:
        await trio.sleep(CHECK_TOPICS - SETTLE / 2)
        assert (of(pc, P0).position, of(pc, P1).position) == (0, 0)
        world.client.rewind(P0, 1)
        world.client.rewind(P1, 1)
        await trio.sleep(SETTLE / 10)
        phases = {of(pc, P0).phase, of(pc, P1).phase}
        assert phases == {"starting", "active"}  # the first waits for its handler, the second for the first
        world.broker.topic_ids["orders"] = b"anew".ljust(16)
        await trio.sleep(SETTLE * 4)
        epochs = of(pc, P0).assignment_epoch, of(pc, P1).assignment_epoch
        assert sorted(epochs) == [3, 4]
        handle.let_go()
        await trio.sleep(5)
        assert (of(pc, P0).position, of(pc, P1).position) == (5, 5)
