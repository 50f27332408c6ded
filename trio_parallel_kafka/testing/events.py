"""What can happen in a run, as far as the guarantees are concerned: the events of a history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import attrs

from trio_parallel_kafka.core.assignments import TopicPartition


class Place(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


@attrs.frozen
class Event:
    """Base of all events.

    Attributes:
        at: when it happened, in seconds on the history's clock.
    """

    at: float


@attrs.frozen
class Produced(Event):
    """A record is there to be handled.

    Attributes:
        place: where.
        key: its raw key, or ``None``.
    """

    place: Place
    key: bytes | None


@attrs.frozen
class AttemptEvent(Event):
    """Base of what happens to an attempt at handling a record.

    Attributes:
        member: whose attempt it is.
        place: where the record stands.
        key: its raw key, or ``None``.
        attempt: which attempt it is in this assignment, from 1.
        assignment_epoch: in which assignment of the partition.
        call: the number of the handler's call; the records of a batch share it, all others have their own.
    """

    member: str
    place: Place
    key: bytes | None
    attempt: int
    assignment_epoch: int
    call: int


@attrs.frozen
class Started(AttemptEvent):
    """The handler is called."""


@attrs.frozen
class Completed(AttemptEvent):
    """The handler returned. What it returned, if anything, may still have to be sent."""


@attrs.frozen
class Failed(AttemptEvent):
    """The handler raised, or returned what can't be sent, or was cancelled because its time was up.

    Attributes:
        error: the exception's ``repr``.
    """

    error: str


@attrs.frozen
class Cancelled(AttemptEvent):
    """The handler was cancelled."""


@attrs.frozen
class GivenUp(Event):
    """A record is done without having been handled: skipped, sent to the dead letters, or deleted before it was read.

    Attributes:
        place: where it stands.
    """

    place: Place


@attrs.frozen
class Committed(Event):
    """The broker took a commit.

    Attributes:
        member: who committed.
        partition: of what.
        offset: the next one to be read.
        metadata: what came with it, empty if nothing did.
    """

    member: str
    partition: TopicPartition
    offset: int
    metadata: str


@attrs.frozen
class GroupEvent(Event):
    """Base of what a group does with partitions.

    Attributes:
        member: to whom.
        partitions: which.
    """

    member: str
    partitions: tuple[TopicPartition, ...]


@attrs.frozen
class Assigned(GroupEvent):
    """A member gets partitions."""


@attrs.frozen
class Revoked(GroupEvent):
    """A member was asked to let partitions go, and has answered: from here on they may be another's."""


@attrs.frozen
class Lost(GroupEvent):
    """A group took partitions from a member that it didn't hear from; the member may learn of it later."""


@attrs.frozen
class Joined(Event):
    """A life of a member begins: a consumer was started. What an earlier one of that name did is another's.

    Attributes:
        member: which.
    """

    member: str


@attrs.frozen
class Died(Event):
    """A member's process was killed, and its handlers with it.

    Attributes:
        member: which.
    """

    member: str


@attrs.frozen
class Output(Event):
    """Somebody who reads what handlers send has seen a record, with ``isolation.level=read_committed`` if need be.

    Attributes:
        topic: where it was sent to.
        key: its raw key, or ``None``.
        value: its raw value, or ``None``.
        origin: the record that it was made of, or ``None`` if it doesn't say.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    origin: Place | None


EVENTS: Final[Mapping[str, type[Event]]] = {
    kind.__name__: kind
    for kind in (
        *(Produced, Started, Completed, Failed, Cancelled, GivenUp, Committed),
        *(Assigned, Revoked, Lost, Joined, Died, Output),
    )
}
"""All kinds of events, by name."""
