"""What the tests of the core share: a record, a buffer that watches how it is used, and the whole state as a value."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import attrs

from trio_parallel_kafka.core.assignments import Assignment, TopicPartition
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.lanes import Lane, LaneGroup, LaneScheduler
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.core.ranges import OffsetRanges

T = TypeVar("T")

ORDERS = TopicPartition("orders", 0)
WIDE = FlowLimits(max_records=1000, max_bytes=10**6)


@attrs.frozen
class Item:
    """A record, as far as the core looks at it."""

    offset: int
    size: int = 1


class WatchedBuffer(Generic[T]):
    """A buffer that refuses what a memory channel would refuse, and shows what is in it."""

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.is_closed = False

    def send_nowait(self, value: T) -> None:
        assert not self.is_closed, "sent into a closed buffer"
        self.items.append(value)

    def receive_nowait(self) -> T:
        assert not self.is_closed, "received from a closed buffer"
        return self.items.popleft()

    def close(self) -> None:
        assert not self.is_closed, "closed twice"
        self.is_closed = True


class BufferMaker(Generic[T]):
    """Makes buffers and remembers them."""

    def __init__(self) -> None:
        self.made: list[WatchedBuffer[T]] = []

    def __call__(self) -> WatchedBuffer[T]:
        self.made.append(WatchedBuffer())
        return self.made[-1]

    @property
    def open(self) -> list[WatchedBuffer[T]]:
        return [buffer for buffer in self.made if not buffer.is_closed]


def new_member(limits: FlowLimits = WIDE) -> Member[Item]:
    """Make a member that owns nothing."""
    return Member(limits, BufferMaker())


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
    buffer = lane.buffer
    behind = tuple(buffer.items) if isinstance(buffer, WatchedBuffer) else ()
    return lane.key, lane.head, lane.waiting, behind, lane in lane.group.sealed


def state_of_group(group: LaneGroup[Any]) -> tuple[object, ...]:
    """A group's whole state, as a value."""
    return (
        tuple(map(state_of_lane, group.by_key.values())),
        tuple(map(state_of_lane, group.ready)),
        tuple(map(state_of_lane, group.sealed)),
        group.is_closed,
    )


def state_of_scheduler(scheduler: LaneScheduler[Any]) -> tuple[object, ...]:
    """A scheduler's whole state, as a value."""
    return tuple(map(id, scheduler._turn)), tuple(map(id, scheduler._spare))


def state_of_assignment(assignment: Assignment[Item]) -> tuple[object, ...]:
    """An assignment's whole state, as a value."""
    tracker = assignment.tracker
    return (
        assignment.partition,
        assignment.assignment_epoch,
        assignment.phase,
        assignment.pause_reason,
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
