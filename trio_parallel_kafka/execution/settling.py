"""From the end of an attempt to the completion of its record, or to its next attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, assert_never

from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.errors import InvalidResultError, ParallelKafkaError
from trio_parallel_kafka.execution.outbox import Outbox, Parcel
from trio_parallel_kafka.execution.tally import Tally
from trio_parallel_kafka.execution.verdicts import Bury, Judge, PassOver, RetryLater, Stop
from trio_parallel_kafka.outcomes import DeadLetter, Skip, unwrapped
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.record import Record

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.workers")


class BuriesRecords(Protocol):
    """What sends dead letters."""

    async def __call__(
        self, assignment: Assignment[Record], record: Record, error: Exception, reason: str
    ) -> RetryLater | PassOver | None:
        """Send a dead letter. ``None``: it is sent. ``PassOver``: it isn't, but the record is to be completed.

        Raises:
            ParallelKafkaError: the consumer is to stop with this.
        """


class Settler:
    """Sees to what an attempt has led to.

    Args:
        tally: counted here.
        judge: decides about failures.
        outbox: takes what handlers return.
        bury: sends dead letters.
        on_stop: told of the errors that stop the consumer.
        on_failed_attempt: told of each attempt that raised or timed out.
    """

    def __init__(
        self,
        *,
        tally: Tally,
        judge: Judge,
        outbox: Outbox,
        bury: BuriesRecords,
        on_stop: Callable[[Record, Exception], None],
        on_failed_attempt: Callable[[], None],
    ) -> None:
        self._tally: Final = tally
        self._judge: Final = judge
        self._outbox: Final = outbox
        self._bury: Final = bury
        self._on_stop: Final = on_stop
        self._on_failed_attempt: Final = on_failed_attempt

    async def send(self, assignment: Assignment[Record], record: Record, result: object) -> None:
        """Send what the handler returned; there is no checkpoint after it is sure to be sent.

        Raises:
            InvalidResultError: it can't be sent.
            DeliveryError: it wasn't delivered.
        """
        outputs = outputs_of(result)
        if outputs:
            await self._outbox.send(assignment, record, outputs)
            self._tally.sent += len(outputs)

    async def send_all(self, parcels: Sequence[Parcel]) -> Sequence[Exception | None]:
        """Send what several records have resulted in; see :meth:`Outbox.send_all`."""
        if not parcels:
            return ()
        errors = await self._outbox.send_all(parcels)
        self._tally.sent += sum(len(each.outputs) for each, error in zip(parcels, errors, strict=True) if error is None)
        return errors

    async def settle(self, lane: Lane[Record], record: Record, error: Exception) -> RetryLater | Stop | None:
        """Deal with an attempt that didn't end well. ``None``: the record may be completed."""
        is_over = lane.error is not None
        if not is_over:
            self.count_failure(error)
        match self._judge(record, error, may_retry=not is_over):
            case RetryLater() as verdict:
                self._tally.retried += 1
                return verdict
            case Stop(note) as verdict:
                if note is not None:
                    error.add_note(note)
                self._on_stop(record, error)
                return verdict
            case PassOver(reason):
                self._tally.skipped += 1
                logger.warning("%r is skipped: %s", record, reason)
            case Bury(reason):
                return await self._send_to_the_dead(lane, record, error, reason)
            case unknown:
                assert_never(unknown)
        return None

    def count_failure(self, error: Exception) -> None:
        """An attempt at a record ended so; that may have been the handler's decision."""
        if not is_decision(error):
            self._tally.failed += 1
            self._on_failed_attempt()

    async def _send_to_the_dead(
        self, lane: Lane[Record], record: Record, error: Exception, reason: str
    ) -> RetryLater | Stop | None:
        try:
            later = await self._bury(lane.group.owner, record, error, reason)
        except ParallelKafkaError as undeliverable:
            self._on_stop(record, undeliverable)
            return Stop()
        if isinstance(later, RetryLater):
            lane.error = error
            return later
        if later is None:
            self._tally.dead_lettered += 1
        else:
            self._tally.skipped += 1
        return None


def is_decision(error: Exception) -> bool:
    """Whether the handler has decided about its record, rather than failed."""
    return isinstance(unwrapped(error), Skip | DeadLetter)


def outputs_of(result: object) -> Sequence[ProducerRecord]:
    """What a handler's result has to be sent.

    Raises:
        InvalidResultError: it isn't ``None``, a :class:`ProducerRecord`, or several of them.
    """
    if result is None:
        return ()
    if isinstance(result, ProducerRecord):
        return (result,)
    if isinstance(result, Iterable) and not isinstance(result, str | bytes | bytearray | dict):
        outputs = tuple(result)
        if all(isinstance(each, ProducerRecord) for each in outputs):
            return outputs
        strange = next(each for each in outputs if not isinstance(each, ProducerRecord))
        message = f"the handler returned several objects, among them a {type(strange).__name__}"
    else:
        message = f"the handler returned a {type(result).__name__}"
    raise InvalidResultError(f"{message}; return nothing, or a ProducerRecord, or a list of them")
