"""The offsets of some records, and which of them are done."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final


class Offsets:
    """Finds the first record that isn't done, from any offset on, in next to no time.

    Args:
        offsets: of all records; none is done yet.
    """

    __slots__ = ("_indexes", "_next", "_offsets")

    def __init__(self, offsets: Iterable[int]) -> None:
        self._offsets: Final = sorted(set(offsets))
        self._indexes: Final = {offset: index for index, offset in enumerate(self._offsets)}
        # Of a record that is done, one further on; of all others, and of the end, itself.
        self._next: Final = list(range(len(self._offsets) + 1))

    def done(self, offset: int) -> None:
        """This record is done; it may have been before. An offset without a record changes nothing."""
        index = self._indexes.get(offset)
        if index is not None and self._next[index] == index:
            self._next[index] = index + 1

    def first_undone(self, start: int, end: int) -> int | None:
        """The lowest offset from ``start`` up to ``end`` (exclusive) whose record isn't done, if there is one."""
        further = self._next
        index = bisect_left(self._offsets, start)
        while further[index] != index:
            further[index] = further[further[index]]
            index = further[index]
        if index == len(self._offsets) or self._offsets[index] >= end:
            return None
        return self._offsets[index]
