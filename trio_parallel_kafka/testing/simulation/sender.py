"""A producer at the simulated broker."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import trio
from confluent_kafka import KafkaError as ClientError

from trio_parallel_kafka.config.producer import ProducerConfig
from trio_parallel_kafka.errors import ParallelKafkaError, ProducerClosedError, SerializationError
from trio_parallel_kafka.produced import ProducerRecord, RawRecord, RecordMetadata
from trio_parallel_kafka.producing.deliveries import (
    PendingDelivery,
    Refusal,
    Unheard,
    result_of,
    settle,
    wait_for_all,
)
from trio_parallel_kafka.producing.encoding import Encoder

if TYPE_CHECKING:
    from trio_parallel_kafka.testing.simulation.broker import SimulatedBroker

CLOSED: Final = "the producer's block has ended; open another one with open_producer()"


class SimulatedSender:
    """See :class:`~trio_parallel_kafka.producing.port.Sends`. Records are written one after another, as handed over."""

    def __init__(self, broker: SimulatedBroker, config: ProducerConfig) -> None:
        self.failure: ParallelKafkaError | None = None
        self._broker: Final = broker
        self._timeout: Final = config.delivery_timeout
        self._close_timeout: Final = config.close_timeout
        self._encoder: Final = Encoder(config.serialize_key, config.serialize_value)
        self._in, self._out = trio.open_memory_channel[tuple[PendingDelivery, ProducerRecord, float]](math.inf)
        self._outstanding: Final[dict[PendingDelivery, None]] = {}
        self._ended: Final = trio.Event()
        self._life: Final = trio.CancelScope(shield=True)
        self._unheard = Unheard()

    async def send(self, record: ProducerRecord) -> RecordMetadata:
        delivery = self._hand_over(await self._encoded(record))
        await wait_for_all([delivery])
        return result_of(delivery)

    async def send_groups(self, groups: Iterable[Sequence[ProducerRecord]]) -> list[list[RecordMetadata] | Exception]:
        handed: list[list[PendingDelivery] | Exception] = []
        for group in groups:
            try:
                encoded = [await self._encoded(record) for record in group]
                handed.append([self._hand_over(record) for record in encoded])
            except (SerializationError, ParallelKafkaError) as error:
                handed.append(error)
        await wait_for_all([each for group in handed if not isinstance(group, Exception) for each in group])
        return [group if isinstance(group, Exception) else _result(group) for group in handed]

    def send_nowait(self, record: ProducerRecord) -> PendingDelivery:
        return self._hand_over(record if isinstance(record, RawRecord) else self._encoder.encode_here(record))

    async def flush(self) -> None:
        if self._in.statistics().open_send_channels == 0:
            raise ProducerClosedError(CLOSED)
        await wait_for_all(tuple(self._outstanding), to_hear=False)
        if error := self.problem():
            raise error

    async def wait_ended(self) -> None:
        await self._ended.wait()

    def problem(self) -> ParallelKafkaError | None:
        """What failed and nobody was told of."""
        unheard, self._unheard = self._unheard, Unheard()
        return unheard.as_error()

    # Life

    async def host(self) -> None:
        """Write what is handed over, until closed and all is written, or killed."""
        with self._life:
            async for delivery, record, deadline in self._out:
                self._settle(delivery, await self._write(record, deadline))
        for delivery in tuple(self._outstanding):
            self._settle(delivery, Refusal(ClientError(ClientError._PURGE_QUEUE), ""))  # noqa: SLF001 - its name
        self._ended.set()

    async def close(self) -> None:
        """Write what is outstanding, shielded and bounded by ``close_timeout``."""
        self._in.close()
        with trio.move_on_after(self._close_timeout, shield=True):
            await self._ended.wait()
        self.kill()

    def kill(self) -> None:
        """End at once."""
        self._in.close()
        self._life.cancel()

    async def _encoded(self, record: ProducerRecord) -> ProducerRecord:
        return record if isinstance(record, RawRecord) else await self._encoder(record)

    def _hand_over(self, record: ProducerRecord) -> PendingDelivery:
        delivery = PendingDelivery()
        try:
            self._in.send_nowait((delivery, record, trio.current_time() + self._timeout))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise ProducerClosedError(CLOSED) from None
        self._outstanding[delivery] = None
        return delivery

    async def _write(self, record: ProducerRecord, deadline: float) -> RecordMetadata | Refusal:
        broker, topic, partition = self._broker, record.topic, record.partition
        with trio.move_on_at(deadline):
            error = broker.refusal(record) or await broker.network.request("Produce", math.inf)
            outcome = broker.write(record) if error is None else Refusal(error, topic, partition)
            await broker.network.answer("Produce")
            return outcome
        return Refusal(ClientError(ClientError._MSG_TIMED_OUT), topic, partition)  # noqa: SLF001 - its name

    def _settle(self, delivery: PendingDelivery, outcome: RecordMetadata | Refusal) -> None:
        self._outstanding.pop(delivery, None)
        settle(delivery, outcome, lambda: self._unheard)


def _result(deliveries: Sequence[PendingDelivery]) -> list[RecordMetadata] | Exception:
    metadata: list[RecordMetadata] = []
    errors: list[Exception] = []
    for delivery in deliveries:
        try:
            metadata.append(result_of(delivery))
        except ParallelKafkaError as error:
            errors.append(error)
    return errors[0] if errors else metadata
