"""The port: what is needed of a producer that isn't transactional."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from trio_parallel_kafka.errors import ParallelKafkaError
from trio_parallel_kafka.produced import ProducerRecord, RecordMetadata
from trio_parallel_kafka.producing.deliveries import PendingDelivery


class Sends(Protocol):
    """What :class:`.Producer` and the consumer's outbox need of a producer.

    Attributes:
        failure: what ended it before its time.
    """

    failure: ParallelKafkaError | None

    async def send(self, record: ProducerRecord) -> RecordMetadata:
        """Hand a record over; wait until it is acknowledged."""

    async def send_groups(self, groups: Iterable[Sequence[ProducerRecord]]) -> list[list[RecordMetadata] | Exception]:
        """Hand records over in order, none of others between them; wait until it is known what became of all.

        Once they are acknowledged there is no checkpoint.

        Returns:
            of each group, where its records are, or the first error that kept one from getting there; others are
            notes on it. Of a group that can't be serialised, nothing was sent.
        """

    def send_nowait(self, record: ProducerRecord) -> PendingDelivery:
        """Hand a record over now.

        Raises:
            trio.WouldBlock: there is no room, or others wait for it.
        """

    async def flush(self) -> None:
        """Wait until it is known what became of all that was handed over before; raise what nobody else hears of."""

    async def wait_ended(self) -> None:
        """Wait until no record can be sent any more."""
