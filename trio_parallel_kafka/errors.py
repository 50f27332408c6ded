"""Everything that this package raises on purpose, as one small hierarchy.

``except ParallelKafkaError`` catches them all. Each class also derives from the
built-in or Trio class that says the same thing, so that generic code works too.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio


class ParallelKafkaError(Exception):
    """Base of all errors of this package.

    Attributes:
        topic: the topic concerned, or ``None``.
        partition: the partition concerned, or ``None``.
        offset: the offset concerned, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        topic: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.topic: str | None = topic
        self.partition: int | None = partition
        self.offset: int | None = offset


class ConfigError(ParallelKafkaError, ValueError):
    """The configuration can't be used; ``problems`` names every fault at once.

    Attributes:
        problems: one line a fault: the field, what is wrong with it, the fix.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__("invalid configuration:\n" + "\n".join(f"- {line}" for line in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class KafkaError(ParallelKafkaError, trio.BrokenResourceError):
    """Kafka, or the client, refused something for good; the cause is chained."""


class BrokerUnreachableError(KafkaError):
    """No broker answered within the bound."""


class AuthenticationError(KafkaError):
    """The brokers refused the credentials, or the TLS handshake failed."""


class AuthorizationError(KafkaError):
    """The credentials are good, but an ACL for the group or a topic is missing."""


class TopicNotFoundError(KafkaError):
    """A topic that the configuration names doesn't exist."""


class OffsetResetError(KafkaError):
    """A partition has no usable committed offset, and ``auto_offset_reset`` is ``"none"``."""


class CommitError(KafkaError):
    """The last commit before leaving wasn't acknowledged; its records will be replayed."""


class DeliveryError(KafkaError):
    """The broker refused a record that was sent, or didn't acknowledge it in time.

    After a timeout it is unknown whether the record was written.
    """


class RecordTooLargeError(DeliveryError):
    """A record is larger than the client, the broker or the topic allows."""


class DeadLetterError(DeliveryError):
    """A dead letter couldn't be delivered, so the record that it is about isn't completed."""


class ProducerFencedError(KafkaError):
    """Another producer with the same ``transactional_id`` took over; this one can't go on."""


class CloseTimeoutError(KafkaError):
    """The client didn't close within its bound; one daemon thread is left to it."""


class InvalidHandlerError(ParallelKafkaError, TypeError):
    """The handler can't be called: it is of the wrong kind, or can't be imported, or not be sent to a process."""


class InvalidResultError(ParallelKafkaError, TypeError):
    """The handler returned what is neither ``None`` nor a :class:`ProducerRecord` nor several."""


class HandlerTimeoutError(ParallelKafkaError, trio.TooSlowError):
    """An attempt took longer than ``handler_timeout``."""


class WorkerDiedError(ParallelKafkaError):
    """The worker process that handled the record died: killed, out of memory, or by a crash of what it called."""


class WorkerStartError(ParallelKafkaError):
    """A worker process can't begin: its handler can't be imported, its initializer fails, or it dies at once."""


class HandlerStuckError(ParallelKafkaError):
    """A handler didn't react to its cancellation; its record isn't completed and will be handled again."""


class SerializationError(ParallelKafkaError, ValueError):
    """A key or a value couldn't be serialised or deserialised; the cause is chained."""


class ProducerClosedError(ParallelKafkaError, trio.ClosedResourceError):
    """The producer's block has ended, so nothing can be sent any more."""


class ConsumerClosedError(ParallelKafkaError, trio.ClosedResourceError):
    """The consumer has stopped, or its block has ended, so what was asked for can't be."""


class ConsumerBusyError(ParallelKafkaError, trio.BusyResourceError):
    """The consumer was used in a way that only one task, or one call, may."""
