"""The main job on the embedded broker: what a member reads, commits and finds again."""

from __future__ import annotations

import time
from collections import defaultdict

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from embedded.kit import (
    PATIENCE,
    Handled,
    all_places,
    commit,
    committed,
    configured,
    handle_all,
    partitions_of,
    phases,
    running,
    send,
    until,
)

from trio_parallel_kafka import (
    AuthorizationError,
    CommitError,
    Record,
    parallel_consumer,
)
from trio_parallel_kafka.control.kafka_client import KafkaClient
from trio_parallel_kafka.testing import EmbeddedBroker

DENIED = ClientError.GROUP_AUTHORIZATION_FAILED


async def test_everything_once_and_in_key_order(embedded_broker: EmbeddedBroker) -> None:
    """Every record is handled once, those of a key in order, many at a time; then all is committed."""
    send(embedded_broker, 400, keys=20)
    at_once = peak = 0

    async def work(_record: Record) -> None:
        nonlocal at_once, peak
        at_once += 1
        peak = max(peak, at_once)
        await trio.sleep(0.001)
        at_once -= 1

    handled = Handled(work)
    async with running(configured(embedded_broker), handled) as pc:
        await handled.wait(400)

    assert sorted(handled.places) == all_places(400)
    by_key: defaultdict[tuple[int, bytes | None], list[int]] = defaultdict(list)
    for record in handled.records:
        by_key[record.partition, record.key].append(record.offset)
    assert len(by_key) == 20
    assert all(offsets == sorted(offsets) for offsets in by_key.values())
    assert 1 < peak <= 20
    assert committed(embedded_broker) == [(200, ()), (200, ())]
    totals = pc.statistics().totals
    assert (totals.received, totals.completed, totals.failed, totals.not_replayed) == (400, 400, 0, 0)


async def test_only_the_hung_record_comes_again(embedded_broker: EmbeddedBroker) -> None:
    """What completed beside a hung record is in the commit's metadata, and isn't handled again."""
    send(embedded_broker, 40)

    async def hang(record: Record) -> None:
        if (record.partition, record.offset) == (1, 3):
            await trio.sleep_forever()

    first = Handled(hang)
    async with running(configured(embedded_broker, shutdown_timeout=0), first) as pc:
        await first.wait(39)
        await until(lambda: partitions_of(pc)[1].committed == 3)
        behind = partitions_of(pc)[1]
        assert (behind.position, behind.completed_above, behind.in_flight) == (3, 16, 1)
        assert behind.oldest_incomplete is not None
        assert (behind.oldest_incomplete.offset, behind.oldest_incomplete.key) == (3, b"k7")

    assert committed(embedded_broker) == [(20, ()), (3, ((4, 20),))]

    again = Handled()
    async with running(configured(embedded_broker), again) as pc:
        await until(lambda: pc.statistics().totals.received == 17)
        await again.wait(1)
        assert pc.statistics().totals.not_replayed == 16
    assert again.places == [(1, 3)]
    assert committed(embedded_broker) == [(20, ()), (20, ())]


async def test_the_map_is_kept_while_nothing_completes(embedded_broker: EmbeddedBroker) -> None:
    """A restart in which the hung record hangs again doesn't erase what was completed above it."""
    send(embedded_broker, 10)

    async def hang(record: Record) -> None:
        if (record.partition, record.offset) == (0, 0):
            await trio.sleep_forever()

    first = Handled(hang)
    async with running(configured(embedded_broker, shutdown_timeout=0), first):
        await first.wait(9)
    before = [(0, ((1, 5),)), (5, ())]
    assert committed(embedded_broker) == before

    async with running(configured(embedded_broker, shutdown_timeout=0), Handled(hang)) as pc:
        await until(lambda: pc.statistics().totals.not_replayed == 4)
        await until(lambda: pc.statistics().in_flight == 1)
    assert committed(embedded_broker) == before
    assert (await handle_all(configured(embedded_broker), 1)).places == [(0, 0)]


@pytest.mark.parametrize(
    "code",
    [ClientError.REQUEST_TIMED_OUT, ClientError.NOT_COORDINATOR, ClientError.UNKNOWN, ClientError.INVALID_MSG],
)
async def test_a_failed_commit_is_made_up_for(embedded_broker: EmbeddedBroker, code: int) -> None:
    """A commit in the interval that the broker refuses is counted and made again; nothing is handled twice."""
    send(embedded_broker, 10)
    embedded_broker.fail_next("OffsetCommit", *[code] * 5)
    handled = Handled()
    async with running(configured(embedded_broker), handled) as pc:
        await until(lambda: {each.committed for each in partitions_of(pc).values()} == {5})
        # The client tries again by itself what may pass.
        assert pc.statistics().totals.failed_commits or code in {
            ClientError.REQUEST_TIMED_OUT,
            ClientError.NOT_COORDINATOR,
        }
    assert sorted(handled.places) == all_places(10)
    assert committed(embedded_broker) == [(5, ()), (5, ())]


