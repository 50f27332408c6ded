"""The events of a history, put together: which attempt an end belongs to, in which tenure of a partition it was made.

A *tenure* is a member's time with a partition: from when the partition is assigned to when it is revoked or lost.
Where nobody noted what the group did, a member has one tenure of each partition in its life.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, TypeAlias

import attrs

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.testing.events import (
    Assigned,
    AttemptEvent,
    Died,
    Event,
    GroupEvent,
    Joined,
    Place,
    Revoked,
    Started,
)


@attrs.define(eq=False)
class Tenure:
    """A member's time with a partition.

    Attributes:
        member: whose.
        after_epoch: attempts up to this ``assignment_epoch`` belong to an earlier one.
        first_epoch: the ``assignment_epoch`` of its first attempt, -1 while there is none.
        last_epoch: the highest of its attempts.
        is_lost: it ended, or is to end, without the member's answer.
        revoked: index of the event by which it ended with the member's answer.
    """

    member: str
    after_epoch: int = -1
    first_epoch: int = -1
    last_epoch: int = -1
    is_lost: bool = False
    revoked: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether that is known, as far as the events have been looked at."""
        return self.is_lost or self.revoked is not None


@attrs.define(eq=False)
class Attempt:
    """An attempt that was started.

    Attributes:
        start: the event.
        index: the event's.
        tenure: in which it was made.
    """

    start: Started
    index: int
    tenure: Tenure


@attrs.define(eq=False)
class Moment:
    """An event that counts.

    Attributes:
        index: where it stands in the history.
        event: what happened.
        attempts: whom it concerns: the attempt that starts or ends; of a member that died, all that ran; of partitions
            that were revoked or lost, those that ran there.
        tenures: those that begin, or end.
    """

    index: int
    event: Event
    attempts: Sequence[Attempt] = ()
    tenures: Sequence[Tenure] = ()


Running: TypeAlias = dict[tuple[int, Place], Attempt]
"""A member's, by the number of the handler's call and the record."""


class Timeline:
    """All that counts, in the order of the history.

    Not attempts of members that are dead, nor ends of attempts whose start isn't known.

    Args:
        events: those of the history.

    Attributes:
        events: the same.
        moments: those that count.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.events: Final = events
        self._running: Final[defaultdict[str, Running]] = defaultdict(dict)
        self._tenures: Final[defaultdict[str, dict[TopicPartition, list[Tenure]]]] = defaultdict(dict)
        self._dead: Final[set[str]] = set()
        self.moments: Final = [
            moment for index, event in enumerate(events) if (moment := self._moment(index, event)) is not None
        ]

    def _moment(self, index: int, event: Event) -> Moment | None:
        if isinstance(event, AttemptEvent):
            return None if event.member in self._dead else self._of_attempt(index, event)
        if isinstance(event, GroupEvent):
            return self._of_group(index, event)
        if isinstance(event, Joined):
            self._dead.discard(event.member)
            self._begin_life(event.member)
        elif isinstance(event, Died):
            self._dead.add(event.member)
            return Moment(index, event, tuple(self._running.pop(event.member, {}).values()))
        return Moment(index, event)

    def _begin_life(self, member: str) -> None:
        """Epochs begin anew. What the group has given and the member hasn't touched may be the new life's already."""
        kept: dict[TopicPartition, list[Tenure]] = {}
        for partition, tenures in self._tenures[member].items():
            last = tenures[-1]
            if last.first_epoch < 0 and not last.has_ended:
                last.after_epoch = -1
                kept[partition] = [last]
        self._tenures[member] = kept

    def _of_attempt(self, index: int, event: AttemptEvent) -> Moment | None:
        running = self._running[event.member]
        if isinstance(event, Started):
            attempt = Attempt(event, index, self._tenure_of(event))
            running[event.call, event.place] = attempt
            return Moment(index, event, (attempt,))
        ended = running.pop((event.call, event.place), None)
        return None if ended is None else Moment(index, event, (ended,))

    def _tenure_of(self, event: Started) -> Tenure:
        """The tenure in which an attempt starts: the last one, unless its epoch is of one before that."""
        tenures = self._tenures_of(event.member, event.place[:2])
        if not tenures:
            tenures.append(Tenure(event.member))
        epoch = event.assignment_epoch
        tenure = next((each for each in reversed(tenures) if epoch > each.after_epoch), tenures[0])
        if tenure.first_epoch < 0:
            tenure.first_epoch = epoch
        tenure.last_epoch = max(tenure.last_epoch, epoch)
        return tenure

    def _of_group(self, index: int, event: GroupEvent) -> Moment:
        tenures = [self._tenures_of(event.member, partition) for partition in event.partitions]
        if isinstance(event, Assigned):
            begun = []
            for known in tenures:
                after = max(known[-1].after_epoch, known[-1].last_epoch) if known else -1
                known.append(Tenure(event.member, after_epoch=after))
                begun.append(known[-1])
            return Moment(index, event, tenures=begun)
        ended = []
        for known in tenures:
            if not known:
                known.append(Tenure(event.member))
            if not known[-1].has_ended:
                ended.append(known[-1])
        for tenure in ended:
            if isinstance(event, Revoked):
                tenure.revoked = index
            else:
                tenure.is_lost = True
        running = self._running[event.member].values()
        return Moment(index, event, [each for each in running if each.tenure in ended], ended)

    def _tenures_of(self, member: str, partition: tuple[str, int]) -> list[Tenure]:
        return self._tenures[member].setdefault(TopicPartition(*partition), [])
