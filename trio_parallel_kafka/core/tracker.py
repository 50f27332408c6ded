"""Which offsets of a partition are incomplete; position and map follow from it.

Theory of operation: a partition delivers offsets in rising order, with gaps (compaction, transaction
markers). The tracker keeps only what is incomplete, in the order seen, and where reading stands. All
else is derived: the position is the lowest incomplete offset, and whatever lies above it, below the next
offset, and isn't incomplete, is completed or doesn't exist.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from trio_parallel_kafka.core.ranges import OffsetRanges

T = TypeVar("T")


class OffsetWentBackError(ValueError):
    """An offset came that is below one seen before: the log isn't the one that was tracked."""


class OffsetTracker(Generic[T]):
    """Tracks one assignment's offsets.

    Args:
        position: the first offset that will be read.
        completed: ranges of offsets, start inclusive and end exclusive, that an earlier owner completed at
            or above ``position``. They are reported as not to be handled when they are seen.
    """

    __slots__ = ("_incomplete", "_inherited", "_next_offset")

    def __init__(self, position: int, completed: OffsetRanges = ()) -> None:
        self._incomplete: dict[int, T] = {}
        self._next_offset = position
        self._inherited = deque(completed)

    def __len__(self) -> int:
        """How many records were seen and aren't completed."""
        return len(self._incomplete)

    @property
    def next_offset(self) -> int:
        """One above the highest offset seen."""
        return self._next_offset

    @property
    def position(self) -> int:
        """The lowest offset not completed: what a commit may name, and no more."""
        return next(iter(self._incomplete), self._next_offset)

    @property
    def oldest(self) -> T | None:
        """The item at the position, or ``None`` when nothing is incomplete."""
        return next(iter(self._incomplete.values()), None)

    def __contains__(self, offset: int) -> bool:
        """Whether the record at this offset was seen and isn't completed."""
        return offset in self._incomplete

    def seen(self, offset: int, item: T) -> bool:
        """Note a delivered offset; say whether its record has to be handled.

        Raises:
            OffsetWentBackError: ``offset`` is below :attr:`next_offset`; nothing changed.
        """
        self._expect(offset)
        self._next_offset = offset + 1
        if self._inherited and self._was_completed(offset):
            return False
        self._incomplete[offset] = item
        return True

    def seen_all(self, offsets: Sequence[int], items: Sequence[T]) -> Sequence[T]:
        """Note several, whose offsets rise; return those that have to be handled.

        Raises:
            OffsetWentBackError: the first is below :attr:`next_offset`; nothing changed.
        """
        if self._inherited:
            return [item for offset, item in zip(offsets, items, strict=True) if self.seen(offset, item)]
        self._expect(offsets[0])
        self._incomplete.update(zip(offsets, items, strict=True))
        self._next_offset = offsets[-1] + 1
        return items

    def complete(self, offset: int) -> T:
        """Forget an incomplete offset and return its item.

        Raises:
            KeyError: the offset isn't incomplete; nothing changed.
        """
        return self._incomplete.pop(offset)

    def replace(self, offset: int, item: T) -> None:
        """Note another item in place of that of an incomplete offset."""
        assert offset in self._incomplete  # noqa: S101 - or it would be taken for one just seen
        self._incomplete[offset] = item

    def skip_to(self, offset: int) -> None:
        """Note that nothing is left to be delivered below ``offset`` (a log's end after markers)."""
        if offset > self._next_offset:
            self._next_offset = offset
            self._was_completed(offset)

    def completed_above(self) -> OffsetRanges:
        """What is completed at or above the position, as disjoint rising ranges."""
        ranges: list[tuple[int, int]] = []
        start = self.position
        for offset in self._incomplete:
            if offset > start:
                ranges.append((start, offset))
            start = offset + 1
        if self._incomplete and self._next_offset > start:
            ranges.append((start, self._next_offset))
        for first, end in self._inherited:
            if end <= self._next_offset:
                continue
            first = max(first, self._next_offset)  # noqa: PLW2901 - clipped to what wasn't read yet
            if ranges and ranges[-1][1] == first:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((first, end))
        return tuple(ranges)

    def _expect(self, offset: int) -> None:
        if offset < self._next_offset:
            message = f"offset {offset} came after offset {self._next_offset - 1}"
            raise OffsetWentBackError(message)

    def _was_completed(self, offset: int) -> bool:
        inherited = self._inherited
        while inherited and inherited[0][1] <= offset:
            inherited.popleft()
        return bool(inherited) and inherited[0][0] <= offset
