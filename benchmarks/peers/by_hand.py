"""What consumers written by hand, on whatever event loop, need beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks.job import Job

COMMIT_INTERVAL: Final = 1.0
"""Seconds."""

PATIENCE: Final = 30.0
"""Seconds without a record, after which a run has failed."""

BUFFERED_PER_HANDLER: Final = 4
"""Records read and not yet handled, for each handler at once, at least: neighbours in a partition may share a key."""


def buffered(job: Job, usual: int) -> int:
    """How many records may be read and not yet handled, about: what the job's options say, or enough."""
    return int(job.options.get("buffered", max(usual, BUFFERED_PER_HANDLER * job.concurrency)))


class Offsets:
    """Which offsets are being worked on, partition by partition, and hence what can be committed."""

    def __init__(self) -> None:
        # In the order of their offsets, as dictionaries keep what they were given: the first is the commit position.
        self._open: Final[defaultdict[int, dict[int, None]]] = defaultdict(dict)
        self._next: Final[dict[int, int]] = {}
        self._committed: Final[dict[int, int]] = {}

    def opened(self, partition: int, offset: int) -> None:
        """Note that a record was read."""
        self._open[partition][offset] = None
        self._next[partition] = offset + 1

    def completed(self, partition: int, offset: int) -> None:
        """Note that it is done."""
        del self._open[partition][offset]

    def take_commit(self) -> dict[int, int]:
        """Return the commit position of each partition in which it has moved, for the caller to commit."""
        positions = {each: next(iter(self._open[each]), end) for each, end in self._next.items()}
        moved = {each: position for each, position in positions.items() if self._committed.get(each) != position}
        self._committed.update(moved)
        return moved


class StallGuard:
    """Ends a run in which nothing happens any more: call it now and then.

    Args:
        done: tells how many records were handled.
        count: how many there are.
        clock: tells the time in seconds.
    """

    def __init__(self, done: Callable[[], int], count: int, clock: Callable[[], float]) -> None:
        self._done: Final = done
        self._count: Final = count
        self._clock: Final = clock
        self._before = -1
        self._since = 0.0

    def __call__(self) -> None:
        """Look whether there is progress.

        Raises:
            TimeoutError: if there has been none for :data:`PATIENCE` seconds.
        """
        done, now = self._done(), self._clock()
        if done != self._before:
            self._before, self._since = done, now
        elif now - self._since > PATIENCE:
            raise TimeoutError(f"handled {done} of {self._count}, then nothing more for {PATIENCE:g} s")


def check_options(options: Mapping[str, Any], *known: str) -> None:
    """Refuse options that nothing reads: a misspelt one would go unnoticed."""
    if unknown := set(options) - set(known):
        raise ValueError(f"no such options: {sorted(unknown)}; there are {sorted(known)}")
