"""Records on their way to the broker, one by one, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, cast

import attrs
import trio
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError as ClientError, Message

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.errors import DeliveryError, RecordTooLargeError
from trio_parallel_kafka.failures import as_error
from trio_parallel_kafka.produced import RecordMetadata

_MAX_NAMED: Final = 5
"""How many of the failures that nobody was told of are named; the others are counted."""

_UNASSIGNED: Final = -1
"""What stands for a partition that isn't chosen yet."""

_NO_SUCH_TOPIC: Final = "the topic isn't there; make it, or correct its name"
_TOO_LARGE: Final = (
    "the record, or the batch that the client sent it in (batch.size), is larger than message.max.bytes of the client "
    "or max.message.bytes of the topic allows"
)
_UNKNOWN: Final = "it is unknown whether the record was written"

# ruff: noqa: SLF001 - the client's own error codes begin with an underscore, and settle() has access to what it settles
_EXPLANATIONS: Final[dict[int, str]] = {
    ClientError.UNKNOWN_TOPIC_OR_PART: _NO_SUCH_TOPIC,
    ClientError._UNKNOWN_TOPIC: _NO_SUCH_TOPIC,
    ClientError._UNKNOWN_PARTITION: "the topic has no such partition",
    ClientError.TOPIC_EXCEPTION: "no topic can be called so",
    ClientError.TOPIC_AUTHORIZATION_FAILED: "an ACL is missing: WRITE on the topic",
    ClientError.MSG_SIZE_TOO_LARGE: _TOO_LARGE,
    ClientError.RECORD_LIST_TOO_LARGE: _TOO_LARGE,
    ClientError._MSG_TIMED_OUT: f"not acknowledged within delivery_timeout; {_UNKNOWN}",
    ClientError._PURGE_QUEUE: "not sent before the producer ended",
    ClientError._PURGE_INFLIGHT: f"not acknowledged before the producer ended; {_UNKNOWN}",
    ClientError._DESTROY: _UNKNOWN,
}
_SIZE_ERRORS: Final = frozenset({ClientError.MSG_SIZE_TOO_LARGE, ClientError.RECORD_LIST_TOO_LARGE})


@attrs.frozen
class Refusal:
    """Why a record wasn't delivered; each who asks gets an exception of its own.

    Attributes:
        error: what the client says.
        topic: where the record was to go.
        partition: likewise, as far as that is known.
        background: what is known besides, and may be behind it.
    """

    error: ClientError
    topic: str
    partition: int | None = None
    background: str | None = None

    def as_error(self) -> DeliveryError:
        """The exception that says so."""
        kind = RecordTooLargeError if self.error.code() in _SIZE_ERRORS else DeliveryError
        explanation = _EXPLANATIONS.get(self.error.code(), "the record wasn't delivered")
        if self.background is not None:
            explanation += f" ({self.background})"
        place = TopicPartition(self.topic, _UNASSIGNED if self.partition is None else self.partition)
        return cast("DeliveryError", as_error(self.error, explanation, place, kind))


class PendingDelivery:
    """A record that was handed to the client, made by :meth:`Producer.send_nowait`."""

    __slots__ = ("_event", "_hearers", "_outcome", "_unheard", "_untold")

    def __init__(self) -> None:
        self._outcome: RecordMetadata | Refusal | None = None
        self._event: trio.Event | None = None
        self._hearers = 0
        self._unheard: Unheard | None = None  # where the failure is noted
        self._untold: Callable[[], Unheard] | None = None  # where to note it, while nobody was told of it

    @property
    def is_settled(self) -> bool:
        """Whether it is known what became of the record, for good or ill."""
        return self._outcome is not None

    async def wait(self) -> RecordMetadata:
        """Wait until the broker has acknowledged the record, and say where it put it.

        Any number of tasks may wait, any number of times. A failure that nobody waits for is reported by
        :meth:`Producer.flush`, or at the end of the producer's block.

        **Cancellation.** Only the waiting ends; the record is delivered, or not, all the same.

        Raises:
            DeliveryError: as :meth:`Producer.send` does.
        """
        await wait_for_all([self])
        return result_of(self)


