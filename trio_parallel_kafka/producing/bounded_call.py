"""A bound for a call of the client that may not return."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

LOOK: float = 0.05
"""Seconds between two looks at whether to go on waiting."""


class OverrunError(Exception):
    """The call has not returned; a daemon thread is left to it, until it does."""


def call_bounded(call: Callable[[], object], bound: float, still_waiting: Callable[[], None]) -> None:
    """Make a call in a thread of its own, and wait for it.

    Args:
        call: what to call. It has to keep alive what it needs.
        bound: seconds that it may take.
        still_waiting: called now and then meanwhile; what it raises ends the waiting.

    Raises:
        OverrunError: it took longer.
        BaseException: what the call raised.
    """
    results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def make() -> None:
        try:
            call()
        except BaseException as error:  # noqa: ASYNC103, BLE001 - carried to the caller
            results.put(error)
        else:
            results.put(None)

    threading.Thread(target=make, name="librdkafka call", daemon=True).start()
    deadline = time.monotonic() + bound
    while True:
        try:
            error = results.get(timeout=min(LOOK, bound))
        except queue.Empty:
            still_waiting()
            if time.monotonic() >= deadline:
                raise OverrunError from None
            continue
        if error is not None:
            raise error
        return
