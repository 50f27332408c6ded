"""The whole core of one group member: assignments, lanes, flow control and commits as one machine.

The shell calls it with what happens and does what it answers; it never waits, and a call that fails changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, Generic, TypeVar

from trio_parallel_kafka.core.assignments import (
    Assignment,
    AssignmentRegistry,
    Phase,
    TopicPartition,
    Tracked,
)
from trio_parallel_kafka.core.commits import CommitEntry, CommitLedger
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.core.lanes import LaneScheduler
from trio_parallel_kafka.core.ranges import OffsetRanges

R = TypeVar("R", bound=Tracked)

BUFFER_FULL: Final = "buffer full"
ENOUGH_READ: Final = "enough read ahead"
POSITION_UNKNOWN: Final = "position unknown"
STOPPING: Final = "stopping"

FULL: Final = frozenset({BUFFER_FULL, ENOUGH_READ})
"""Why fetching pauses until enough of what was read is handled."""


class Member(Generic[R]):
    """See the module.

    Args:
        limits: the bounds of each partition.
    """

    def __init__(self, limits: FlowLimits) -> None:
        self.limits: FlowLimits = limits
        self.assignments: Final[AssignmentRegistry[R]] = AssignmentRegistry()
        self.lanes: Final[LaneScheduler[R]] = LaneScheduler()
        self.ledger: Final = CommitLedger()

    def assign(self, partition: TopicPartition) -> Assignment[R]:
        """A partition was assigned; where to start isn't known yet."""
        assignment = self.assignments.assign(partition)
        assignment.pause_reason = POSITION_UNKNOWN
        return assignment

    def start(
        self,
        assignment: Assignment[R],
        position: int,
        completed: OffsetRanges = (),
        topic_id: bytes | None = None,
    ) -> None:
        """Where to start is known."""
        assignment.start(position, completed, topic_id)
        assignment.pause_reason = None

    def deliver(self, assignment: Assignment[R], key: Hashable | None, record: R) -> bool:
        """A record was fetched. ``False``: an earlier owner completed it.

        Raises:
            OffsetWentBackError: see :meth:`OffsetTracker.seen`.
            TypeError: the key can't be hashed; nothing changed.
        """
        hash(key)
        if not assignment.seen(record):
            return False
        self.lanes.offer(assignment.lanes, key, record)
        return True

    def deliver_all(
        self,
        assignment: Assignment[R],
        keys: Sequence[Hashable | None],
        offsets: Sequence[int],
        records: Sequence[R],
    ) -> int:
        """Records were fetched, whose offsets rise; say how many of them an earlier owner didn't complete.

        Args:
            assignment: theirs.
            keys: one for each; each can be hashed, and compared.
            offsets: one for each.
            records: at least one.

        Raises:
            OffsetWentBackError: see :meth:`OffsetTracker.seen_all`.
        """
        new = assignment.seen_all(offsets, records)
        if len(new) < len(records):
            key_of = dict(zip(offsets, keys, strict=True))
            keys = [key_of[record._offset] for record in new]  # noqa: SLF001 - a field of Tracked
        self.lanes.offer_all(assignment.lanes, keys, new)
        return len(new)

    def deliver_loose(self, assignment: Assignment[R], offsets: Sequence[int], records: Sequence[R]) -> int:
        """The same for records of which none has an order."""
        new = assignment.seen_all(offsets, records)
        self.lanes.offer_loose(assignment.lanes, new)
        return len(new)

    def deliver_failed(self, assignment: Assignment[R], record: R, error: Exception) -> bool:
        """The same for a record that has failed for good before it got a key; it has a lane of its own."""
        if not assignment.seen(record):
            return False
        self.lanes.offer(assignment.lanes, None, record).error = error
        return True

    def begin_revoke(self, assignment: Assignment[R]) -> None:
        """Nothing of it is started any more; what runs may still complete."""
        assignment.begin_revoke()
        self.lanes.close(assignment.lanes)

    def end(self, assignment: Assignment[R]) -> None:
        """It was let go, or lost: whatever completes from now on changes nothing."""
        if not assignment.lanes.is_closed:
            self.lanes.close(assignment.lanes)
        self.assignments.end(assignment)
        self.ledger.forget(assignment)

    def pending_commits(self, assignments: Iterable[Assignment[R]] | None = None) -> tuple[CommitEntry, ...]:
        """What differs from what the broker has acknowledged."""
        return self.ledger.pending(self.assignments if assignments is None else assignments)

    def acknowledge(self, entries: Iterable[CommitEntry]) -> None:
        """The broker took these commits."""
        self.ledger.acknowledge(entries, {each.partition: each.assignment_epoch for each in self.assignments})

    def pause_if_full(self, assignment: Assignment[R]) -> bool:
        """Say whether fetching of this partition has to pause now."""
        if assignment.pause_reason is not None or not self.limits.is_full(
            len(assignment.tracker), assignment.buffered_bytes
        ):
            return False
        assignment.pause_reason = BUFFER_FULL
        return True

    def pause_if_enough(self, assignment: Assignment[R], count_in_hands: Callable[[Assignment[R]], int]) -> bool:
        """Say whether fetching has to pause because lanes wait for workers that have enough to do for a while.

        Args:
            assignment: the partition's.
            count_in_hands: how many of its records workers have now; asked only if that decides.
        """
        runnable = self._runnable(assignment)
        if assignment.pause_reason is not None or not assignment.lanes.is_ready or not self.limits.is_enough(runnable):
            return False
        if sum([len(each.tracker) for each in self.assignments]) <= self.limits.read_in_all:
            return False
        in_hands = count_in_hands(assignment)
        waiting = runnable - in_hands
        if not self.limits.is_enough(waiting):
            return False
        assignment.pause_reason = ENOUGH_READ
        assignment.low_mark = in_hands + waiting * 2 // 3
        return True

    def resume_if_low(self, assignment: Assignment[R], stuck: Iterable[Lane[R]] = ()) -> bool:
        """Say whether fetching of a partition goes on that was full; then ``stuck`` lanes' records aren't runnable."""
        if assignment.pause_reason == ENOUGH_READ:
            is_full = self.limits.is_full(len(assignment.tracker), assignment.buffered_bytes)
            return self._resume_if(assignment, may=self._runnable(assignment) <= assignment.low_mark and not is_full)
        if assignment.pause_reason != BUFFER_FULL:
            return False
        may = self.limits.may_resume(
            len(assignment.tracker), assignment.buffered_bytes, self._runnable(assignment, stuck)
        )
        return self._resume_if(assignment, may=may)

    def resume_if_dry(self, assignment: Assignment[R], in_hands: int, stuck: Iterable[Lane[R]] = ()) -> bool:
        """Say whether fetching goes on, because what was enough waits behind running records, and not for workers.

        Args:
            assignment: the partition's.
            in_hands: how many of its records workers have now, without those that are stuck.
            stuck: lanes whose records don't count as runnable, beside those that are parked or sealed.
        """
        if assignment.pause_reason != ENOUGH_READ or assignment.lanes.is_ready:
            return False
        waiting = self._runnable(assignment, stuck) - in_hands
        may = self.limits.is_short(len(assignment.tracker), assignment.buffered_bytes, waiting)
        return self._resume_if(assignment, may=may)

    def _runnable(self, assignment: Assignment[R], stuck: Iterable[Lane[R]] = ()) -> int:
        return len(assignment.tracker) - assignment.lanes.stuck - sum(lane.waiting + 1 for lane in stuck)

    def _resume_if(self, assignment: Assignment[R], *, may: bool) -> bool:
        if may and assignment.phase is Phase.ACTIVE:
            assignment.pause_reason = None
            return True
        return False
