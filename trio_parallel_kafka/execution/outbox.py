"""The port through which workers send what their records resulted in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.record import Record


@attrs.frozen(eq=False)
class Parcel:
    """What one record resulted in."""

    assignment: Assignment[Record]
    record: Record
    outputs: Sequence[ProducerRecord]


class Outbox(Protocol):
    """Where outputs and dead letters go."""

    async def send(self, assignment: Assignment[Record], record: Record, outputs: Sequence[ProducerRecord]) -> None:
        """See to it that ``outputs`` are out once ``record`` is committed; return when it may be completed.

        Between the moment when they are sure to be sent and the return there is no checkpoint: the caller completes
        the record at once. Outputs of one key keep the order of these calls. Cancelled, it is unknown which of them
        were sent; the record isn't completed then.

        Raises:
            DeliveryError: a broker refused one of them, or didn't acknowledge it in time.
            SerializationError: one can't be serialised; nothing was sent.
        """

    async def send_all(self, parcels: Sequence[Parcel]) -> Sequence[Exception | None]:
        """The same for several records at once; say of each why its outputs aren't out, or ``None`` if they are.

        What may be completed is completed by the caller at once.
        """
