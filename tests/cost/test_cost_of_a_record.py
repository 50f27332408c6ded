"""What a record costs between the client and its completion, in bytecodes and in bytes: the same on any machine.

The figures are those of the change that last moved them. What makes a record dearer by more than 2 % has to be worth
it, and says so by changing its figure here; what makes it cheaper lowers the figure, so that it stays. Bytecodes leave
out what C does for each of them: ``python -m benchmarks.micro`` has times.
"""

from __future__ import annotations

import functools
import gc
import math
import sys
import tracemalloc
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from core.kit import steps_of

from benchmarks.micro.preloaded import messages
from benchmarks.micro.way import config, consume
from trio_parallel_kafka import BreakerPolicy, ConsumerConfig, RetryPolicy
from trio_parallel_kafka.config import Ordering
from trio_parallel_kafka.control.dispatcher import Dispatcher
from trio_parallel_kafka.control.totals import ControlTotals
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.execution import workers
from trio_parallel_kafka.record import Record
from trio_parallel_kafka.testing.simulation.scheduling import seeded

MANY_KEYS = 1000
UNIQUE = 0

KNOWN: Mapping[tuple[Ordering, int], float] = {
    (Ordering.KEY, MANY_KEYS): 345,
    (Ordering.KEY, UNIQUE): 381,
    (Ordering.UNORDERED, MANY_KEYS): 323,
    (Ordering.PARTITION, MANY_KEYS): 310,
}
"""Bytecodes a record, with a handler that does nothing, on CPython 3.11; others count differently."""


@pytest.fixture(autouse=True)
def _without_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing depends on how fast this machine is."""
    monkeypatch.setattr(workers, "SLICE", math.inf)


class StillClock(trio.abc.Clock):
    """Stands still, and costs what Trio's own does, for which a consumer may ask it for each record."""

    offset = 0.0

    def start_clock(self) -> None: ...

    def current_time(self) -> float:
        return self.offset + abs(0.0)

    def deadline_to_sleep_time(self, _deadline: float) -> float:
        return math.inf


def bytecodes(given: ConsumerConfig, keys: int) -> float:
    """How many a record takes: what 1,000 more of them add."""

    def steps(count: int) -> int:
        batches = messages(count, keys=keys, partitions=4)
        with seeded(1):
            return steps_of(lambda: trio.run(consume, batches, given, clock=StillClock()))

    return (steps(3000) - steps(2000)) / 1000


@functools.cache
def usual() -> float:
    """What a record of one of many keys takes by default."""
    return bytecodes(config(), MANY_KEYS)


if sys.version_info[:2] == (3, 11):

    @pytest.mark.parametrize(("ordering", "keys"), KNOWN)
    def test_known_cost(ordering: Ordering, keys: int) -> None:
        """A record takes as many bytecodes as it is known to take."""
        assert bytecodes(config(ordering=ordering), keys) == pytest.approx(KNOWN[ordering, keys], rel=0.02)


@pytest.mark.parametrize(
    "fields",
    [
        {"retry": RetryPolicy(max_attempts=3)},
        {"breaker": BreakerPolicy()},
        {"on_failure": "skip"},
        {"max_concurrency": 10_000},
        {"commit_interval": 0.5},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_features_that_are_not_triggered(fields: Mapping[str, Any]) -> None:
    """What is there for failures costs next to nothing as long as none comes."""
    assert bytecodes(config(**fields), MANY_KEYS) < 1.03 * usual()


def test_handler_timeout_that_is_not_reached() -> None:
    """A bound on attempts costs a look at the clock for each."""
    assert bytecodes(config(handler_timeout=30.0), MANY_KEYS) < 1.1 * usual()


def test_keys_of_one_record() -> None:
    """A key with one record has a lane for it, and that costs little."""
    assert bytecodes(config(), UNIQUE) < 1.25 * usual()


@pytest.mark.parametrize(("keys", "most"), [(MANY_KEYS, 420), (UNIQUE, 700)])
def test_buffered_records(keys: int, most: int) -> None:
    """A buffered record takes so many bytes beside the client's message."""
    member: Member[Record] = Member(FlowLimits(10**6, 10**9))
    member.start(member.assign(TopicPartition("orders", 0)), 0)
    dispatcher = Dispatcher(member, config(), ControlTotals())
    (batch,) = messages(10_000, keys=keys, partitions=1, batch=10_000)
    epochs = {each.partition: each.assignment_epoch for each in member.assignments}
    gc.collect()
    tracemalloc.start()
    try:
        dispatcher.dispatch(batch, epochs, 0.0)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / len(batch) < most
