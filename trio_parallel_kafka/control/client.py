"""The port: what the control plane needs of a Kafka client, and the events that it gets from one.

Everything the client has to say arrives as one ordered stream of events. A rebalance event holds the client up
until it is answered by ``reply``; meanwhile the calls below are served, so that the answer may need them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

import attrs
from confluent_kafka import KafkaError as ClientError, Message

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.statistics import PollStatistics

MISSING_TOPIC_PATIENCE: Final = 2.0
"""Seconds for which a topic may be missing at the start: one just made takes a moment to be known."""


@attrs.frozen
class StartAt:
    """Where reading of an assigned partition begins, in which assignment, and whether it has to wait for a resume."""

    offset: int
    assignment_epoch: int
    is_paused: bool = False


@attrs.frozen(eq=False)
class Fetched:
    """A batch in the order fetched; errors and ends of partitions are messages too.

    ``assignment_epochs`` says in which assignment each partition was read: a batch may be on its way while a partition
    starts again elsewhere. ``taken`` makes room for another: few may be on their way at once.
    """

    messages: Sequence[Message]
    assignment_epochs: Mapping[TopicPartition, int | None]
    taken: Callable[[], None]


@attrs.frozen(eq=False)
class Assigned:
    """The group gave these partitions. A partition that the reply leaves out stays unread until ``start``."""

    partitions: tuple[TopicPartition, ...]
    reply: Callable[[Mapping[TopicPartition, StartAt]], None]


@attrs.frozen(eq=False)
class Revoked:
    """The group takes these partitions; they are let go when the reply comes."""

    partitions: tuple[TopicPartition, ...]
    reply: Callable[[], None]


@attrs.frozen(eq=False)
class Lost:
    """These partitions belong to somebody else already."""

    partitions: tuple[TopicPartition, ...]


@attrs.frozen(eq=False)
class Trouble:
    """The client reports an error that concerns no partition."""

    error: ClientError


@attrs.frozen(eq=False)
class Failed:
    """The client can't go on; no further event comes."""

    error: BaseException


Event = Fetched | Assigned | Revoked | Lost | Trouble | Failed


@attrs.frozen
class Committed:
    """What the broker holds for a partition.

    Attributes:
        offset: the next offset to read, or ``None`` if nothing was committed.
        metadata: the text beside it; ``None`` if it can't be read (not UTF-8).
        error: why nothing is known, else ``None``.
    """

    offset: int | None = None
    metadata: str | None = ""
    error: ClientError | None = None


class Client(Protocol):
    """A member of a consumer group. Each call is made by its one owner, in the order asked for.

    Cancelling a call leaves it unknown whether it was made.
    """

    async def connect(self) -> None:
        """Find the cluster and the topics, within ``connect_timeout``.

        Raises:
            AuthenticationError, AuthorizationError, BrokerUnreachableError, TopicNotFoundError: what's wrong.
        """

    async def next_event(self) -> Event:
        """Wait for what happens next."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Join the group."""

    def unsubscribe(self) -> None:
        """Leave the group; a :class:`Revoked` for what is owned comes first."""

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        """Ask the broker, bounded. Each partition is answered, if only with an error."""

    async def offset_range(self, partition: TopicPartition) -> tuple[int, int]:
        """The first offset that is there and the next to be written.

        Raises:
            KafkaError: the broker didn't answer in time.
        """

    async def topic_ids(self, topics: Collection[str]) -> Mapping[str, bytes]:
        """The ids of those topics for which they are to be had, bounded."""

    async def topics(self) -> frozenset[str]:
        """The names of all topics that are there, as far as this client may see them.

        Raises:
            KafkaError: the broker didn't answer in time.
        """

    async def partition_counts(self) -> Mapping[str, int]:
        """How many partitions the topics have that may be subscribed: those named, or all if there is a pattern.

        What a pattern matches is for the client or the broker to say; their regular expressions aren't Python's.

        Raises:
            KafkaError: the broker didn't answer in time.
        """

    async def commit(self, entries: Sequence[CommitEntry]) -> Mapping[TopicPartition, ClientError | None]:
        """Commit what is owned in the entry's assignment; say for each entry whether the broker took it."""

    async def group_metadata(self, entries: Sequence[CommitEntry]) -> object | None:
        """What a producer needs to commit these in a transaction, if all are owned in their assignment just now.

        The broker refuses it once the group has moved on. ``None``: one isn't owned any more, or this isn't a member.
        """

    async def start(self, partition: TopicPartition, at: StartAt) -> None:
        """Read an owned partition from an offset on.

        Raises:
            KafkaError: the client refused.
        """

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Fetch no more of these."""

    def resume(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Fetch these again; beside each, the offset above the highest that was taken of it."""

    async def close(self) -> bool:
        """End the client, shielded and bounded by ``close_timeout``; say whether it ended. May be called again."""

    def hurry(self) -> None:
        """Serve calls as fast as may be: the end is near."""

    def poll_statistics(self) -> PollStatistics:
        """How the polling goes."""
