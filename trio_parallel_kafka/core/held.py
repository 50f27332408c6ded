"""Outputs that wait for the transaction that takes them along.

Rules
-----

- What is held goes with its record: into the first transaction that says its record is done, whether by the position or
  by the map beside it, and is kept until that is committed. So it is there for another if that one is aborted.
- Outputs are written in the order in which they were held, which for each lane is the order of its records.
- What the map is too short to tell of can't go yet: it is *beyond the map*, and doesn't count towards the bound, for no
  transaction could make room of it.
- An assignment that has ended takes its outputs along: its records will be handled again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

import attrs

from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.commits import CommitEntry

T = TypeVar("T")


@attrs.frozen(eq=False)
class Held(Generic[T]):
    """What one record resulted in.

    Attributes:
        assignment: in which the record was handled.
        offset: the record's.
        outputs: in their order.
        size: their bytes.
    """

    assignment: Assignment[Any]
    offset: int
    outputs: Sequence[T]
    size: int

    def fits(self, entry: CommitEntry) -> bool:
        """Whether a commit says that the record is done."""
        if self.offset < entry.offset:
            return True
        return self.offset < entry.covered_to and self.offset not in self.assignment.tracker


class HeldOutputs(Generic[T]):
    """See the module.

    Args:
        max_count: how many outputs may be held.
        max_size: how many bytes of them.
    """

    def __init__(self, max_count: int, max_size: int) -> None:
        self._max_count: Final = max_count
        self._max_size: Final = max_size
        self._held: Final[dict[Held[T], None]] = {}
        self._beyond: frozenset[Held[T]] = frozenset()
        self._beyond_count = self._beyond_size = 0
        self.count: int = 0
        """How many outputs are held."""
        self.size: int = 0
        """Their bytes."""

    @property
    def is_full(self) -> bool:
        """Whether no more may be held until some have gone."""
        return self._fills(1)

    @property
    def is_half_full(self) -> bool:
        """Whether it is time for a transaction."""
        return self._fills(2)

    @property
    def beyond_the_map(self) -> set[Assignment[Any]]:
        """The assignments of which something was beyond the map when that was last looked at."""
        return {each.assignment for each in self._beyond}

    def hold(self, held: Held[T]) -> None:
        """Hold what a record resulted in; its record is completed next."""
        self._held[held] = None
        self.count += len(held.outputs)
        self.size += held.size

    def fitting(self, entries: Iterable[CommitEntry]) -> list[Held[T]]:
        """What goes with these commits, in the order in which it was held."""
        by_assignment = {(entry.partition, entry.assignment_epoch): entry for entry in entries}
        found = []
        for held in self._held:
            entry = by_assignment.get((held.assignment.partition, held.assignment.assignment_epoch))
            if entry is not None and held.fits(entry):
                found.append(held)
        return found

    def set_beyond(self, entries: Iterable[CommitEntry]) -> None:
        """Look which of it doesn't go with any commit there is to be made."""
        self._set_beyond(frozenset(self._held).difference(self.fitting(entries)))

    def release(self, gone: Collection[Held[T]]) -> None:
        """This needn't be held any more."""
        self._set_beyond(self._beyond.difference(gone))
        for held in gone:
            if held in self._held:
                del self._held[held]
                self.count -= len(held.outputs)
                self.size -= held.size

    def drop_ended(self) -> None:
        """Let go of what belongs to assignments that have ended."""
        self.release([held for held in self._held if not held.assignment.is_current])

    def _set_beyond(self, beyond: frozenset[Held[T]]) -> None:
        self._beyond = beyond
        self._beyond_count = sum(len(held.outputs) for held in beyond)
        self._beyond_size = sum(held.size for held in beyond)

    def _fills(self, parts: int) -> bool:
        """Whether what counts fills one of so many parts of the bound."""
        count, size = self.count - self._beyond_count, self.size - self._beyond_size
        return count * parts >= self._max_count or size * parts >= self._max_size
