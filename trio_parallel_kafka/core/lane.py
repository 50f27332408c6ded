"""What a lane is: one key's records, in the order in which they came."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Detour:
    """What only those lanes have to remember that don't simply run.

    Attributes:
        taken: how many records a worker has, from the head on, when it has the lane.
        parked_until: when a parked lane becomes ready, else ``None``.
        lingers: it is parked only for more records to come.
        is_stuck: it is parked or sealed: its records can't run.
        error: what the head has failed with for good; it isn't attempted again.
    """

    __slots__ = ("error", "is_stuck", "lingers", "parked_until", "taken")

    def __init__(self) -> None:
        self.taken: int = 1
        self.parked_until: float | None = None
        self.lingers: bool = False
        self.is_stuck: bool = False
        self.error: Exception | None = None


class Lane(Generic[T]):
    """One key's records.

    Attributes:
        group: the lanes of the same partition.
        head: the record to be handled, or being handled.
        behind: the records that wait behind the head; ``None`` as long as there were none, for even an empty one takes
            more memory than all else of a lane.
        since: when the head was taken by a worker, in the clock of whoever took it.
        detour: what it has to remember if it doesn't simply run.
    """

    __slots__ = ("behind", "detour", "group", "head", "key", "since")

    def __init__(self, group: LaneGroup[T], key: Hashable | None, head: T) -> None:
        self.group: LaneGroup[T] = group
        self.key: Hashable | None = key
        self.head: T = head
        self.behind: deque[T] | None = None
        self.since: float = 0.0
        self.detour: Detour | None = None

    @property
    def waiting(self) -> int:
        """How many records wait behind the head."""
        return len(self.behind) if self.behind else 0

    def on_detour(self) -> Detour:
        """Its detour, which it is on from now on."""
        if self.detour is None:
            self.detour = Detour()
        return self.detour

    @property
    def taken(self) -> int:
        """See :class:`Detour`."""
        return 1 if self.detour is None else self.detour.taken

    @property
    def in_hands(self) -> Sequence[T]:
        """The records that a worker has, if it has the lane."""
        if self.detour is None:
            return [self.head]
        return [self.head, *itertools.islice(self.behind or (), self.detour.taken - 1)]

    @property
    def error(self) -> Exception | None:
        """See :class:`Detour`."""
        return None if self.detour is None else self.detour.error

    @error.setter
    def error(self, error: Exception | None) -> None:
        if error is not None or self.detour is not None:
            self.on_detour().error = error

    @property
    def parked_until(self) -> float | None:
        """See :class:`Detour`."""
        return None if self.detour is None else self.detour.parked_until

    @property
    def lingers(self) -> bool:
        """See :class:`Detour`."""
        return self.detour is not None and self.detour.lingers

    @property
    def is_stuck(self) -> bool:
        """See :class:`Detour`."""
        return self.detour is not None and self.detour.is_stuck


class LaneGroup(Generic[T]):
    """The lanes of one assignment (its ``owner``).

    Attributes:
        loose: records without any order, which get a lane when they are taken.
        loose_is_next: their turn comes before that of the ready lanes.
        stuck: how many records are in lanes that are parked or sealed.
    """

    __slots__ = (
        "by_key",
        "is_closed",
        "is_held",
        "loose",
        "loose_is_next",
        "owner",
        "parked",
        "ready",
        "sealed",
        "stuck",
    )

    def __init__(self, owner: Any) -> None:
        self.owner: Any = owner
        self.by_key: dict[Hashable, Lane[T]] = {}
        self.ready: deque[Lane[T]] = deque()
        self.loose: deque[T] = deque()
        self.loose_is_next: bool = False
        self.parked: list[tuple[float, int, Lane[T]]] = []
        self.sealed: list[Lane[T]] = []
        self.stuck: int = 0
        self.is_closed: bool = False
        self.is_held: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether a record waits for a worker."""
        return bool(self.ready or self.loose)
