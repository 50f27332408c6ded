"""Sets of offsets as sorted ranges, and the two shapes in which commit metadata spells them.

A range is half open: its start is in it, its end is not. A set of them is sorted, its
ranges are never empty and never touch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

OffsetRanges: TypeAlias = tuple[tuple[int, int], ...]
"""Disjoint half-open ranges of offsets, ascending; what completed at or above a commit position."""

MAX_POSITION: Final = 2**63 - 1
"""The highest offset that Kafka can commit, hence the highest end of a range."""

_COMPLETED_BITS: Final = re.compile("1+")


class MapError(ValueError):
    """Commit metadata that can't be trusted as a map of completed offsets; the text says why."""


def from_runs(base: int, runs: Iterable[int]) -> OffsetRanges:
    """Read run lengths that alternate between incomplete and completed offsets.

    Args:
        base: the offset at which the first run starts.
        runs: the lengths, in offsets; the first run is incomplete and may be empty, the
            last is completed.

    Returns:
        The completed offsets.

    Raises:
        MapError: a run is empty or negative, the last run is incomplete, or an offset is
            out of Kafka's range.
    """
    edges = [base]
    for run in runs:
        if run < 1 and (run < 0 or len(edges) > 1):
            raise MapError(f"a run of {run} offsets")
        edges.append(edges[-1] + run)
    if len(edges) % 2 == 0:
        raise MapError("the last run isn't a completed one")
    _check_bounds(base, edges[-1])
    return tuple(zip(edges[1::2], edges[2::2], strict=True))


def from_bits(base: int, bits: str) -> OffsetRanges:
    """Read one character an offset, ``"1"`` where it is completed.

    Args:
        base: the offset of the first character.
        bits: the characters, ``"0"`` and ``"1"``.

    Returns:
        The completed offsets.

    Raises:
        MapError: an offset is out of Kafka's range.
    """
    _check_bounds(base, base + len(bits))
    return tuple((base + run.start(), base + run.end()) for run in _COMPLETED_BITS.finditer(bits))


def _check_bounds(start: int, end: int) -> None:
    if start < 0 or end > MAX_POSITION:
        raise MapError("offsets out of Kafka's range")
