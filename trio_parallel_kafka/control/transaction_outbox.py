"""Holds what handlers return until a transaction takes it along."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final

import trio

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.config.producer import producer_for
from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.core.held import Held, HeldOutputs
from trio_parallel_kafka.errors import RecordTooLargeError
from trio_parallel_kafka.execution.outbox import Parcel
from trio_parallel_kafka.produced import ProducerRecord, RawRecord
from trio_parallel_kafka.producing.arguments import produce_arguments
from trio_parallel_kafka.producing.encoding import Encoder
from trio_parallel_kafka.record import Record

MAX_HELD: Final = 10_000
"""Outputs held at once, all partitions together; a handler that returns more when they are reached waits. From half of
it on, a transaction is made without waiting for the interval."""

MAX_HELD_BYTES: Final = 16 * 1024 * 1024
"""The same in bytes of keys, values and headers."""

LOOK_AGAIN: Final = 1.0
"""Seconds after which it is looked again whether what was beyond the map still is."""

_MAX_BYTES: Final = "message.max.bytes"
_CLIENT_DEFAULT: Final = 1_000_000
_BROKER_DEFAULT: Final = 1_048_588
_PER_RECORD: Final = 120
_PER_HEADER: Final = 10
"""Bytes that a record, and a header, take at most besides what is in them."""


class TransactionOutbox:
    """See :class:`~trio_parallel_kafka.execution.outbox.Outbox`.

    Args:
        config: the consumer's: how outputs are serialised, and how large they may be.
    """

    def __init__(self, config: ConsumerConfig) -> None:
        producer = config.producer or producer_for(config.bootstrap_servers, config.kafka)
        self._largest: Final = _largest(config)
        self._encoder: Final = Encoder(producer.serialize_key, producer.serialize_value)
        self._held: Final[HeldOutputs[ProducerRecord]] = HeldOutputs(MAX_HELD, MAX_HELD_BYTES)
        self._room: Final = trio.lowlevel.ParkingLot()
        self._due: Final = trio.lowlevel.ParkingLot()
        self._is_hurried = False

    @property
    def count(self) -> int:
        """How many outputs are held."""
        return self._held.count

    @property
    def size(self) -> int:
        """Their bytes."""
        return self._held.size

    # What workers call

    async def send(self, assignment: Assignment[Record], record: Record, outputs: Sequence[ProducerRecord]) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        held = await self._prepared(assignment, record, outputs)
        await self._wait_for_room()
        self._hold(held)

    async def send_all(self, parcels: Sequence[Parcel]) -> Sequence[Exception | None]:
        await trio.lowlevel.checkpoint_if_cancelled()
        results: list[Held[ProducerRecord] | Exception] = []
        for parcel in parcels:
            try:
                results.append(await self._prepared(parcel.assignment, parcel.record, parcel.outputs))
            except Exception as error:  # noqa: BLE001 - as every failure of an attempt
                results.append(error)
        await self._wait_for_room()
        for result in results:
            if isinstance(result, Held):
                self._hold(result)
        return [result if isinstance(result, Exception) else None for result in results]

    async def _prepared(
        self, assignment: Assignment[Record], record: Record, outputs: Sequence[ProducerRecord]
    ) -> Held[ProducerRecord]:
        """Find out now what is wrong with an output: it is this record's attempt that has failed then."""
        raw = [each if isinstance(each, RawRecord) else await self._encoder(each) for each in outputs]
        return Held(assignment, record.offset, raw, sum(map(self._checked_size, raw)))

    def _checked_size(self, record: ProducerRecord) -> int:
        size = _PER_RECORD + len(record.key or b"") + len(record.value or b"")
        size += sum(_PER_HEADER + len(name.encode()) + len(value or b"") for name, value in record.headers)
        if size > self._largest:
            message = (
                f"a record for {record.topic} has {size} bytes, and may have {self._largest}; where brokers and topic "
                "allow more, raise message.max.bytes (in `producer.kafka` if there is a `producer`, else in `kafka`)"
            )
            raise RecordTooLargeError(message, topic=record.topic, partition=record.partition)
        produce_arguments(record)
        return size

    async def _wait_for_room(self) -> None:
        while self._held.is_full:
            await self._room.park()

    def _hold(self, held: Held[ProducerRecord]) -> None:
        if held.assignment.is_current:
            self._held.hold(held)
            if self._held.is_half_full:
                self._due.unpark_all()

    # What the committer calls

    def fitting(self, entries: Collection[CommitEntry]) -> list[Held[ProducerRecord]]:
        """What goes with these commits."""
        return self._held.fitting(entries)

    def release(self, gone: Collection[Held[ProducerRecord]]) -> None:
        """This is committed."""
        self._held.release(gone)
        self._room.unpark_all()

    def look_beyond(self, entries: Collection[CommitEntry]) -> set[Assignment[Record]]:
        """Given all commits to be made, say of which assignments something held goes with none."""
        self._held.drop_ended()
        self._held.set_beyond(entries)
        self._room.unpark_all()
        return self._held.beyond_the_map

    def hurry(self) -> None:
        """Let :meth:`wait_until_due` return."""
        self._is_hurried = True
        self._due.unpark_all()

    async def wait_until_due(self) -> None:
        """Wait until a transaction is to be made before the interval is over."""
        while not (self._is_hurried or self._held.is_half_full):
            with trio.move_on_after(LOOK_AGAIN if self._held.beyond_the_map else math.inf) as look:
                await self._due.park()
            if look.cancelled_caught:
                break
        self._is_hurried = False
        await trio.lowlevel.checkpoint()


def _largest(config: ConsumerConfig) -> int:
    """Bytes that a record may have. A broker's refusal would come too late to be a failure of the record's attempt."""
    default = _BROKER_DEFAULT if config.producer is None else _CLIENT_DEFAULT
    given = config.kafka if config.producer is None else config.producer.kafka
    return int(str(given.get(_MAX_BYTES, default)))