async def test_the_last_commit_is_tried_again(embedded_broker: EmbeddedBroker) -> None:
    """The commit on leaving is repeated until the broker takes it."""
    send(embedded_broker, 10)
    handled = Handled()
    async with running(configured(embedded_broker, commit_interval=60.0), handled) as pc:
        await handled.wait(10)
        await until(lambda: pc.statistics().totals.commits)  # the first one, when it was assigned
        embedded_broker.fail_next("OffsetCommit", ClientError.UNKNOWN, ClientError.UNKNOWN)
    assert pc.statistics().totals.failed_commits == 4
    assert committed(embedded_broker) == [(5, ()), (5, ())]


async def test_a_refused_last_commit_is_told(embedded_broker: EmbeddedBroker) -> None:
    """A last commit that can't succeed any more is an error, and its records come again."""
    send(embedded_broker, 10)
    handled = Handled()
    with pytest.RaisesGroup(pytest.RaisesExc(CommitError, match="refused, its records will be replayed")):
        async with running(configured(embedded_broker, commit_interval=60.0), handled) as pc:
            await handled.wait(10)
            await until(lambda: pc.statistics().totals.commits)
            embedded_broker.fail_next("OffsetCommit", ClientError.UNKNOWN_MEMBER_ID)
    assert pc.statistics().state == "closed"
    again = await handle_all(configured(embedded_broker), 10)
    assert sorted(again.places) == all_places(10)


async def test_an_unknown_position_is_seen_and_found_later(
    embedded_broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """While the committed offset isn't to be had a partition stands still, visibly; then it starts there."""
    send(embedded_broker, 20)
    commit(embedded_broker, 4, 6)
    embedded_broker.fail_next("OffsetFetch", *[ClientError.UNKNOWN] * 3)
    handled = Handled()
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(configured(embedded_broker)) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handled)
            await until(lambda: pc.statistics().partitions)
            seen = {(each.phase, each.paused, each.position) for each in pc.statistics().partitions}
            await until(lambda: any("isn't to be had" in line for line in caplog.messages))
            await handled.wait(10)
            pc.stop()
    assert seen == {("starting", "position unknown", None)}
    assert sorted(handled.places) == [(0, offset) for offset in range(4, 10)] + [(1, offset) for offset in range(6, 10)]
    assert committed(embedded_broker) == [(10, ()), (10, ())]


async def test_missing_rights_end_it(embedded_broker: EmbeddedBroker) -> None:
    """An ACL that is missing for the group is an error of run(), not a partition that stands still."""
    embedded_broker.fail_next("OffsetFetch", *[DENIED] * 3)
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(configured(embedded_broker)) as pc:
            with pytest.raises(AuthorizationError, match="READ on the consumer group") as caught:
                await pc.run(Handled())
            assert pc.statistics().state == "stopped"
    assert caught.value.topic == "orders"
    assert caught.value.partition in {0, 1}


@pytest.mark.parametrize("strategy", ["range", "roundrobin", "cooperative-sticky"])
async def test_classic_groups(embedded_broker: EmbeddedBroker, strategy: str) -> None:
    """Under the classic protocol a member consumes and leaves, too, whether it owns all anew or by increments."""
    send(embedded_broker, 20)
    kafka = {"group.protocol": "classic", "partition.assignment.strategy": strategy}
    handled = await handle_all(configured(embedded_broker, kafka=kafka), 20)
    assert sorted(handled.places) == all_places(20)
    assert committed(embedded_broker) == [(10, ()), (10, ())]


async def test_a_pattern_takes_in_what_it_matches(embedded_broker: EmbeddedBroker) -> None:
    """A topic pattern subscribes to the topics that it matches, and to no others."""
    for topic in ("orders-old", "refunds"):
        embedded_broker.create_topic(topic, 2)
        send(embedded_broker, 4, topic=topic)
    send(embedded_broker, 4)
    config = configured(embedded_broker, topics="^orders.*$", kafka={"group.protocol": "classic"})
    handled = await handle_all(config, 8)
    assert {record.topic for record in handled.records} == {"orders", "orders-old"}


async def test_latest_begins_with_what_comes(embedded_broker: EmbeddedBroker) -> None:
    """With auto_offset_reset latest a new group reads what is produced from its start on, and commits that start."""
    send(embedded_broker, 10)
    handled = Handled()
    async with running(configured(embedded_broker, auto_offset_reset="latest"), handled) as pc:
        await until(lambda: {each.committed for each in partitions_of(pc).values()} == {5})
        send(embedded_broker, 4, at=10)
        await handled.wait(4)
    assert sorted(handled.places) == [(0, 5), (0, 6), (1, 5), (1, 6)]


