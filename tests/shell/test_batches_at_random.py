"""Batches under random outcomes, rebalances, pauses and ends: whatever comes, the promises hold."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings, strategies as st
from shell.batching import batching, output
from shell.failing import graveyard
from shell.fake_outbox import FakeOutbox
from shell.kit import P0, P1, HandlerError, Place, World
from trio.testing import MockClock

from trio_parallel_kafka import (
    DeadLetter,
    DeadLetterConfig,
    DeliveryError,
    InvalidResultError,
    ParallelConsumer,
    Record,
    Retry,
    RetryPolicy,
    Skip,
)
from trio_parallel_kafka.core.assignments import Assignment, TopicPartition
from trio_parallel_kafka.core.metadata import read_metadata

PARTITIONS = [P0, P1]
FINAL = {"done", "output", "skip", "dead"}
CALL_FAILS = {"raise", "short"}
LONG_ENOUGH = 60.0

Keys = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=6)


@attrs.frozen
class Schedule:
    """What happens: ``outcomes`` and ``call_outcomes`` are used up one by one, then all is well."""

    options: dict[str, Any]
    first: tuple[list[str | None], list[str | None]]
    outcomes: list[str]
    calls: list[tuple[str, float]]
    refusals: list[bool]
    events: list[tuple[float, str, TopicPartition, list[str | None]]]
    end: str


SCHEDULES = st.builds(
    Schedule,
    options=st.fixed_dictionaries(
        {
            "scope": st.sampled_from(["key", "partition", "any"]),
            "max_size": st.integers(1, 5),
            "linger": st.sampled_from([0.0, 0.3, 3.0]),
            "max_concurrency": st.integers(1, 4),
            "max_buffered_records": st.sampled_from([8, 100]),
            "revoke_grace": st.sampled_from([0.1, 1.5]),
            "commit_interval": st.sampled_from([0.2, 50.0]),
            "ordering": st.sampled_from(["key", "key", "key", "partition"]),
        }
    ),
    first=st.tuples(Keys, Keys),
    outcomes=st.lists(st.sampled_from([*sorted(FINAL), "retry", "fail"]), max_size=25),
    calls=st.lists(
        st.tuples(st.sampled_from(["well", "well", *sorted(CALL_FAILS)]), st.sampled_from([0.0, 0.4, 2.0])),
        max_size=12,
    ),
    refusals=st.lists(st.booleans(), max_size=8),
    events=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.1, 0.5, 2.0]),
            st.sampled_from(["revoke", "lose", "assign", "assign", "produce", "pause", "hold", "resume"]),
            st.sampled_from(PARTITIONS),
            Keys,
        ),
        max_size=12,
    ),
    end=st.sampled_from(["in peace", "in peace", "stopped", "cancelled"]),
)


class Model:
    """A handler of batches that looks at the promises, and what the core has completed."""

    def __init__(self, world: World, outbox: FakeOutbox, schedule: Schedule) -> None:
        self.world = world
        self.outbox = outbox
        self.options = schedule.options
        self.lost: set[int] = set()
        self.completed: dict[tuple[TopicPartition, int], set[int]] = defaultdict(set)
        self._outcomes = iter(schedule.outcomes)
        self._calls = iter(schedule.calls)
        self._given_up: set[Place] = set()
        self._is_output: set[Place] = set()
        self._running: Counter[tuple[int, bytes]] = Counter()
        self._attempts: dict[tuple[int, int, int], int] = {}

    async def __call__(self, records: tuple[Record, ...]) -> Sequence[object]:
        self._check_batch(records)
        self._check_order(records)
        keys = self._lanes(records)
        self._running.update(keys)
        assert max(self._running.values(), default=0) <= 1, "two batches hold a key"
        how, seconds = next(self._calls, ("well", 0.1))
        try:
            await trio.sleep(seconds)
        finally:
            self._running.subtract(keys)
        if how == "raise":
            raise HandlerError
        outcomes = [self._outcome(each) for each in records]
        return outcomes[1:] if how == "short" else outcomes

    def completes(self, assignment: Assignment[Record], record: Record) -> None:
        """The core has completed a record."""
        place = record.partition, record.offset
        assert place in self._given_up, "completed without having been handled"
        assert place not in self._is_output or place in self.outbox.places, "completed before its output was out"
        self.completed[assignment.partition, assignment.assignment_epoch].add(record.offset)

    def _outcome(self, record: Record) -> object:
        kind = next(self._outcomes, "done")
        place = record.partition, record.offset
        if kind in FINAL:
            self._given_up.add(place)
        self._is_output.discard(place)
        match kind:
            case "output":
                self._is_output.add(place)
                return output(str(place))
            case "skip":
                return Skip()
            case "dead":
                return DeadLetter()
            case "retry":
                return Retry(after=0.7)
            case "fail":
                return HandlerError()
        return None

    def _lanes(self, records: Sequence[Record]) -> set[tuple[int, bytes]]:
        if self.options["ordering"] == "partition":
            return {(each.partition, b"") for each in records}
        return {(each.partition, each.key) for each in records if each.key is not None}

    def _check_batch(self, records: Sequence[Record]) -> None:
        assert 0 < len(records) <= self.options["max_size"]
        places = [(each.partition, each.offset) for each in records]
        assert places == sorted(set(places))
        if self.options["scope"] != "any":
            assert len({each.partition for each in records}) == 1
        if self.options["scope"] == "key":
            assert len(records) == 1 or len(self._lanes(records)) == 1

    def _check_order(self, records: Sequence[Record]) -> None:
        """All earlier records of a lane are with it in the batch, or over and done with."""
        here = {(each.partition, each.offset) for each in records}
        for record in records:
            number = record.partition, record.offset, record.assignment_epoch
            before = self._attempts.get(number, 0)
            assert record.attempt in {max(before, 1), before + 1}
            self._attempts[number] = record.attempt
            (lane,) = self._lanes([record]) or [None]
            log = self.world.broker.logs[TopicPartition("orders", record.partition)].records
            for offset in range(record.offset):
                key = log[offset].key()
                is_before = lane == (record.partition, b"" if self.options["ordering"] == "partition" else key)
                assert not is_before or {(record.partition, offset)} <= here | self._given_up, "out of order"


def named(world: World, partition: TopicPartition) -> set[int]:
    """The offsets that the group's commit says are completed."""
    offset, metadata = world.broker.one_group.offsets.get(partition, (0, ""))
    ranges = read_metadata(metadata, offset).completed if metadata else ()
    return set(range(offset)).union(*(range(start, end) for start, end in ranges))


