"""Which lanes make up a batch, and when.

Rules
-----

- A batch holds records from the heads of its lanes on, so each key's records are in it in order, and no other batch
  has records of that key at the same time.
- A batch is ripe when it is full, or when its first record has waited for ``linger``. With the scope of a key that is
  a matter of each lane by itself, which is parked until then; else of the lanes that are ready in a partition, or in
  all of them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from trio_parallel_kafka.core.lane import Lane, LaneGroup
from trio_parallel_kafka.core.lanes import LaneScheduler

T = TypeVar("T")


class BatchScope(enum.StrEnum):
    """What the records of one batch have in common."""

    KEY = "key"
    """Their topic, partition and key."""

    PARTITION = "partition"
    """Their topic and partition."""

    ANY = "any"
    """Nothing."""


class BatchTaker(Generic[T]):
    """Takes ready lanes, several at once.

    Args:
        scheduler: hands them out.
        size: how many records a batch has at most.
        scope: what they have in common.
        linger: how long the first of them waits for more, in seconds.
        received_at: when an item began to wait.
    """

    def __init__(
        self,
        scheduler: LaneScheduler[T],
        *,
        size: int,
        scope: BatchScope,
        linger: float,
        received_at: Callable[[T], float],
    ) -> None:
        self._scheduler: Final = scheduler
        self._scope: Final = scope
        self._linger = linger
        self._received_at: Final = received_at
        self.size: Final = size
        self.now: float = 0.0
        if scope is BatchScope.KEY and linger:
            scheduler.lingering = self

    def until(self, head: T) -> float | None:
        """When a lane with this head is ripe, for a scope of keys; ``None``: now."""
        until = self._received_at(head) + self._linger
        return until if until > self.now else None

    def stop_lingering(self) -> None:
        """Every batch is ripe from now on."""
        self._linger = 0.0
        self._scheduler.stop_lingering()

    def next_due(self) -> float | None:
        """When a batch of what is ready becomes ripe though it isn't full."""
        if not self._linger or self._scope is BatchScope.KEY:
            return None
        return min((self._due(group) for group in self._scheduler.groups), default=None)

    def take(self, now: float) -> list[Lane[T]]:
        """The lanes of the next ripe batch, gathered; none if no batch is."""
        self.now = now
        match self._scope:
            case BatchScope.KEY:
                return self._fill(self._scheduler.take, 1)
            case BatchScope.ANY:
                groups = self._scheduler.groups
                return self._fill(self._scheduler.take) if self._is_ripe(groups, now) else []
        for group in self._scheduler.groups:
            if self._is_ripe([group], now):
                lanes = self._fill(lambda group=group: self._scheduler.take_from(group))  # type: ignore[misc]
                self._scheduler.end_turn(group)
                return lanes
        return []

    def _fill(self, take: Callable[[], Lane[T] | None], max_lanes: int | None = None) -> list[Lane[T]]:
        lanes: list[Lane[T]] = []
        room = self.size
        while room and len(lanes) != max_lanes and (lane := take()) is not None:
            room -= len(self._scheduler.gather(lane, room))
            lanes.append(lane)
        return lanes

    def _is_ripe(self, groups: Iterable[LaneGroup[T]], now: float) -> bool:
        missing = self.size
        for group in groups:
            if self._due(group) <= now:
                return True
            for lane in group.ready:
                missing -= lane.waiting + 1
                if missing <= 0:
                    return True
        return False

    def _due(self, group: LaneGroup[T]) -> float:
        return self._received_at(group.ready[0].head) + self._linger