async def test_latest_with_a_pattern(embedded_broker: EmbeddedBroker) -> None:
    """The start of each topic that a pattern matches is known, too."""
    send(embedded_broker, 10)
    config = configured(
        embedded_broker, topics="^orders$", auto_offset_reset="latest", kafka={"group.protocol": "classic"}
    )
    async with running(config, Handled()) as pc:
        await until(lambda: {each.committed for each in partitions_of(pc).values()} == {5})


async def test_a_member_comes_and_goes(embedded_broker: EmbeddedBroker) -> None:
    """A second member takes over its share and gives it back: every record is handled once."""
    config = configured(embedded_broker)
    handled = Handled()
    async with running(config, handled) as first:
        await until(lambda: len(partitions_of(first)) == 2)
        send(embedded_broker, 100)
        async with running(config, handled) as second:
            await until(lambda: len(partitions_of(first)) == len(partitions_of(second)) == 1)
            assert partitions_of(first).keys() | partitions_of(second).keys() == {0, 1}
            send(embedded_broker, 100, at=100)
            await handled.wait(200)
        await until(lambda: len(partitions_of(first)) == 2)
        send(embedded_broker, 100, at=200)
        await handled.wait(300)
    assert sorted(handled.places) == all_places(300)
    assert committed(embedded_broker) == [(150, ()), (150, ())]


async def test_handlers_finish_within_the_grace(embedded_broker: EmbeddedBroker) -> None:
    """A handler that ends within revoke_grace counts: its record isn't handled by the next owner."""
    send(embedded_broker, 2)
    config = configured(embedded_broker, revoke_grace=PATIENCE)
    may_end = trio.Event()
    handled, again = Handled(lambda _record: may_end.wait()), Handled()
    async with running(config, handled) as first:
        await until(lambda: first.statistics().in_flight == 2)
        async with parallel_consumer(config) as second, trio.open_nursery() as nursery:
            nursery.start_soon(second.run, again)
            await until(lambda: "revoking" in phases(first))
            may_end.set()
            await until(lambda: phases(second) == {"active"})
            await handled.wait(2)
            second.stop()
    assert again.places == []
    assert first.statistics().totals.abandoned == 0
    assert committed(embedded_broker) == [(1, ()), (1, ())]


async def test_the_grace_ends(embedded_broker: EmbeddedBroker) -> None:
    """A handler that needs longer is cancelled, and the new owner handles the record."""
    send(embedded_broker, 2)
    config = configured(embedded_broker, revoke_grace=0.05, shutdown_timeout=0)
    again = Handled()

    async def hang(_record: Record) -> None:
        await trio.sleep_forever()

    async with running(config, Handled(hang)) as first:
        await until(lambda: first.statistics().in_flight == 2)
        async with running(config, again) as second:
            await again.wait(1)
            (moved,) = partitions_of(second)
            assert again.places == [(moved, 0)]
            assert first.statistics().totals.abandoned == 1
            assert partitions_of(first).keys() == {1 - moved}
            assert first.statistics().in_flight == 1


async def test_a_small_buffer_and_a_busy_loop(embedded_broker: EmbeddedBroker) -> None:
    """A handler that blocks the loop delays what is fetched meanwhile, and loses nothing of it.

    What was fetched around the block was once more than a batch holds, which ended the client.
    """
    send(embedded_broker, 200, keys=4)

    async def block(record: Record) -> None:
        if record.offset == 20:
            time.sleep(0.6)  # noqa: ASYNC251 - what a handler shouldn't do

    handled = Handled(block)
    async with running(configured(embedded_broker, max_buffered_records=16), handled):
        await handled.wait(200)
    assert sorted(handled.places) == all_places(200)


async def test_without_topic_ids(embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the brokers tell no ids of topics, everything else works, the map included.

    A commit that had neither id nor map to carry once ended the consumer.
    """
    monkeypatch.setattr(KafkaClient, "_topic_ids", lambda _client, _topics: {})
    send(embedded_broker, 10)

    async def hang(record: Record) -> None:
        if (record.partition, record.offset) == (1, 3):
            await trio.sleep_forever()

    first = Handled(hang)
    async with running(configured(embedded_broker, shutdown_timeout=0), first):
        await first.wait(9)
    assert committed(embedded_broker) == [(5, ()), (3, ((4, 5),))]
    assert (await handle_all(configured(embedded_broker), 1)).places == [(1, 3)]
    assert committed(embedded_broker) == [(5, ()), (5, ())]