async def live(world: World, model: Model, schedule: Schedule, scope: trio.CancelScope) -> None:
    """A consumer's life."""
    fields: dict[str, Any] = {
        **schedule.options,
        "retry": RetryPolicy(
            max_attempts=None,
            initial_backoff=0.5,
            multiplier=1.0,
            jitter=0.0,
            retry_on=(HandlerError, InvalidResultError, DeliveryError),  # a broken promise is for good
        ),
        "dead_letter": DeadLetterConfig(on_dead_letter_failure="retry"),
        "shutdown_timeout": 1.0,
    }
    with scope:
        async with batching(world, model, **fields) as pc:
            await pc.wait_assigned()
            for seconds, what, partition, keys in schedule.events:
                await trio.sleep(seconds)
                await happens(what, partition, keys, world=world, model=model, pc=pc)
            if schedule.end == "cancelled":
                scope.cancel()
            if schedule.end == "in peace":
                pc.resume()
                await world.rebalance(assign=[each for each in PARTITIONS if each not in world.client.owned])
                with trio.fail_after(LONG_ENOUGH):
                    while not is_done(world, pc):
                        await trio.sleep(0.5)
            assert pc.statistics().totals.fenced == 0


def is_done(world: World, pc: ParallelConsumer) -> bool:
    """Whether everything that is there is completed."""
    return all(
        each.position == world.broker.logs[TopicPartition(each.topic, each.partition)].end
        for each in pc.statistics().partitions
    )


async def happens(
    what: str, partition: TopicPartition, keys: list[str | None], *, world: World, model: Model, pc: ParallelConsumer
) -> None:
    """One of a schedule's events, if it makes sense now."""
    is_owned = partition in world.client.owned
    match what:
        case "revoke" if is_owned:
            await world.rebalance(revoke=[partition])
        case "lose" if is_owned:
            epochs = [each.assignment_epoch for each in pc.statistics().partitions if each.partition == partition[1]]
            model.lost.update(epochs)
            await world.rebalance(lose=[partition])
        case "assign" if not is_owned:
            await world.rebalance(assign=[partition])
        case "produce":
            world.broker.add(partition, keys)
        case "pause":
            pc.pause([partition])
        case "hold":
            pc.pause()
        case "resume":
            pc.resume()


def watched(model: Model, patch: pytest.MonkeyPatch) -> None:
    """Have the model told what the core completes."""
    complete = Assignment.complete

    def told(assignment: Assignment[Any], record: Any) -> bool:
        has_counted = complete(assignment, record)
        if has_counted:
            model.completes(assignment, record)
        return has_counted

    patch.setattr(Assignment, "complete", told)


def refusing(refusals: Sequence[bool]) -> Iterator[Exception | None]:
    """What the outbox says."""
    return (DeliveryError("refused") if refused else None for refused in refusals)


@settings(max_examples=100)
@given(SCHEDULES)
def test_promises_hold(schedule: Schedule) -> None:
    """Key order, sizes and scopes; what is committed is what was completed; and in peace everything is."""
    world, outbox = World(), FakeOutbox()
    outbox.errors.extend(refusing(schedule.refusals))
    outbox.delay = 0.3
    graveyard(world)
    for partition, keys in zip(PARTITIONS, schedule.first, strict=True):
        world.broker.add(partition, keys)
    model = Model(world, outbox, schedule)
    world.broker.share = list(PARTITIONS)

    async def main() -> None:
        await live(world, model, schedule, trio.CancelScope())

    with pytest.MonkeyPatch.context() as patch, world.found():
        patch.setattr("trio_parallel_kafka.control.controller.ProducerOutbox", outbox)
        watched(model, patch)
        trio.run(main, clock=MockClock(autojump_threshold=0))

    for partition in PARTITIONS:
        said = named(world, partition)
        epochs = {epoch: done for (each, epoch), done in model.completed.items() if each == partition}
        assert said <= set().union(*epochs.values()), "committed without having been completed"
        kept = [done for epoch, done in epochs.items() if epoch not in model.lost]
        assert set().union(*kept) <= said, "completed, and not committed"
        again = Counter(itertools.chain(*kept))
        assert max(again.values(), default=1) == 1, "completed twice"
        if schedule.end == "in peace":
            assert said == set(range(world.broker.logs[partition].end))
    assert not world.client.left_owned
