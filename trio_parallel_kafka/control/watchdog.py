"""Notices a Trio loop that doesn't come round, from the poll thread, and logs where it stands."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.loop")

PERIOD: Final = 1.0
"""Seconds between two questions to the loop, and how long it may take to answer."""

FRAMES: Final = 12


class LoopWatchdog:
    """Asks the loop for a sign of life once a period.

    Args:
        call_soon: runs a function on the Trio loop (``TrioToken.run_sync_soon``).
        loop_thread: the thread identifier of the loop.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], None], loop_thread: int) -> None:
        self._call_soon = call_soon
        self._loop_thread = loop_thread
        self._asked_at = self._answered_at = time.monotonic()
        self._is_asked = False
        self._patience = PERIOD

    @classmethod
    def for_this_thread(cls, call_soon: Callable[[Callable[[], None]], None]) -> LoopWatchdog:
        """A watchdog over the loop that runs in the calling thread."""
        return cls(call_soon, threading.get_ident())

    @property
    def silence(self) -> float:
        """Seconds for which the loop has owed an answer."""
        return time.monotonic() - self._asked_at if self._is_asked else 0.0

    def check(self) -> None:
        """Called by the poll thread between polls."""
        now = time.monotonic()
        if self._is_asked:
            if now - self._asked_at >= self._patience:
                self._report(now - self._asked_at)
                self._patience *= 2
        elif now - self._answered_at >= PERIOD:
            self._asked_at = now
            self._is_asked = True
            self._call_soon(self._answer)

    def _answer(self) -> None:
        if self._patience > PERIOD:
            logger.warning("the Trio loop goes on after %.1f s", self.silence)
        self._answered_at = time.monotonic()
        self._patience = PERIOD
        self._is_asked = False

    def _report(self, silence: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented, for debugging
        stack = "".join(traceback.format_stack(frame)[-FRAMES:]) if frame is not None else "(gone)"
        logger.warning(
            "the Trio loop has been blocked for %.1f s; no handler gets on. A handler that computes or waits "
            "without awaiting belongs in trio.to_thread.run_sync. It stands at:\n%s",
            silence,
            stack,
        )
