"""A bound on the time of an attempt.

Theory of operation
-------------------

A cancel scope with a deadline costs more than all else that a record needs. So a handler in a worker's own task gets
none: its worker notes until when it has time, and one timer looks at all workers when the first of them may be late.
The scope that such a worker has anyway gets a deadline then, which has passed. What the attempt has failed with is
dealt with in the worker's next scope, unless its assignment was let go: then it is abandoned, late or not.

The time of an attempt begins as the one before it ends, in a row of handlers that never wait, so that the clock is
read once for each.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn, TypeVar

import trio

from trio_parallel_kafka.errors import HandlerTimeoutError
from trio_parallel_kafka.execution.worker import Worker

Given = TypeVar("Given")

REST: Final = 1e-6
"""Seconds between two looks, for each worker looked at: so thousands that are late one by one don't get a look each."""


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


class TimeLimit:
    """The same for handlers in workers' own tasks, by one timer for all of them.

    Args:
        timeout: seconds.

    Attributes:
        clock: the time now.
        on_due: told when to :meth:`look`.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout: Final = timeout
        self.clock: Final[Callable[[], float]] = trio.lowlevel.current_clock().current_time
        self.on_due: Callable[[float], None] = lambda _when: None
        self._at_work: set[Worker] = set()
        self._due = math.inf

    def begin(self, worker: Worker) -> None:
        """An attempt begins now, after something else."""
        worker.due = self.clock() + self.timeout
        self._at_work.add(worker)
        if self._due == math.inf:
            self._due = worker.due
            self.on_due(self._due)

    def fail(self) -> NoReturn:
        """An attempt has returned that was due before.

        Raises:
            HandlerTimeoutError: always.
        """
        raise timeout_error(self.timeout)

    def next_due(self) -> float:
        """When to :meth:`look`: when the first attempt that is under way may be late, or about then."""
        return self._due

    def look(self, now: float) -> None:
        """Have what is late cancelled."""
        if now < self._due:
            return
        self._at_work = {worker for worker in self._at_work if worker.due < math.inf}
        due = math.inf
        for worker in self._at_work:
            if worker.due > now:
                due = min(due, worker.due)
            else:
                worker.late = timeout_error(self.timeout)
                worker.scope.deadline = now
        self._due = max(due, now + REST * len(self._at_work))
