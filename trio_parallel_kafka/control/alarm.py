"""One timer for everything that becomes due: parked lanes, batches that aren't full, probes, late handlers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import trio

Due = Callable[[], float | None]


class Alarm:
    """Calls ``ring`` with the time when something is due.

    Args:
        sources: each says when the next of its kind is due, or ``None``.
        ring: deals with everything that is due.
    """

    def __init__(self, sources: tuple[Due, ...], ring: Callable[[float], None]) -> None:
        self._sources: Final = sources
        self._ring: Final = ring
        self._earlier: Final = trio.lowlevel.ParkingLot()
        self._set_to = math.inf

    def due_at(self, when: float) -> None:
        """Something is due then."""
        if when < self._set_to:
            self._earlier.unpark_all()

    def reset(self) -> None:
        """Ask the sources again."""
        self.due_at(self._next())

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Ring in time, until cancelled."""
        while True:
            self._set_to = self._next()
            with trio.move_on_at(self._set_to):
                await self._earlier.park()
            now = trio.current_time()
            if now >= self._next():
                self._ring(now)

    def _next(self) -> float:
        return min((due for source in self._sources if (due := source()) is not None), default=math.inf)
