"""Exactly once in virtual time: what is in a transaction, and what becomes of it when one fails."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from shell.kit import NEVER, P0, P1, BodyError, Handling, World, error, of, settle
from trio.testing import MockClock

from trio_parallel_kafka import (
    AuthorizationError,
    CommitError,
    DeliveryError,
    ParallelConsumer,
    ProducerConfig,
    ProducerFencedError,
    ProducerRecord,
    Record,
    SerializationError,
    Skip,
    parallel_consumer,
)
from trio_parallel_kafka.control import transaction_outbox, transactions
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.offset_map import decode
from trio_parallel_kafka.core.ranges import OffsetRanges
from trio_parallel_kafka.testing.simulation.transactions import Coordinator, Scripted, Silence

LARGEST = 1000
"""Bytes of a record that the broker takes."""

FIELDS: dict[str, Any] = {"delivery": "exactly_once", "transactional_id": "billing-0"}


class Producing(Handling):
    """A handler that makes ``count`` results of each record, which say what it was made of."""

    def __init__(self, *, count: int = 1, **ways: Any) -> None:
        super().__init__(**ways)
        self.count = count

    async def __call__(self, record: Record) -> list[ProducerRecord]:  # type: ignore[override]  # it returns something
        await super().__call__(record)
        value = b"%d@%d" % (record.partition, record.offset)
        return [ProducerRecord("results", value, key=record.key) for _ in range(self.count)]


@pytest.fixture
def coordinator(world: World) -> Coordinator:
    """What the broker knows of transactions; it has the topic that results go to."""
    world.broker.create_topic("results", 2)
    world.broker.max_message_bytes = LARGEST
    return world.broker.transactions


@asynccontextmanager
async def consuming(world: World, handler: Any, **fields: Any) -> AsyncIterator[ParallelConsumer]:
    """Consume exactly once for the length of a block, then stop gracefully."""
    async with world.consuming(handler, **{**FIELDS, **fields}) as pc:
        yield pc


def ends_with(kind: type[Exception], match: str | None = None) -> pytest.RaisesGroup[Exception]:
    """The consumer ends with one error, in whatever groups of nurseries."""
    return pytest.RaisesGroup(pytest.RaisesExc(kind, match=match), flatten_subgroups=True)


def places(records: Sequence[ProducerRecord]) -> list[str]:
    """What results were made of."""
    return [bytes(record.value).decode() for record in records]


def made_of(offsets: Sequence[int], partition: int = 0) -> list[str]:
    """What the results of these offsets say."""
    return [f"{partition}@{offset}" for offset in offsets]


def map_of(world: World) -> OffsetRanges:
    """What the group's commit for partition 0 says is completed above."""
    offset, metadata = world.broker.one_group.offsets[P0]
    return decode(metadata, offset).completed if metadata else ()


# What is in a transaction


