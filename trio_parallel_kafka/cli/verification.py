"""Checks the promises from the outside: from what handlers saw, not from what the library says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Final


class Verifier:
    """Looks at when the handling of each order starts and ends.

    Orders are known by their numbers, 1 to ``expected``. Those of a lane (a key, or a partition) have to be handled
    one after another, by rising number.

    Attributes:
        order_violations: starts that came too early or too late: while another order of the lane was being
            handled, or after one with a higher number had started.
        duplicates: orders handled to the end again.
        in_flight: orders being handled now.
        peak_in_flight: the most that were at any time.
    """

    def __init__(self, expected: int) -> None:
        self._expected: Final = expected
        self._completed: set[int] = set()
        self._running: Counter[Hashable] = Counter()
        self._last_started: dict[Hashable, int] = {}
        self.order_violations: int = 0
        self.duplicates: int = 0
        self.in_flight: int = 0
        self.peak_in_flight: int = 0

    @property
    def completed(self) -> int:
        """How many different orders were handled to the end."""
        return len(self._completed)

    @property
    def missing(self) -> int:
        """How many orders were never handled to the end."""
        return self._expected - len(self._completed)

    def started(self, lane: Hashable, number: int) -> None:
        """The handling of an order begins."""
        last = self._last_started.get(lane, 0)
        is_late = number < last and number not in self._completed
        if self._running[lane] or is_late:
            self.order_violations += 1
        self._last_started[lane] = max(last, number)
        self._running[lane] += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def ended(self, lane: Hashable, number: int, *, completed: bool) -> None:
        """The handling of an order ends; one that wasn't completed has to start again."""
        self._running[lane] -= 1
        self.in_flight -= 1
        if completed:
            self.duplicates += number in self._completed
            self._completed.add(number)
