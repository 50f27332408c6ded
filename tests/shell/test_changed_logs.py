"""Logs that change underneath: retention, truncation, offsets that go back, topics made again."""

from __future__ import annotations

import pytest
import trio
from confluent_kafka import KafkaError as ClientError, Message
from shell.kit import NO_ANSWER, P0, P1, Handling, World, commit, error, of
from trio.testing import MockClock

from trio_parallel_kafka import Record
from trio_parallel_kafka.control.client import Fetched
from trio_parallel_kafka.control.controller import CHECK_TOPICS
from trio_parallel_kafka.control.rebalance import SETTLE


async def test_records_lost_to_retention_are_counted(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """What the broker deleted before it was read is counted and logged; reading goes on in the same tenure."""
    world.broker.add(P0, [None] * 60)
    world.broker.delete_records(*P0, before=50)
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
    world.broker.add(P0, [None] * 60)
    world.broker.delete_records(*P0, before=50)
    commit(world, P0, 10)
    commit(world, P1, 0)
    world.broker.network.errors["ListOffsets"] += [error(NO_ANSWER)] * 3
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
    world.broker.add(P0, [None] * 100)
    handle = Handling(held={5})
    async with world.consuming(handle, auto_offset_reset=policy) as pc:
        await trio.sleep(2)
        assert world.committed(P0) == 5
        before = of(pc, P0).assignment_epoch
        world.broker.truncate(*P0, end=40)
        world.client.rewind(P0, 100)
        await trio.sleep(2)
        assert (0, 5) in handle.cancelled
        assert of(pc, P0).assignment_epoch > before
        handle.let_go()
        world.broker.add(P0, [None])
        await trio.sleep(2)
        assert 5 in handle.offsets(P0)
        assert handle.offsets(P0).count(40) == 2
        assert world.committed(P0) == 41


async def test_offsets_that_go_back_start_a_new_tenure_and_skip_nothing(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """An offset below what was seen starts a new tenure from there, or from what is incomplete below it."""
    world.broker.add(P0, [None] * 20)
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
    world.broker.add(P0, "abc")
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
        world.broker.add(partition, [None] * 10)
    handle = Handling()
    async with world.consuming(handle, auto_offset_reset="latest") as pc:
        await trio.sleep(2)
        before = of(pc, P1).assignment_epoch
        world.broker.recreate_topic("orders")
        world.broker.add(P0, [None] * 4)
        world.broker.add(P1, [None] * 30)
        await trio.sleep(60)
        assert [each for each in handle.offsets(P0) if each < 10] == [0, 1, 2, 3]
        assert set(handle.offsets(P1)) >= set(range(10))
        assert of(pc, P1).assignment_epoch > before
        assert (world.committed(P0), world.committed(P1)) == (4, 30)


async def test_recreated_topic_that_is_longer_is_found_out(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A topic made again goes on at the old offset without an error; its changed id tells, and it starts again."""
    world.broker.add(P0, [None] * 10)
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        before = of(pc, P0).assignment_epoch
        world.broker.recreate_topic("orders")
        world.broker.network.errors["ListOffsets"].append(error(NO_ANSWER))
        world.broker.add(P0, [None] * 30)
        await trio.sleep(100)
        assert "orders[0] was deleted and made again" in caplog.text
        assert [handle.offsets(P0).count(offset) for offset in (0, 9, 10, 29)] == [2, 2, 2, 2]
        assert of(pc, P0).assignment_epoch > before
        assert world.committed(P0) == 30


async def test_batch_of_the_tenure_before_is_dropped(autojump_clock: MockClock, world: World) -> None:
    """What was on its way while a partition starts again elsewhere is of the tenure before, and moves nothing.

    It once was taken for the new tenure's: the position jumped over all that the new log holds below it.
    """
    world.broker.add(P0, [None] * 20)
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        before = of(pc, P0).assignment_epoch
        late = [world.broker.logs[P0].records[offset] for offset in range(15, 20)]
        late.append(Message(*P0, 20, error=error(ClientError._PARTITION_EOF)))
        world.broker.recreate_topic("orders")
        world.broker.add(P0, [None] * 30)
        world.broker.network.delays["start"] = 5.0
        while of(pc, P0).assignment_epoch == before:
            await trio.sleep(0.5)
        world.client._post(Fetched(late, {P0: before}, lambda: None))
        await trio.sleep(2)
        assert (of(pc, P0).position, of(pc, P0).next_offset) == (0, 0)
        await trio.sleep(10)
        assert sorted(handle.offsets(P0)[-30:]) == list(range(30))


async def test_what_is_said_of_a_position_after_its_partition_was_let_go(
    autojump_clock: MockClock, world: World
) -> None:
    """It may be let go while another message of the same batch is dealt with; then there is nothing to start again."""
    world.broker.add(P0, [None] * 5)
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        of_nobody = Message("others", 0, 3, error=error(ClientError._AUTO_OFFSET_RESET))
        await pc._controller._take_error(of_nobody)
        await trio.sleep(2)
        assert of(pc, P0).position == 5


async def test_commit_of_a_deleted_topic_is_not_used(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A committed offset whose map names another topic id is of a deleted topic: reading starts at the first offset."""
    world.broker.add(P0, [None] * 5)
    commit(world, P0, 3, ((4, 5),), topic_id=b"x" * 16)
    handle = Handling()
    async with world.consuming(handle):
        await trio.sleep(2)
    assert sorted(handle.offsets(P0)) == [0, 1, 2, 3, 4]
    assert "of a topic that was deleted" in caplog.text


async def test_failing_key_of_a_completed_record_is_no_failure(autojump_clock: MockClock, world: World) -> None:
    """What the map names as completed needs no lane: ``key_of`` may raise on it."""
    world.broker.add(P0, ["a", "bad", "a"])
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


async def test_topic_id_is_learntlater(autojump_clock: MockClock, world: World) -> None:
    """A topic whose id wasn't to be had at the start gets it at the next check, and is watched from then on."""
    world.broker.add(P0, [None] * 5)
    ids, world.broker.topic_ids = world.broker.topic_ids, {}
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(2)
        world.broker.topic_ids = ids
        await trio.sleep(40)
        before = of(pc, P0).assignment_epoch
        world.broker.recreate_topic("orders")
        world.broker.add(P0, [None] * 9)
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
        world.broker.add(partition, [None] * 5)
    handle = Handling(stubborn={0})
    async with world.consuming(handle) as pc:
        await trio.sleep(CHECK_TOPICS - 0.5)
        world.broker.topic_ids["orders"] = b"anew".ljust(16)
        await trio.sleep(SETTLE)
        (waiting,) = [each for each in (P0, P1) if of(pc, each).phase == "starting"]
        other = P1 if waiting == P0 else P0
        await world.rebalance(lose=[other])
        await trio.sleep(5)
        assert [each.partition for each in pc.statistics().partitions] == [waiting.partition]
        handle.let_go()


@pytest.mark.parametrize("life", range(8))
async def test_two_reasons_to_start_anew_at_once(autojump_clock: MockClock, world: World, life: int) -> None:
    """A reset and a changed topic id that are found out side by side, in any order, make one new tenure."""
    world.broker.add(P0, [None] * 5)
    world.broker.share = [P0]
    async with world.consuming(Handling()) as pc:
        await trio.sleep(CHECK_TOPICS - 0.5)
        world.broker.network.errors["ListOffsets"].append(error(NO_ANSWER))
        world.client.send_error(ClientError._AUTO_OFFSET_RESET, P0)
        await trio.sleep(0.2)
        assert of(pc, P0).paused == "position unknown"
        world.broker.topic_ids["orders"] = b"anew".ljust(16)
        await trio.sleep(2)
        assert (of(pc, P0).phase, of(pc, P0).assignment_epoch) == ("active", 2)


async def test_partition_that_starts_anew_while_its_going_back_is_dealt_with(
    autojump_clock: MockClock, world: World
) -> None:
    """Of two reasons to start a partition anew, the first counts, if the second is dealt with later."""
    for partition in (P0, P1):
        world.broker.add(partition, [None] * 5)
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
