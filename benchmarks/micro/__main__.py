"""How long the parts of a record's way take, by pyperf: ``python -m benchmarks.micro [-o FILE] [--fast]``.

Each figure is for one record, or for one map. ``python -m pyperf compare_to`` compares two files; for what must hold on
any machine see ``tests/cost``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import pyperf
import trio
from confluent_kafka import Message

from benchmarks.micro.preloaded import messages
from benchmarks.micro.way import config, consume
from trio_parallel_kafka import ConsumerConfig
from trio_parallel_kafka.control.dispatcher import Dispatcher
from trio_parallel_kafka.control.totals import ControlTotals
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.core.offset_map import decode, encode
from trio_parallel_kafka.record import Record

BATCH: Final = 500
MANY_KEYS: Final = 1000
UNIQUE: Final = 0

Timed = Callable[[int], float]


def started() -> Member[Record]:
    """A member that reads one partition, without bounds."""
    member: Member[Record] = Member(FlowLimits(10**9, 10**12))
    member.start(member.assign(TopicPartition("orders", 0)), 0)
    return member


def dispatching(keys: int) -> Timed:
    """From a fetched batch into lanes; they are emptied between two batches."""
    (batch,) = messages(BATCH, keys=keys, partitions=1, batch=BATCH)

    def run(loops: int) -> float:
        spent = 0.0
        for _ in range(loops):
            member = started()
            dispatcher = Dispatcher(member, config(), ControlTotals())
            epochs = {each.partition: each.assignment_epoch for each in member.assignments}
            began = time.perf_counter()
            dispatcher.dispatch(batch, epochs, 0.0)
            spent += time.perf_counter() - began
        return spent

    return run


def serving(keys: int) -> Timed:
    """Out of lanes and completed, without a handler."""
    (batch,) = messages(BATCH, keys=keys, partitions=1, batch=BATCH)

    def run(loops: int) -> float:
        spent = 0.0
        for _ in range(loops):
            member = started()
            (assignment,) = member.assignments
            epochs = {assignment.partition: assignment.assignment_epoch}
            Dispatcher(member, config(), ControlTotals()).dispatch(batch, epochs, 0.0)
            lanes = member.lanes
            began = time.perf_counter()
            while (lane := lanes.take()) is not None:
                assignment.complete(lane.head)
                while lanes.advance(lane):
                    assignment.complete(lane.head)
            spent += time.perf_counter() - began
        return spent

    return run


def all_the_way(keys: int, given: ConsumerConfig) -> Timed:
    """From a fetched batch to completion, by the whole consumer; only the client is left out."""

    def batches(count: int) -> list[list[Message]]:
        return messages(count, keys=keys, partitions=16, batch=BATCH)

    def run(loops: int) -> float:
        given_batches = batches(loops * BATCH)
        began = time.perf_counter()
        trio.run(consume, given_batches, given)
        return time.perf_counter() - began

    return run


def encoding(gaps: int) -> Timed:
    """The map of a commit above one record that hangs."""
    completed = tuple((10 * each + 1, 10 * each + 6) for each in range(gaps))

    def run(loops: int) -> float:
        began = time.perf_counter()
        for _ in range(loops):
            encode(0, completed)
        return time.perf_counter() - began

    return run


def decoding(gaps: int) -> Timed:
    """The same, read at the start of an assignment."""
    text = encode(0, tuple((10 * each + 1, 10 * each + 6) for each in range(gaps))).text

    def run(loops: int) -> float:
        began = time.perf_counter()
        for _ in range(loops):
            decode(text, 0)
        return time.perf_counter() - began

    return run


def main() -> None:
    """Run all, as pyperf's options have it."""
    runner = pyperf.Runner()
    for name, keys in (("many keys", MANY_KEYS), ("unique keys", UNIQUE)):
        runner.bench_time_func(f"dispatch, {name}", dispatching(keys), inner_loops=BATCH)
        runner.bench_time_func(f"take and complete, {name}", serving(keys), inner_loops=BATCH)
        runner.bench_time_func(f"all the way, {name}", all_the_way(keys, config()), inner_loops=BATCH)
    for gaps in (10, 1000):
        runner.bench_time_func(f"encode a map, {gaps} gaps", encoding(gaps))
        runner.bench_time_func(f"decode a map, {gaps} gaps", decoding(gaps))


if __name__ == "__main__":
    main()
