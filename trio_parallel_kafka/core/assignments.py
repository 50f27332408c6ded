"""Who owns what: assignments, their phases, and the fence around them.

Rules
-----

- A partition has at most one current assignment. A partition that comes back gets a new one, with a higher
  ``assignment_epoch``; nothing is carried over.
- Phases only move forward, along :data:`TRANSITIONS`.
- While its position isn't known, an assignment can't be revoked, only ended: the position that its last commit
  would carry doesn't exist.
- A completion counts while the assignment is active or being revoked. Afterwards it changes nothing.
- Only a current assignment that is active or being revoked may be committed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from trio_parallel_kafka.core.lane import LaneGroup
from trio_parallel_kafka.core.ranges import OffsetRanges
from trio_parallel_kafka.core.tracker import OffsetTracker


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Phase(enum.Enum):
    """Where an assignment stands."""

    STARTING = "starting"
    """Owned, but its position isn't known yet: nothing is read."""
    ACTIVE = "active"
    REVOKING = "revoking"
    """No record is started any more; running handlers have their grace."""
    ENDED = "ended"


_ACTIVE: Final = Phase.ACTIVE
_REVOKING: Final = Phase.REVOKING
"""Looking a member up in its class takes three times as long, and these are asked about for every record."""

TRANSITIONS: Final = {
    Phase.STARTING: frozenset({Phase.ACTIVE, Phase.ENDED}),
    Phase.ACTIVE: frozenset({Phase.REVOKING, Phase.ENDED}),
    Phase.REVOKING: frozenset({Phase.ENDED}),
    Phase.ENDED: frozenset[Phase](),
}


class TransitionError(Exception):  # no RuntimeError: mypyc compiles no class of that
    """A phase change that the table doesn't have."""


class Tracked(Protocol):
    """What the core needs to know of a record.

    These are fields, private or not: on Python 3.11 a property takes as long as all else that a completion does.
    """

    @property
    def _offset(self) -> int: ...

    @property
    def _size(self) -> int:
        """Bytes of key and value."""


R = TypeVar("R", bound=Tracked)


class Assignment(Generic[R]):
    """One assignment of one partition: its tracker, its lanes, its bytes.

    Attributes:
        partition: which partition.
        assignment_epoch: rises with every assignment that this member ever gets.
        lanes: the lanes of the records that are buffered.
        buffered_bytes: bytes of key and value of all records seen and not completed.
        pause_reason: why nothing is fetched for it, or ``None`` while fetching goes on.
        low_mark: how many records that can run are little, if fetching has paused because enough was read.
        topic_id: the topic's 16-byte id when the assignment started, or ``None`` if it wasn't to be had.
    """

    __slots__ = (
        "_phase",
        "_tracker",
        "assignment_epoch",
        "buffered_bytes",
        "lanes",
        "low_mark",
        "partition",
        "pause_reason",
        "topic_id",
    )

    def __init__(self, partition: TopicPartition, assignment_epoch: int) -> None:
        self.partition: TopicPartition = partition
        self.assignment_epoch: int = assignment_epoch
        self.lanes: LaneGroup[R] = LaneGroup(self)
        self.buffered_bytes: int = 0
        self.topic_id: bytes | None = None
        self.pause_reason: str | None = None
        self.low_mark: int = 0
        self._phase = Phase.STARTING
        self._tracker: OffsetTracker[R] = OffsetTracker(0)

    def __repr__(self) -> str:
        return f"<Assignment {self.partition} epoch={self.assignment_epoch} {self._phase.value}>"

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def tracker(self) -> OffsetTracker[R]:
        """The offsets; meaningful once the assignment has started."""
        return self._tracker

    @property
    def is_current(self) -> bool:
        """Whether completions count and commits are allowed."""
        return self._phase is _ACTIVE or self._phase is _REVOKING

    def start(self, position: int, completed: OffsetRanges = (), topic_id: bytes | None = None) -> None:
        """The position is known: reading begins there."""
        self._move(Phase.ACTIVE)
        self._tracker = OffsetTracker(position, completed)
        self.topic_id = topic_id

    def begin_revoke(self) -> None:
        self._move(Phase.REVOKING)

    def end(self) -> None:
        self._move(Phase.ENDED)

    def seen(self, record: R) -> bool:
        """Note a delivered record; say whether it has to be handled.

        Raises:
            OffsetWentBackError: see :meth:`OffsetTracker.seen`.
        """
        if not self._tracker.seen(record._offset, record):  # noqa: SLF001
            return False
        self.buffered_bytes += record._size  # noqa: SLF001
        return True

    def seen_all(self, offsets: Sequence[int], records: Sequence[R]) -> Sequence[R]:
        """Note several, whose offsets rise; return those that have to be handled.

        Raises:
            OffsetWentBackError: see :meth:`OffsetTracker.seen_all`.
        """
        new = self._tracker.seen_all(offsets, records)
        self.buffered_bytes += sum([record._size for record in new])  # noqa: SLF001
        return new

    def complete(self, record: R) -> bool:
        """The handler returned. ``False``: too late, the assignment has ended and nothing changed."""
        if self._phase is not _ACTIVE and self._phase is not _REVOKING:
            return False
        self._tracker.complete(record._offset)  # noqa: SLF001
        self.buffered_bytes -= record._size  # noqa: SLF001
        return True

    def replace(self, record: R) -> None:
        """The record is to be attempted again, as this one. Without effect once the assignment has ended."""
        if self.is_current:
            self._tracker.replace(record._offset, record)  # noqa: SLF001

    def _move(self, phase: Phase) -> None:
        if phase not in TRANSITIONS[self._phase]:
            message = f"{self!r} can't become {phase.value}"
            raise TransitionError(message)
        self._phase = phase


class AssignmentRegistry(Generic[R]):
    """The current assignments of this member, by partition."""

    def __init__(self) -> None:
        self._current: dict[tuple[str, int], Assignment[R]] = {}
        self._last_epoch = 0

    def __iter__(self) -> Iterator[Assignment[R]]:
        return iter(tuple(self._current.values()))

    def __len__(self) -> int:
        return len(self._current)

    def get(self, partition: tuple[str, int]) -> Assignment[R] | None:
        return self._current.get(partition)

    def assign(self, partition: TopicPartition) -> Assignment[R]:
        """Open a new assignment.

        Raises:
            TransitionError: the partition has a current assignment.
        """
        if partition in self._current:
            message = f"{self._current[partition]!r} is still current"
            raise TransitionError(message)
        self._last_epoch += 1
        assignment: Assignment[R] = Assignment(partition, self._last_epoch)
        self._current[partition] = assignment
        return assignment

    def end(self, assignment: Assignment[R]) -> None:
        """End an assignment and forget it."""
        assignment.end()
        del self._current[assignment.partition]