async def test_results_go_with_their_offsets(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """In each interval one transaction has the results of what is completed, in order, and says that it is."""
    world.broker.add(P0, ["a", "b"])
    async with consuming(world, Producing(count=2), commit_interval=5.0):
        await trio.sleep(7)
        world.broker.add(P0, ["c"])
        await trio.sleep(5)
        first, second = coordinator.committed[-2:]
        assert places(first.records) == made_of([0, 0, 1, 1])
        assert [entry.offset for entry in first.offsets if entry.partition == P0] == [2]
        assert places(second.records) == made_of([2, 2])
        assert [(entry.partition, entry.offset) for entry in second.offsets] == [(P0, 3)]
    assert world.producers[0].is_closed


async def test_only_what_is_completed(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """Of handlers that end out of order, a transaction has the results of those that ended, and the map says which."""
    world.broker.add(P0, [None] * 6)
    handle = Producing(held={1, 4})
    async with consuming(world, handle):
        await trio.sleep(3)
        assert sorted(places(coordinator.outputs)) == made_of([0, 2, 3, 5])
        assert world.committed(P0) == 1
        assert map_of(world) == ((2, 4), (5, 6))
        handle.let_go(1)
        await trio.sleep(3)
        assert places(coordinator.outputs)[4:] == made_of([1])
        handle.let_go()
    assert sorted(places(coordinator.outputs)) == made_of(range(6))
    assert world.committed(P0) == 6


async def test_nothing_is_returned(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """Offsets of records without results go into transactions, too."""
    world.broker.add(P0, ["a"] * 3)
    async with consuming(world, Handling()):
        await trio.sleep(3)
        assert world.committed(P0) == 3
    assert coordinator.outputs == []
    assert world.client.calls.of("commit") == []


async def test_decided_by_the_handler(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """Skipped records are committed without a result, dead letters beside the others' results."""
    world.broker.add(TopicPartition("orders.dlt", 0), [])
    world.broker.add(P0, ["a", "b", "c"])

    async def handle(record: Record) -> ProducerRecord:
        if record.offset == 0:
            raise Skip("for the test")
        if record.offset == 1:
            raise ValueError("for the test")
        return ProducerRecord("results", b"0@%d" % record.offset)

    async with consuming(world, handle, on_failure="dead_letter"):
        await trio.sleep(3)
    assert [record.topic for record in coordinator.outputs] == ["orders.dlt", "results"]
    assert world.committed(P0) == 3


async def test_serialised_results(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """Results are serialised when they are returned; what can't be is a failure of its record."""
    world.broker.add(P0, ["a", "b"])

    async def handle(record: Record) -> ProducerRecord:
        if record.offset:
            return ProducerRecord("results", 7)
        await trio.sleep(1)
        return ProducerRecord("results", "seven")

    def serialize(value: object, _context: object) -> bytes:
        assert isinstance(value, int), "no number"
        return b"%d" % value

    producer = ProducerConfig(bootstrap_servers="fake:9092", serialize_value=serialize)
    with pytest.RaisesGroup(SerializationError):
        async with parallel_consumer(world.config(**FIELDS, producer=producer)) as pc:
            await pc.run(handle)
    assert [record.value for record in coordinator.outputs] == [b"7"]
    assert world.committed(P0) == 0
    assert map_of(world) == ((1, 2),)


@pytest.mark.parametrize(
    "result",
    [
        ProducerRecord("results", b"x" * 1_048_500),
        ProducerRecord("results", b"x", headers=[("name", b"x" * 1_048_500)]),
        ProducerRecord("results", b"x", timestamp=-1.0),
    ],
    ids=["value", "headers", "timestamp"],
)
async def test_what_no_client_would_take(
    autojump_clock: MockClock, world: World, coordinator: Coordinator, result: ProducerRecord
) -> None:
    """A result that is too large for the client, or has no sense, is a failure of its record: the policy applies."""
    world.broker.add(P0, ["a"])

    async def handle(_record: Record) -> ProducerRecord:
        return result

    async with consuming(world, handle, on_failure="skip") as pc:
        await trio.sleep(3)
        assert pc.statistics().totals.skipped == 1
    assert coordinator.outputs == []
    assert world.committed(P0) == 1


async def test_batches(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """A batch's results go with their records; one that can't be sent fails its own record alone."""
    world.broker.add(P0, ["a", "b", "c"])

    async def handle(records: Sequence[Record]) -> list[object]:
        assert len(records) == 3
        return [ProducerRecord("results", b"0@%d" % each.offset if each.offset != 1 else 0.5) for each in records]

    async with parallel_consumer(world.config(**FIELDS, on_failure="skip")) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: pc.run_batches(handle, max_size=3, linger=1.0, scope="partition"))
        await trio.sleep(3)
        assert pc.statistics().totals.skipped == 1
        pc.stop()
    assert places(coordinator.outputs) == made_of([0, 2])
    assert world.committed(P0) == 3


# When one fails


@pytest.mark.parametrize(
    "code",
    [ClientError.ILLEGAL_GENERATION, ClientError.COORDINATOR_NOT_AVAILABLE, ClientError._MSG_TIMED_OUT],
)
async def test_aborted(
    autojump_clock: MockClock, world: World, coordinator: Coordinator, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An aborted transaction's results are sent again, before what came later, and no handler runs again."""
    caplog.set_level(logging.INFO)
    world.broker.add(P0, ["a", "a"])
    handle = Producing(held={0, 1})
    async with consuming(world, handle, commit_interval=5.0) as pc:
        await trio.sleep(7)
        coordinator.script += [error(code), error(code)]
        handle.let_go()
        await trio.sleep(5)
        assert coordinator.outputs == []
        world.broker.add(P0, ["a"])
        await trio.sleep(5)
        assert coordinator.outputs == []
        assert pc.statistics().totals.failed_commits == 2
        await trio.sleep(5)
        assert places(coordinator.outputs) == made_of([0, 1, 2])
        assert world.committed(P0) == of(pc, P0).committed == 3
    assert handle.offsets(P0, started=True) == [0, 1, 2]
    assert [places(each.records) for each in coordinator.aborted] == [made_of([0, 1]), made_of([0, 1, 2])]
    assert "the transaction of orders[0] at offset 2 failed" in caplog.text


@pytest.mark.parametrize("is_committed", [True, False])
async def test_outcome_is_unknown(
    autojump_clock: MockClock,
    world: World,
    coordinator: Coordinator,
    is_committed: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the broker doesn't tell, the group's offsets do, if asked again and again: nothing doubles or is lost."""
    world.broker.add(P0, ["a", "b"])
    handle = Producing(held={0, 1})
    async with consuming(world, handle, commit_interval=5.0) as pc:
        await trio.sleep(7)
        coordinator.script.append(Silence(is_committed))
        world.broker.network.errors["OffsetFetch"] += [error(ClientError.REQUEST_TIMED_OUT)] * 2
        handle.let_go()
        await trio.sleep(10)
        assert len(coordinator.outputs) == 2 * is_committed
        assert of(pc, P0).committed == 0
        world.broker.add(P0, ["c"])
        await trio.sleep(10)
        assert sorted(places(coordinator.outputs)) == made_of([0, 1, 2])
        assert of(pc, P0).committed == 3
    assert len(handle.started) == 3
    assert "isn't known" in caplog.text


async def test_unknown_outcome_of_what_was_let_go(
    autojump_clock: MockClock, world: World, coordinator: Coordinator
) -> None:
    """Nobody is asked about a transaction whose partitions were let go meanwhile: the next owner finds out."""
    world.broker.add(P0, ["a"])
    coordinator.script.append(Silence(is_committed=False))
    world.broker.network.delays["EndTxn"] = 10.0
    async with consuming(world, Producing(), commit_interval=1.0):
        await trio.sleep(5)
        await world.rebalance(lose=[P0, P1])
        count = len(world.client.calls.of("OffsetFetch"))
        await trio.sleep(10)
        assert len(world.client.calls.of("OffsetFetch")) == count
        world.broker.network.delays["EndTxn"] = 0.0
        await world.rebalance(assign=[P0, P1])
        await trio.sleep(5)
    assert places(coordinator.outputs) == made_of([0])


async def test_metadata_that_the_broker_refuses(
    autojump_clock: MockClock, world: World, coordinator: Coordinator
) -> None:
    """A broker with a lower bound on metadata gets a shorter map, and only the results that it tells of."""
    world.broker.one_group.max_metadata = 300
    handle = Producing(held=set(range(0, 6_000, 7)))
    world.broker.add(P0, [None] * 6_000)
    async with consuming(world, handle, max_concurrency=1000, shutdown_timeout=NEVER) as pc:
        await trio.sleep(20)
        told = {offset for start, end in map_of(world) for offset in range(start, end)}
        assert 0 < len(told) < 5_000
        assert {int(place[2:]) for place in places(coordinator.outputs)} == told
        assert of(pc, P0).is_map_cut
        handle.let_go()
    assert sorted(int(place[2:]) for place in places(coordinator.outputs)) == list(range(6_000))


async def test_partition_beyond_its_map(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """A partition is read no further than its map tells, and shows why; it goes on once it does again."""
    world.broker.one_group.max_metadata = 60
    handle = Producing(held=set(range(0, 900, 3)))
    world.broker.add(P0, [None] * 900)
    async with consuming(world, handle, max_concurrency=500, commit_interval=0.5) as pc:
        await trio.sleep(5)
        assert of(pc, P0).paused == "map full"
        next_offset = of(pc, P0).next_offset
        world.broker.add(P0, [None] * 100)
        await trio.sleep(5)
        assert of(pc, P0).next_offset == next_offset
        handle.let_go()
        await trio.sleep(5)
        assert of(pc, P0).paused is None
        assert of(pc, P0).position == 1000
    assert len(coordinator.outputs) == 1000


async def test_full_buffer_beyond_its_map(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """A partition whose buffer was filled by a batch that was on its way stays paused for that."""
    handle = Producing(held=set(range(100)))
    world.broker.add(P0, [None] * 100)
    async with consuming(world, handle, max_buffered_records=40, commit_interval=0.5) as pc:
        await trio.sleep(2)
        assert of(pc, P0).paused == "buffer full"
        assignment = pc._controller.member.assignments.get(P0)
        assert assignment is not None
        assignment.pause_reason = transactions.MAP_FULL
        count = len(world.client.calls.of("resume"))
        await trio.sleep(2)
        assert of(pc, P0).paused == "buffer full"
        assert len(world.client.calls.of("resume")) == count
        handle.let_go()
        await trio.sleep(5)
    assert len(coordinator.outputs) == 100


# Bounds


async def test_much_is_held(
    autojump_clock: MockClock, world: World, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From half of the bound on a transaction is made at once; handlers that return more wait for room."""
    monkeypatch.setattr(transaction_outbox, "MAX_HELD", 10)
    world.broker.network.delays["AddOffsetsToTxn"] = 1.0
    world.broker.add(P0, [None] * 100)
    handle = Producing()
    async with consuming(world, handle, commit_interval=NEVER) as pc:
        await trio.sleep(1.5)
        first = len(coordinator.committed)
        await trio.sleep(0.1)
        assert pc.statistics().totals.completed == 10 + sum(len(each.records) for each in coordinator.committed)
        assert pc.statistics().in_flight > 0
        await trio.sleep(30)
        assert len(coordinator.committed) > first
        assert sorted(places(coordinator.outputs), key=lambda place: int(place[2:])) == made_of(range(100))
    assert max(len(each.records) for each in coordinator.committed) <= 10


async def test_large_results_are_held(
    autojump_clock: MockClock, world: World, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is one of bytes, too."""
    monkeypatch.setattr(transaction_outbox, "MAX_HELD_BYTES", 500)
    world.broker.add(P0, [None] * 20)
    world.broker.network.delays["AddOffsetsToTxn"] = 1.0

    async def handle(record: Record) -> ProducerRecord:
        return ProducerRecord("results", b"x" * 25, headers=[("offset", b"%d" % record.offset)])

    async with consuming(world, handle, commit_interval=NEVER):
        await trio.sleep(60)
        assert len(coordinator.outputs) == 20
    assert 2 <= max(len(each.records) for each in coordinator.committed) <= 4


async def test_room_isn_t_taken_by_what_can_t_go(
    autojump_clock: MockClock, world: World, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held beyond the map leaves room for others, so that the record that it waits for can end."""
    monkeypatch.setattr(transaction_outbox, "MAX_HELD", 100)
    world.broker.one_group.max_metadata = 60
    handle = Producing(held=set(range(0, 900, 3)))
    world.broker.add(P0, [None] * 900)
    async with consuming(world, handle, max_concurrency=500, max_buffered_records=1000) as pc:
        await trio.sleep(30)
        assert pc.statistics().totals.completed == 600
        assert len(coordinator.outputs) < 500
        handle.let_go()
        await trio.sleep(30)
        assert len(coordinator.outputs) == 900


async def test_what_is_beyond_the_map_is_remembered(
    autojump_clock: MockClock, world: World, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes within a second or so of when the map can tell of it, however long the interval is."""
    monkeypatch.setattr(transaction_outbox, "MAX_HELD", 100)
    world.broker.one_group.max_metadata = 60
    handle = Producing(held=set(range(0, 900, 3)))
    world.broker.add(P0, [None] * 900)

    async def handle_some(record: Record) -> list[ProducerRecord]:
        outputs = await handle(record)
        return [] if record.offset % 3 == 0 else outputs

    async with consuming(world, handle_some, max_concurrency=500, commit_interval=NEVER):
        await trio.sleep(30)
        count = len(coordinator.outputs)
        assert count < 600
        handle.let_go()
        await trio.sleep(5)
        assert len(coordinator.outputs) == 600


async def test_broker_is_down_for_minutes(
    autojump_clock: MockClock,
    world: World,
    coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While transactions fail, they are tried ever more seldom, the log says so, and nothing is lost."""
    monkeypatch.setattr(transaction_outbox, "MAX_HELD", 10)
    world.broker.add(P0, [None] * 50)
    async with consuming(world, Producing(), commit_interval=NEVER) as pc:
        coordinator.script += [error(ClientError._MSG_TIMED_OUT)] * 40
        await trio.sleep(150)
        failed = len(coordinator.aborted)
        assert 25 < failed < 40
        assert caplog.text.count("failed") >= failed
        assert pc.statistics().in_flight > 0
        await trio.sleep(150)
        assert len(coordinator.outputs) == 50
        await settle()


# Rebalances


async def test_revoked_while_a_transaction_is_open(
    autojump_clock: MockClock, world: World, coordinator: Coordinator
) -> None:
    """A partition goes when the open transaction has ended, and another has what completed meanwhile."""
    world.broker.add(P0, [None] * 3)
    handle = Producing(held={1})
    world.broker.network.delays["AddOffsetsToTxn"] = 3.0
    async with consuming(world, handle, commit_interval=1.0, revoke_grace=1.0, close_timeout=20):
        await trio.sleep(5)
        handle.let_go()
        await world.rebalance(revoke=[P0])
        assert sorted(places(coordinator.outputs)) == made_of([0, 1, 2])
        assert world.committed(P0) == 3
        assert P0 not in world.client.owned
    assert len(handle.started) == 3


async def test_revoked_while_the_broker_is_slow(
    autojump_clock: MockClock, world: World, coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    """A revoke waits for ``close_timeout`` at most; what isn't being committed by then is aborted, and replayed."""
    world.broker.add(P0, ["a"])
    world.broker.network.delays["AddOffsetsToTxn"] = 20.0
    handle = Producing()
    async with consuming(world, handle, close_timeout=5.0):
        await trio.sleep(5)
        started = trio.current_time()
        await world.rebalance(revoke=[P0, P1])
        assert trio.current_time() - started < 6
        assert "took too long" in caplog.text
        await trio.sleep(20)
        assert coordinator.outputs == []
        assert len(coordinator.aborted) == 1
        world.broker.network.delays["AddOffsetsToTxn"] = 0.0
        await world.rebalance(assign=[P0, P1])
        await trio.sleep(5)
    assert handle.offsets(P0) == [0, 0]
    assert places(coordinator.outputs) == made_of([0])


async def test_last_transaction_of_a_revoke_is_cut(
    autojump_clock: MockClock, world: World, coordinator: Coordinator
) -> None:
    """A transaction that a revoke began and didn't wait for is concluded before the next is begun."""
    world.broker.add(P0, ["a"])
    handle = Producing()
    async with consuming(world, handle, close_timeout=5.0, commit_interval=NEVER) as pc:
        await trio.sleep(5)
        world.broker.network.delays["AddOffsetsToTxn"] = 20.0
        await world.rebalance(revoke=[P0])
        world.broker.add(P1, ["a"])
        await trio.sleep(20)
        assert len(coordinator.aborted) == 1
        assert pc._controller._committer._attempt is None  # type: ignore[attr-defined]  # it is the transactional one
        world.broker.network.delays["AddOffsetsToTxn"] = 0.0
    assert places(coordinator.outputs) == ["1@0"]
    assert world.committed(P1) == 1


async def test_lost_while_a_transaction_is_open(
    autojump_clock: MockClock, world: World, coordinator: Coordinator
) -> None:
    """What was lost is dropped with its results; what is still owned goes into the next transaction."""
    async with consuming(world, Producing()):
        await trio.sleep(1.5)
        world.broker.network.delays["AddOffsetsToTxn"] = 3.0
        world.broker.add(P0, ["a"])
        world.broker.add(P1, ["a"])
        await trio.sleep(2)
        await world.rebalance(lose=[P0])
        await trio.sleep(10)
        assert [sorted(places(each.records)) for each in coordinator.aborted] == [["0@0", "1@0"]]
        assert not coordinator.aborted[0].is_wanted()
        assert places(coordinator.outputs) == ["1@0"]
        assert world.committed(P0) == 0
    assert world.committed(P1) == 1


async def test_lost_while_a_transaction_is_committed(
    autojump_clock: MockClock, world: World, coordinator: Coordinator
) -> None:
    """A transaction that is being committed when its partition is lost counts for whoever owns it next."""
    handle = Producing()
    async with consuming(world, handle):
        await trio.sleep(1.5)
        world.broker.network.delays["EndTxn"] = 3.0
        world.broker.add(P0, ["a"])
        await trio.sleep(2)
        await world.rebalance(lose=[P0, P1])
        await world.rebalance(assign=[P0, P1])
        await trio.sleep(5)
    assert places(coordinator.outputs) == made_of([0])
    assert len(handle.started) == 1


async def test_not_owned_any_more(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """Nothing is begun while the client doesn't say that all of it is owned; once it does, nothing is missing."""
    world.broker.add(P0, ["a"])
    handle = Producing(held={0})
    async with consuming(world, handle) as pc:
        await trio.sleep(3)
        count = len(coordinator.committed)
        world.broker.network.errors["group_metadata"] += [error(ClientError._STATE)] * 3
        handle.let_go()
        await trio.sleep(2.5)
        assert len(coordinator.committed) == count
        assert coordinator.aborted == []
        assert pc.statistics().totals.failed_commits >= 2
        await trio.sleep(3)
        assert places(coordinator.outputs) == made_of([0])


async def test_late_result(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """What a handler returns after its partition was lost goes nowhere; the record's next owner makes it."""
    world.broker.add(P0, ["a"])
    handle = Producing(stubborn={0})
    async with consuming(world, handle):
        await trio.sleep(2)
        await world.rebalance(lose=[P0])
        handle.let_go()
        await trio.sleep(2)
        assert coordinator.outputs == []
        await world.rebalance(assign=[P0])
        await trio.sleep(2)
    assert places(coordinator.outputs) == made_of([0])
    assert handle.offsets(P0, started=True) == [0, 0]


# Ends


async def test_fenced(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """Another with the same identity ends the consumer, with an error that says so; nothing is committed after."""
    world.broker.add(P0, ["a"])
    handle = Producing(held={0})
    with ends_with(ProducerFencedError, "another took over") as caught:
        async with parallel_consumer(world.config(**FIELDS)) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await trio.sleep(3)
            await world.transactional_producer(world.config(**FIELDS)).open()
            count = len(coordinator.committed)
            handle.let_go()
    assert len(coordinator.committed) == count
    assert any("no transaction can be made any more" in note for note in caught.value.exceptions[0].__notes__)


async def test_fenced_while_the_last_is_made(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """That it turns out with the last transaction only makes no difference."""
    world.broker.add(P0, ["a"])
    with ends_with(ProducerFencedError):
        async with consuming(world, Producing(), commit_interval=NEVER):
            await trio.sleep(3)
            await world.transactional_producer(world.config(**FIELDS)).open()


async def test_fenced_while_revoked(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """A revoke isn't held up by it; the consumer ends."""
    world.broker.add(P0, ["a"])
    with ends_with(ProducerFencedError):
        async with consuming(world, Producing(), commit_interval=NEVER):
            await trio.sleep(3)
            await world.transactional_producer(world.config(**FIELDS)).open()
            await world.rebalance(revoke=[P0])
            await world.rebalance(revoke=[P1])
    assert coordinator.outputs == []


async def test_fenced_while_much_is_held(
    autojump_clock: MockClock, world: World, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handlers that wait for room are cancelled then."""
    monkeypatch.setattr(transaction_outbox, "MAX_HELD", 10)
    world.broker.add(P0, [None] * 100)
    coordinator.script += [None, ProducerFencedError("fenced")]
    with ends_with(ProducerFencedError):
        async with consuming(world, Producing(), commit_interval=NEVER):
            await trio.sleep(30)


async def test_fenced_while_another_waits(
    autojump_clock: MockClock,
    world: World,
    coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever waits to make the next transaction, because much is held or a partition goes, makes none."""
    monkeypatch.setattr(transaction_outbox, "MAX_HELD", 10)
    with ends_with(ProducerFencedError):
        async with consuming(world, Producing(), commit_interval=1.0):
            await trio.sleep(1.5)
            world.broker.network.delays["AddOffsetsToTxn"] = 3.0
            coordinator.script.append(ProducerFencedError("fenced"))
            world.broker.add(P0, ["a"])
            await trio.sleep(1)
            world.broker.add(P0, [None] * 8)
            await trio.sleep(0.5)
            await world.rebalance(revoke=[P1])
    assert coordinator.outputs == []
    assert "no transaction can be made any more" not in caplog.text


async def test_result_of_an_ended_assignment(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """What is sent for an assignment that has ended isn't held: nobody would ever fetch it."""
    async with consuming(world, Producing(), commit_interval=NEVER) as pc:
        await trio.sleep(2)
        outbox = pc._controller._committer.outbox  # type: ignore[attr-defined]  # it is the transactional one
        assignment = pc._controller.member.assignments.get(P0)
        assert assignment is not None
        await outbox.send(assignment, Record(*P0, 0), [ProducerRecord("results", b"held")])
        assert (outbox.count, outbox.size > 4) == (1, True)
        await world.rebalance(lose=[P0])
        await trio.sleep(1)
        await outbox.send(assignment, Record(*P0, 1), [ProducerRecord("results", b"late")])
        assert outbox.count == 1


@pytest.mark.parametrize(
    "result",
    [ProducerRecord("results", b"x" * (LARGEST + 1)), ProducerRecord("nowhere", b"x")],
    ids=["too large", "no such topic"],
)
async def test_refused_result(
    autojump_clock: MockClock,
    world: World,
    coordinator: Coordinator,
    result: ProducerRecord,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A result that the broker will never take ends the consumer, with an error that names it and its record."""
    world.broker.add(P0, ["a", "b"])

    async def handle(record: Record) -> ProducerRecord:
        return result if record.offset else ProducerRecord("results", b"fine")

    with ends_with(DeliveryError) as caught:
        async with consuming(world, handle):
            await trio.sleep(5)
    (refused,) = caught.value.exceptions
    assert isinstance(refused, DeliveryError)
    assert refused.topic == result.topic
    assert any("orders[0]@1" in note for note in refused.__notes__)
    assert coordinator.outputs == []
    assert not world.committed(P0)


async def test_acl_is_missing(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """An aborted transaction that no other would fare better than ends the consumer."""
    world.broker.add(P0, ["a"])
    coordinator.script.append(error(ClientError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED))
    with ends_with(AuthorizationError, "ACLs are missing"):
        async with consuming(world, Producing()):
            await trio.sleep(5)


async def test_identity_isn_t_to_be_had(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """What is wrong with the identity is said at the start, before the group is joined."""
    world.broker.fail_next("InitProducerId", ClientError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    with pytest.raises(AuthorizationError, match="ACLs are missing"):
        async with parallel_consumer(world.config(**FIELDS)):
            raise AssertionError("it was opened")
    assert world.client.calls.of("subscribe") == []
    assert world.producers[0].is_closed


async def test_cancelled_while_a_transaction_is_open(
    autojump_clock: MockClock, world: World, coordinator: Coordinator
) -> None:
    """A cancelled consumer waits for the open transaction, and makes another of what completed meanwhile."""
    world.broker.add(P0, [None] * 2)
    handle = Producing(held={1})
    world.broker.network.delays["AddOffsetsToTxn"] = 3.0
    with trio.move_on_after(5):
        async with parallel_consumer(world.config(**FIELDS)) as pc:
            with pytest.raises(trio.Cancelled):  # noqa: PT012 - a nursery
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pc.run, handle)
                    await trio.sleep(2)
                    handle.let_go()
                    await trio.sleep_forever()
            await trio.lowlevel.checkpoint()
    assert sorted(places(coordinator.outputs)) == made_of([0, 1])
    assert world.committed(P0) == 2


async def test_end_while_the_broker_is_down(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """The last transaction is bounded by ``close_timeout``; the error says that its records will be replayed."""
    world.broker.add(P0, ["a"])
    world.broker.network.delays["AddOffsetsToTxn"] = NEVER
    with ends_with(CommitError, "wasn't acknowledged within 5"):
        async with consuming(world, Producing(), close_timeout=5.0):
            await trio.sleep(5)
    assert coordinator.outputs == []
    assert world.producers[0].is_closed


async def test_body_fails(autojump_clock: MockClock, world: World, coordinator: Coordinator) -> None:
    """What completed before the body failed is seen."""
    world.broker.add(P0, ["a"])
    with pytest.RaisesGroup(BodyError):
        async with consuming(world, Producing(), commit_interval=NEVER):
            await trio.sleep(5)
            raise BodyError
    assert places(coordinator.outputs) == made_of([0])


# All of it together


class Chaos:
    """A handler that takes its time, and what happens meanwhile; all at random."""

    count = 150

    def __init__(self, world: World, coordinator: Coordinator, seed: int) -> None:
        self.world = world
        self.coordinator = coordinator
        self.chance = random.Random(seed)
        for partition in (P0, P1):
            world.broker.add(partition, [self.chance.choice("abcde") for _ in range(self.count)])

    async def __call__(self, record: Record) -> list[ProducerRecord]:
        await trio.sleep(self.chance.uniform(0, 0.5))
        place = b"%d@%d" % (record.partition, record.offset)
        return [ProducerRecord("results", place, key=record.key) for _ in range(record.offset % 3)]

    async def consume(self, until: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Be a member for so long, or until something."""
        config = self.world.config(**FIELDS, commit_interval=0.7, revoke_grace=0.2)
        async with parallel_consumer(config) as pc:
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pc.run, self)
                    await until()
                    pc.stop()

    async def meddle(self) -> None:
        """Let partitions come and go, and transactions fail."""
        troubles: list[Scripted] = [
            error(ClientError.ILLEGAL_GENERATION),
            error(ClientError._MSG_TIMED_OUT),
            Silence(is_committed=True),
            Silence(is_committed=False),
            None,
            None,
        ]
        owned = {P0, P1}
        while True:
            await trio.sleep(self.chance.uniform(0, 2))
            for api in ("AddOffsetsToTxn", "EndTxn"):
                self.world.broker.delay(self.chance.uniform(0, 1), api)
            self.coordinator.script.append(self.chance.choice(troubles))
            partition = self.chance.choice([P0, P1])
            if partition in owned:
                await self.world.rebalance(**{self.chance.choice(["revoke", "lose"]): [partition]})
            else:
                await self.world.rebalance(assign=[partition])
            owned ^= {partition}

    async def finish(self) -> None:
        """Wait until all is committed."""
        self.coordinator.script.clear()
        while any(self.world.committed(partition) != self.count for partition in (P0, P1)):
            await trio.sleep(1)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens(
    autojump_clock: MockClock, world: World, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Partitions come and go, transactions fail or end unknown: each result is seen once, in the order of its key."""
    monkeypatch.setattr(transaction_outbox, "MAX_HELD", 20)
    chaos = Chaos(world, coordinator, seed)
    for _ in range(2):
        try:
            await chaos.consume(chaos.meddle, 20)
        except* CommitError:
            pass  # a partition was lost in the midst of the last transaction
    await chaos.consume(chaos.finish, NEVER)
    seen = places(coordinator.outputs)
    assert sorted(seen) == sorted(f"{n}@{offset}" for n in (0, 1) for offset in range(150) for _ in range(offset % 3))
    lanes: dict[tuple[str, object], list[int]] = {}
    for record, place in zip(coordinator.outputs, seen, strict=True):
        number, offset = place.split("@")
        lanes.setdefault((number, record.key), []).append(int(offset))
    assert all(offsets == sorted(offsets) for offsets in lanes.values())
