"""Which records are done, in memory that all members share: checked while it happens, however many there are.

Records are numbered, and their keys take turns; so a record's number says which turn of which key it is. A turn may
begin once the one before has ended, wherever that was; a turn that has ended before is a replay.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import attrs


@attrs.define
class Faults:
    """What one member has seen go wrong, and what may happen.

    Attributes:
        out_of_order: records that began before the one before them in their key had ended.
        overlaps: records that began while another of their key was being handled.
        replays: records that began though they had ended before.
    """

    out_of_order: int = 0
    overlaps: int = 0
    replays: int = 0


def sum_of(faults: Iterable[Faults]) -> Faults:
    """Those of several members."""
    each = list(faults)
    return Faults(
        sum(one.out_of_order for one in each), sum(one.overlaps for one in each), sum(one.replays for one in each)
    )


class Ledger:
    """The turns that have ended, by key.

    Args:
        path: the file that is shared; it is made if it isn't there.
        keys: how many keys take turns.
    """

    def __init__(self, path: Path, keys: int) -> None:
        size = keys * 9
        with path.open("a+b") as file:
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)
        self._view = memoryview(self._memory)
        self._ended = self._view[: keys * 8].cast("Q")
        self._busy = self._view[keys * 8 :]
        self._keys = keys
        self.faults = Faults()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_args: object) -> None:
        for view in (self._ended, self._busy, self._view):
            view.release()
        self._memory.close()

    @contextmanager
    def handling(self, number: int) -> Iterator[None]:
        """Note that a record is being handled, and that it is done unless that raises."""
        turn, key = divmod(number, self._keys)
        ended, busy = self._ended, self._busy
        if busy[key]:
            self.faults.overlaps += 1
        if turn > ended[key]:
            self.faults.out_of_order += 1
        elif turn < ended[key]:
            self.faults.replays += 1
        busy[key] = 1
        try:
            yield
            ended[key] = max(ended[key], turn + 1)
        finally:
            busy[key] = 0

    def done(self) -> int:
        """How many records are done, if none was out of order."""
        return sum(self._ended)

    def missing(self, produced: int) -> int:
        """How many of so many records aren't done."""
        turns, rest = divmod(produced, self._keys)
        return sum(max(turns + (key < rest) - ended, 0) for key, ended in enumerate(self._ended))