def settle(delivery: PendingDelivery, outcome: RecordMetadata | Refusal, unheard_now: Callable[[], Unheard]) -> None:
    """Let a delivery, and those who wait for it, know what became of the record.

    Args:
        delivery: of the record.
        outcome: what became of it.
        unheard_now: gives where to note a failure that nobody hears of.
    """
    delivery._outcome = outcome
    if isinstance(outcome, Refusal):
        delivery._untold = unheard_now
        _note_unless_heard(delivery)
    if delivery._event is not None:
        delivery._event.set()


def result_of(delivery: PendingDelivery) -> RecordMetadata:
    """What became of a record, once that is known; a failure is raised."""
    if isinstance(delivery._outcome, RecordMetadata):
        return delivery._outcome
    delivery._untold = None
    if delivery._unheard is not None:
        delivery._unheard.discard(delivery)
        delivery._unheard = None
    raise cast("Refusal", delivery._outcome).as_error()


async def wait_for_all(deliveries: Sequence[PendingDelivery], *, to_hear: bool = True) -> None:
    """Wait until it is known what became of all; there is no checkpoint after that.

    Args:
        deliveries: what to wait for.
        to_hear: whether the caller wants to know what became of them, and failures need no other hearer.
    """
    if all(delivery.is_settled for delivery in deliveries):
        await trio.lowlevel.checkpoint()
        return
    for delivery in deliveries:
        delivery._hearers += to_hear
    is_cancelled = True
    try:
        for delivery in deliveries:
            await _wait_settled(delivery)
        is_cancelled = False
    finally:
        for delivery in deliveries:
            delivery._hearers -= to_hear
            if is_cancelled:
                _note_unless_heard(delivery)


def _note_unless_heard(delivery: PendingDelivery) -> None:
    """Note a failure that nobody was told of, nor waits to be."""
    if delivery._untold is not None and delivery._unheard is None and not delivery._hearers:
        delivery._unheard = delivery._untold()
        delivery._unheard.add(delivery, cast("Refusal", delivery._outcome))


async def _wait_settled(delivery: PendingDelivery) -> None:
    if not delivery.is_settled:
        if delivery._event is None:
            delivery._event = trio.Event()
        await delivery._event.wait()


def metadata_of(message: Message) -> RecordMetadata:
    """Where an acknowledged record was put."""
    kind, milliseconds = message.timestamp()
    timestamp = None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds / 1000
    return RecordMetadata(
        cast("str", message.topic()), cast("int", message.partition()), cast("int", message.offset()), timestamp
    )


class Unheard:
    """Failures that nobody has been told of: how many, and the first of them."""

    def __init__(self) -> None:
        self._count = 0
        self._first: dict[PendingDelivery, Refusal] = {}

    def add(self, delivery: PendingDelivery, refusal: Refusal) -> None:
        """Note a failure."""
        self._count += 1
        if len(self._first) < _MAX_NAMED:
            self._first[delivery] = refusal

    def discard(self, delivery: PendingDelivery) -> None:
        """Somebody was told of a failure."""
        self._count -= 1
        self._first.pop(delivery, None)

    def as_error(self) -> DeliveryError | None:
        """The exception that tells of them, if there are any."""
        if not self._count:
            return None
        reasons = [refusal.as_error() for refusal in self._first.values()]
        lines = [f"{self._count} of the records sent weren't delivered, and nobody waited to be told:"]
        lines += [f"- {reason}" for reason in reasons]
        if self._count > len(reasons):
            lines.append(f"- and {self._count - len(reasons)} more")
        error = DeliveryError("\n".join(lines))
        if reasons:
            error.__cause__ = reasons[0].__cause__
            error.topic, error.partition = reasons[0].topic, reasons[0].partition
        return error
