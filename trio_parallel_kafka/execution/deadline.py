"""A bound on the time of an attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from trio_parallel_kafka.errors import HandlerTimeoutError

Given = TypeVar("Given")


def timeout_error(timeout: float) -> HandlerTimeoutError:
    """What an attempt fails with that takes longer than ``timeout`` seconds."""
    return HandlerTimeoutError(f"the handler took longer than {timeout:g} s (handler_timeout)")


def timed(attempt: Callable[[Given], Awaitable[object]], timeout: float | None) -> Callable[[Given], Awaitable[object]]:
    """Give an attempt that is cancelled after ``timeout`` seconds; ``attempt`` itself without one.

    One that returns later than that all the same, because it swallows its cancellation, or blocks and doesn't notice
    it, has failed too: what it did may be half done.
    """
    if timeout is None:
        return attempt

    async def attempt_in_time(given: Given) -> object:  # noqa: ASYNC910 - a checkpoint is up to the attempt
        with trio.move_on_after(timeout) as scope:
            result = await attempt(given)
            if not scope.cancel_called:
                return result
        raise timeout_error(timeout)

    return attempt_in_time
