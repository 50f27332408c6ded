"""One worker's state."""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio

from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.record import Record


class Worker:
    """One task's state: the lanes in its hands, and the scope that ends the handler."""

    __slots__ = ("doomed", "due", "error", "lanes", "late", "scope", "streak", "watchers")

    def __init__(self, watchers: Sequence[trio.Event]) -> None:
        self.lanes: Sequence[Lane[Record]] = ()
        self.scope: trio.CancelScope = trio.CancelScope()
        self.doomed: frozenset[Assignment[Record]] = frozenset()
        """The assignments for whose sake the scope was cancelled."""
        self.streak: int = 0
        """Records handled in a row while no other worker ran."""
        self.watchers: Sequence[trio.Event] = watchers
        """Who waits for something that workers do, to be told after each visit."""
        self.due: float = math.inf
        """When the attempt under way will be late. Infinite while none is, or if they aren't bounded in time here."""
        self.late: Exception | None = None
        """What the attempt under way fails with, unless it raises something else: its time is up, and its scope's."""
        self.error: Exception | None = None
        """What an attempt has failed with that was late; the lane is still in hands."""
