"""What the tests of the core share: a record, and the whole state as a value."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, TypeVar

import attrs

from trio_parallel_kafka.core.assignments import Assignment, TopicPartition
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.lane import Lane, LaneGroup
from trio_parallel_kafka.core.lanes import LaneScheduler
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.core.ranges import OffsetRanges

T = TypeVar("T")

ORDERS = TopicPartition("orders", 0)
WIDE = FlowLimits(max_records=1000, max_bytes=10**6)


@attrs.frozen
class Item:
    """A record, as far as the core looks at it."""

    _offset: int
    _size: int = 1
    attempt: int = 1

    @property
    def offset(self) -> int:
        """Of the record."""
        return self._offset

    @property
    def size(self) -> int:
        """Of the record, in bytes."""
        return self._size


def new_member(limits: FlowLimits = WIDE) -> Member[Item]:
    """Make a member that owns nothing."""
    return Member(limits)


def started(member: Member[Item], position: int = 0, completed: OffsetRanges = ()) -> Assignment[Item]:
    """Assign the one partition of a member, and start it."""
    assignment = member.assign(ORDERS)
    member.start(assignment, position, completed)
    return assignment


def taken(member: Member[Item]) -> Lane[Item]:
    """Take a lane that has to be ready."""
    lane = member.lanes.take()
    assert lane is not None
    return lane


def steps_of(call: Callable[[], object]) -> int:
    """Count the bytecodes that a call runs: what it costs, whatever else the machine does."""
    _count_steps(lambda: None)  # Python 3.12 tells of bytecodes from the second time on
    return _count_steps(call)


def _count_steps(call: Callable[[], object]) -> int:
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        if frame.f_code.co_qualname.startswith("Moment."):
            return None
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    gc.disable()  # there are callbacks of it
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
        gc.enable()
    return steps


class Moment(float):
    """A time that counts how often such times are compared."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        Moment.compared += 1
        return super().__lt__(other)

    __hash__ = float.__hash__

    def __eq__(self, other: object) -> bool:
        Moment.compared += 1
        return super().__eq__(other)


def to_ranges(offsets: Iterable[int]) -> OffsetRanges:
    """Write a set of offsets as ranges, the plain way."""
    ranges: list[tuple[int, int]] = []
    for offset in sorted(offsets):
        if ranges and ranges[-1][1] == offset:
            ranges[-1] = (ranges[-1][0], offset + 1)
        else:
            ranges.append((offset, offset + 1))
    return tuple(ranges)


def to_offsets(ranges: OffsetRanges) -> set[int]:
    """Spell ranges out."""
    return {offset for start, end in ranges for offset in range(start, end)}


def state_of_lane(lane: Lane[Any]) -> tuple[object, ...]:
    """A lane's whole state, as a value."""
    return (
        lane.key,
        records_of(lane),
        lane.waiting,
        lane.taken,
        lane.parked_until,
        lane.lingers,
        lane.is_stuck,
        lane.error,
    )


def records_of(lane: Lane[T]) -> list[T]:
    """All records of a lane that is in its group, in order."""
    return [lane.head, *(lane.behind or ())]


def state_of_group(group: LaneGroup[Any]) -> tuple[object, ...]:
    """A group's whole state, as a value."""
    return (
        tuple(map(state_of_lane, group.by_key.values())),
        tuple(map(state_of_lane, group.ready)),
        tuple(group.loose),
        group.loose_is_next,
        tuple((until, order, state_of_lane(lane)) for until, order, lane in group.parked),
        tuple(map(state_of_lane, group.sealed)),
        group.stuck,
        group.is_held,
        group.is_closed,
    )


def is_dropped(group: LaneGroup[Any]) -> bool:
    """Whether a group is closed, and has nothing that it could hand out or count."""
    return group.is_closed and not (group.by_key or group.is_ready or group.parked or group.sealed or group.stuck)


def state_of_scheduler(scheduler: LaneScheduler[Any]) -> tuple[object, ...]:
    """A scheduler's whole state, as a value."""
    return (
        tuple(map(id, scheduler._turn)),
        tuple(map(id, scheduler._with_parked)),
        sorted(scheduler.holds),
        scheduler.is_held,
    )


def state_of_assignment(assignment: Assignment[Item]) -> tuple[object, ...]:
    """An assignment's whole state, as a value."""
    tracker = assignment.tracker
    return (
        assignment.partition,
        assignment.assignment_epoch,
        assignment.phase,
        assignment.pause_reason,
        assignment.low_mark,
        assignment.topic_id,
        assignment.buffered_bytes,
        tuple(tracker._incomplete.items()),
        tuple(tracker._inherited),
        tracker.next_offset,
        state_of_group(assignment.lanes),
    )


def state_of(member: Member[Item], *others: Assignment[Item]) -> tuple[object, ...]:
    """A member's whole state, as a value; with that of assignments that it forgot."""
    return (
        tuple(map(state_of_assignment, member.assignments)),
        tuple(map(state_of_assignment, others)),
        member.assignments._last_epoch,
        state_of_scheduler(member.lanes),
        tuple(member.ledger._acknowledged.items()),
        member.ledger._metadata_limit,
    )
