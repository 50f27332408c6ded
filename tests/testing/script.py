"""Histories written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trio_parallel_kafka.core import offset_map
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.testing.events import (
    Assigned,
    AttemptEvent,
    Cancelled,
    Committed,
    Completed,
    Died,
    Failed,
    GivenUp,
    Joined,
    Lost,
    Output,
    Place,
    Produced,
    Revoked,
    Started,
)
from trio_parallel_kafka.testing.history import History

TOPIC = "orders"
ORDERS = TopicPartition(TOPIC, 0)
KEY = b"a"


class Script:
    """Writes events one after another, a second apart; of partition 0 and key ``a`` unless told otherwise."""

    def __init__(self) -> None:
        self.history = History()
        self._calls = 0

    @property
    def now(self) -> float:
        return float(len(self.history.events))

    def produced(self, *offsets: int, key: bytes | None = KEY, partition: int = 0) -> None:
        for offset in offsets:
            self.history.add(Produced(self.now, Place(TOPIC, partition, offset), key))

    def start(
        self,
        offset: int,
        member: str = "m",
        *,
        key: bytes | None = KEY,
        partition: int = 0,
        attempt: int = 1,
        epoch: int = 1,
        call: int = 0,
    ) -> AttemptEvent:
        """An attempt starts; ``call``: in the same as others."""
        self._calls += 1
        place = Place(TOPIC, partition, offset)
        started = Started(self.now, member, place, key, attempt, epoch, call or self._calls)
        self.history.add(started)
        return started

    def batch(self, *offsets: int, **fields: Any) -> list[AttemptEvent]:
        """Several start in one call."""
        first = self.start(offsets[0], **fields)
        return [first, *(self.start(offset, call=first.call, **fields) for offset in offsets[1:])]

    def complete(self, *attempts: AttemptEvent) -> None:
        for each in attempts:
            self.history.add(Completed(self.now, *_fields(each)))

    def fail(self, *attempts: AttemptEvent) -> None:
        for each in attempts:
            self.history.add(Failed(self.now, *_fields(each), "ValueError('bad')"))

    def cancel(self, *attempts: AttemptEvent) -> None:
        for each in attempts:
            self.history.add(Cancelled(self.now, *_fields(each)))

    def handle(self, *offsets: int, **fields: Any) -> None:
        """Each starts and completes."""
        for offset in offsets:
            self.complete(self.start(offset, **fields))

    def give_up(self, offset: int, partition: int = 0) -> None:
        self.history.add(GivenUp(self.now, Place(TOPIC, partition, offset)))

    def commit(self, offset: int, *completed: int, member: str = "m", metadata: str | None = None) -> None:
        """Commit ``offset``, and what is completed above it."""
        if metadata is None:
            metadata = offset_map.encode(offset, ranges(completed)).text
        self.history.add(Committed(self.now, member, ORDERS, offset, metadata))

    def assign(self, member: str = "m") -> None:
        self.history.add(Assigned(self.now, member, (ORDERS,)))

    def revoke(self, member: str = "m") -> None:
        self.history.add(Revoked(self.now, member, (ORDERS,)))

    def lose(self, member: str = "m") -> None:
        self.history.add(Lost(self.now, member, (ORDERS,)))

    def join(self, member: str = "m") -> None:
        self.history.add(Joined(self.now, member))

    def die(self, member: str = "m") -> None:
        self.history.add(Died(self.now, member))

    def output(
        self, value: bytes | None, origin: int | None = None, *, key: bytes | None = KEY, topic: str = "invoices"
    ) -> None:
        place = None if origin is None else Place(TOPIC, 0, origin)
        self.history.add(Output(self.now, topic, key, value, place))


def ranges(offsets: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Offsets as ranges."""
    found: list[tuple[int, int]] = []
    for offset in sorted(offsets):
        if found and found[-1][1] == offset:
            found[-1] = found[-1][0], offset + 1
        else:
            found.append((offset, offset + 1))
    return tuple(found)


def _fields(event: AttemptEvent) -> tuple[str, Place, bytes | None, int, int, int]:
    return event.member, event.place, event.key, event.attempt, event.assignment_epoch, event.call
