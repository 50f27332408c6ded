"""Gives the threads of clients their turn at the GIL while the Trio loop is busy.

A loop that always has something to run releases the GIL only around an ``epoll`` that returns at once, and
takes it back before the waiting thread has woken up; each such release also restarts that thread's 5 ms of
patience. Measured with tasks that burn slices of 0.1 to 5 ms: a poll came back after 1.5 to 4.4 s, and
after at most 8 ms with this instrument.

A pause costs the loop 100 us and more until it runs again, so it is made only if a thread has use for it: with 5 ms
handlers at full load, pauses for a poll thread that had nothing to do took a sixth of the rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

MAX_BUSY: Final = 0.002
PAUSE: Final = 50e-6


class GilYield(trio.abc.Instrument):
    """Sleeps ``PAUSE`` seconds for every ``MAX_BUSY`` seconds in which the loop had no rest, if a thread needs it.

    Attributes:
        needs: for each thread, what says whether it needs the GIL now, or may do so at any moment.
    """

    def __init__(self) -> None:
        self.needs: list[Callable[[], bool]] = []
        self._last_rest = self._wait_began = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - Trio's signature
        """Called by Trio before each wait for I/O."""
        self._wait_began = time.perf_counter()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - Trio's signature
        """Called by Trio after each wait for I/O; a wait that found something ready is no rest."""
        now = time.perf_counter()
        if now - self._wait_began > PAUSE:
            self._last_rest = now
        elif now - self._last_rest > MAX_BUSY:
            if any(need() for need in self.needs):
                time.sleep(PAUSE)
            self._last_rest = time.perf_counter()


_shared: Final[trio.lowlevel.RunVar[GilYield | None]] = trio.lowlevel.RunVar("gil_yield", None)


def always() -> bool:
    """Say that a thread may need the GIL at any moment."""
    return True


@contextmanager
def yielding_gil(need: Callable[[], bool] = always) -> Iterator[None]:
    """Yield it to a thread for the length of a block; all such blocks of a run share one instrument."""
    instrument = _shared.get()
    if instrument is None:
        instrument = GilYield()
        _shared.set(instrument)
        trio.lowlevel.add_instrument(instrument)
    instrument.needs.append(need)
    try:
        yield
    finally:
        instrument.needs.remove(need)
        if not instrument.needs:
            _shared.set(None)
            trio.lowlevel.remove_instrument(instrument)
