"""What to commit, and what the broker has acknowledged.

Rules
-----

- What is to be committed is derived from the tracker each time: position and map together, in one entry.
- An assignment is clean only if the broker acknowledged exactly what is to be committed now.
- An entry of an assignment that isn't current is never made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from trio_parallel_kafka.core.assignments import Assignment, TopicPartition
from trio_parallel_kafka.core.offset_map import MAX_METADATA_LENGTH, encode


@attrs.frozen
class CommitEntry:
    """One partition's commit.

    Attributes:
        partition: which.
        assignment_epoch: the assignment in which it was made; in no other may it be sent.
        offset: the position, that is the next offset to read.
        metadata: the map of what completed above it.
        is_cut: the map didn't fit and lost its end.
        covered_to: what is completed at or above the position is in the map up to here (exclusive), beyond it isn't.
    """

    partition: TopicPartition
    assignment_epoch: int
    offset: int
    metadata: str
    is_cut: bool = attrs.field(default=False, eq=False)
    covered_to: int = attrs.field(default=0, eq=False)


class CommitLedger:
    """Compares what is with what is acknowledged."""

    def __init__(self) -> None:
        self._acknowledged: dict[TopicPartition, CommitEntry] = {}
        self._metadata_limit = MAX_METADATA_LENGTH

    def acknowledged(self, assignment: Assignment[Any]) -> CommitEntry | None:
        """The newest entry of this assignment that the broker holds."""
        entry = self._acknowledged.get(assignment.partition)
        if entry is None or entry.assignment_epoch != assignment.assignment_epoch:
            return None
        return entry

    def inherit(self, assignment: Assignment[Any], offset: int, metadata: str) -> None:
        """The broker held this when the assignment started."""
        self._acknowledged[assignment.partition] = CommitEntry(
            assignment.partition, assignment.assignment_epoch, offset, metadata
        )

    def forget(self, assignment: Assignment[Any]) -> None:
        """The assignment has ended."""
        self._acknowledged.pop(assignment.partition, None)

    def pending(self, assignments: Iterable[Assignment[Any]]) -> tuple[CommitEntry, ...]:
        """What differs from what is acknowledged."""
        entries = []
        for assignment in assignments:
            if assignment.is_current:
                entry = self.entry_of(assignment)
                if entry != self.acknowledged(assignment):
                    entries.append(entry)
        return tuple(entries)

    def acknowledge(self, entries: Iterable[CommitEntry], current: Mapping[TopicPartition, int]) -> None:
        """The broker took these; ``current`` holds the assignment epochs of now, the rest is forgotten."""
        for entry in entries:
            if current.get(entry.partition) == entry.assignment_epoch:
                self._acknowledged[entry.partition] = entry

    def metadata_refused(self) -> None:
        """The broker's bound on metadata (``offset.metadata.max.bytes``) is below the usual: use half of it."""
        self._metadata_limit //= 2

    def entry_of(self, assignment: Assignment[Any]) -> CommitEntry:
        """What is to be committed for an assignment at this moment."""
        position, completed = assignment.tracker.position, assignment.tracker.completed_above()
        encoded = encode(position, completed, topic_id=assignment.topic_id, limit=self._metadata_limit)
        is_cut = bool(completed) and encoded.covered_to < completed[-1][1]
        return CommitEntry(
            assignment.partition,
            assignment.assignment_epoch,
            position,
            encoded.text,
            is_cut=is_cut,
            covered_to=encoded.covered_to,
        )
