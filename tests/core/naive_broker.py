"""A naive broker and what drives its members: records, a committed offset with its metadata, and what was done."""

from __future__ import annotations

from collections.abc import Hashable

import attrs
from core.kit import Item

from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.core.metadata import read_metadata
from trio_parallel_kafka.core.ranges import OffsetRanges


@attrs.define
class Log:
    """One partition at the broker, and what was really done with it."""

    records: list[tuple[Item, Hashable | None]] = attrs.field(factory=list)
    end: int = 0
    committed: tuple[int, str] | None = None
    done: set[int] = attrs.field(factory=set)
    owner: Tenure | None = None
    must_not_replay: set[int] = attrs.field(factory=set)

    @property
    def held(self) -> tuple[int, OffsetRanges]:
        """The position and the map that a new owner would read."""
        offset, metadata = self.committed or (0, "")
        return offset, read_metadata(metadata, offset).completed

    def covered(self) -> set[int]:
        """The records that nobody would handle any more."""
        position, completed = self.held
        return {
            item.offset
            for item, _ in self.records
            if item.offset < position or any(start <= item.offset < end for start, end in completed)
        }


@attrs.define(eq=False)
class Process:
    """One member, with what its workers hold and what it has sent."""

    member: Member[Item]
    hands: list[Lane[Item]] = attrs.field(factory=list)
    sent: dict[CommitEntry, bool | None] = attrs.field(factory=dict)
    assignments: list[Assignment[Item]] = attrs.field(factory=list)

    def hands_of(self, assignment: Assignment[Item]) -> list[Lane[Item]]:
        return [lane for lane in self.hands if lane.group.owner is assignment]


@attrs.define(eq=False)
class Tenure:
    """One assignment, as its driver sees it: ``done`` is what an earlier owner handed over, or completed in it."""

    process: Process
    assignment: Assignment[Item]
    fetch_from: int = 0
    covered: frozenset[int] = frozenset()
    started: set[int] = attrs.field(factory=set)
    done: set[int] = attrs.field(factory=set)
