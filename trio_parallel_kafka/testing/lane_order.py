"""Whether the records of one lane are started in their order."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

from trio_parallel_kafka.testing.offsets import Offsets
from trio_parallel_kafka.testing.timeline import Attempt, Tenure


class LaneOrder:
    """Follows the attempts at the records of a topic, partition and key.

    Args:
        offsets: of all records of the lane that are known.
    """

    def __init__(self, offsets: Iterable[int]) -> None:
        self._records: Final = Offsets(offsets)
        self._given_up: Final[set[int]] = set()
        self._last_in_call: Final[dict[tuple[Tenure, int], int]] = {}
        self._courses: Final[dict[tuple[Tenure, int], _Course]] = {}

    def started(self, attempt: Attempt) -> str | None:
        """An attempt starts; say what is wrong with that, if anything is."""
        start = attempt.start
        offset = start.place.offset
        call = attempt.tenure, start.call
        # What comes before it in its batch was looked at when that was started, just now.
        undone = self._records.first_undone(self._last_in_call.get(call, -1) + 1, offset)
        if undone is not None:
            return f"before offset {undone} of its lane was completed or given up"
        self._last_in_call[call] = offset
        assignment = attempt.tenure, start.assignment_epoch
        course = self._courses.get(assignment)
        if course is None:
            course = self._courses[assignment] = _Course()
        return course.started(offset, start.call, self._given_up)

    def completed(self, attempt: Attempt) -> None:
        """An attempt has ended well."""
        self._records.done(attempt.start.place.offset)
        self._courses[attempt.tenure, attempt.start.assignment_epoch].completed(attempt.start.place.offset)

    def given_up(self, offset: int) -> None:
        """A record is done without having been handled."""
        self._records.done(offset)
        self._given_up.add(offset)


class _Course:
    """The same within one assignment: there, it counts what was done in it.

    A lane's records come back only together with those that were in a batch with them: of a batch, some may have
    failed and others not.
    """

    __slots__ = ("_batch", "_calls", "_lowest", "_reached", "_reached_in")

    def __init__(self) -> None:
        self._reached = -1
        self._reached_in = 0
        """The call in which the furthest record was started first."""
        self._batch: set[int] = set()
        """What may start again: the furthest record, and what was in that call with it."""
        self._calls: dict[int, int] = {}
        """Of the records that were started and aren't done, the last call."""
        self._lowest: list[int] = []
        """A heap of the same records; those that are done meanwhile are dropped when they come up."""

    def started(self, offset: int, call: int, given_up: set[int]) -> str | None:
        lowest = self._lowest_undone(call, given_up)
        if lowest is not None and lowest < offset:
            return f"before offset {lowest}, started in the same assignment, was completed or given up in it"
        if offset < self._reached and offset not in self._batch:
            return f"after offset {self._reached} of its lane, in the same assignment"
        if offset not in self._calls:
            heappush(self._lowest, offset)
        self._calls[offset] = call
        if offset > self._reached:
            self._reached = offset
            if self._reached_in == call:
                self._batch.add(offset)
            else:
                self._reached_in, self._batch = call, set(self._calls)
        return None

    def completed(self, offset: int) -> None:
        self._calls.pop(offset, None)

    def _lowest_undone(self, call: int, given_up: set[int]) -> int | None:
        """The first record that should be done by now; not those that the call itself began with."""
        while self._lowest:
            lowest = self._lowest[0]
            if self._calls.get(lowest) == call:
                break
            if lowest in self._calls and lowest not in given_up:
                return lowest
            heappop(self._lowest)
            self._calls.pop(lowest, None)
        return None
