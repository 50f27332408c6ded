"""Gives the poll thread its turn at the GIL while the Trio loop is busy.

A loop that always has something to run releases the GIL only around an ``epoll`` that returns at once, and
takes it back before the waiting thread has woken up; each such release also restarts that thread's 5 ms of
patience. Measured with tasks that burn slices of 0.1 to 5 ms: a poll came back after 1.5 to 4.4 s, and
after at most 8 ms with this instrument.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

MAX_BUSY: Final = 0.002
PAUSE: Final = 50e-6


class GilYield(trio.abc.Instrument):
    """Sleeps ``PAUSE`` seconds for every ``MAX_BUSY`` seconds in which the loop had no rest."""

    def __init__(self) -> None:
        self.users = 0
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
            time.sleep(PAUSE)
            self._last_rest = time.perf_counter()


_shared: Final[trio.lowlevel.RunVar[GilYield | None]] = trio.lowlevel.RunVar("gil_yield", None)


@contextmanager
def yielding_gil() -> Iterator[None]:
    """Yield it for the length of a block; all such blocks of a run share one instrument."""
    instrument = _shared.get()
    if instrument is None:
        instrument = GilYield()
        _shared.set(instrument)
        trio.lowlevel.add_instrument(instrument)
    instrument.users += 1
    try:
        yield
    finally:
        instrument.users -= 1
        if not instrument.users:
            _shared.set(None)
            trio.lowlevel.remove_instrument(instrument)
