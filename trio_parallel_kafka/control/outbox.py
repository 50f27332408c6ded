"""Sends what handlers return, and dead letters, at least once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.config.producer import producer_for
from trio_parallel_kafka.control.cluster import current_cluster
from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.errors import DeliveryError, ParallelKafkaError
from trio_parallel_kafka.execution.outbox import Parcel
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producing.port import Sends
from trio_parallel_kafka.record import Record

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.outbox")


@attrs.define(eq=False)
class _Opening:
    """One try at opening a producer, and its end.

    Attributes:
        is_over: set once there is a sender, or an error.
        sender: the open producer.
        error: why there is none.
    """

    is_over: trio.Event = attrs.field(factory=trio.Event)
    sender: Sends | None = None
    error: Exception | None = None

    def failure(self) -> DeliveryError:
        """Why nothing can be sent; an exception of its own for each who asks."""
        reason = "the consumer has ended" if self.error is None else self.error
        failure = DeliveryError(f"there is no producer to send with: {reason}")
        failure.__cause__ = self.error
        return failure


class ProducerOutbox:
    """Sends with a producer that is opened when something is to be sent first, and anew after a fatal error.

    See :class:`~trio_parallel_kafka.execution.outbox.Outbox` for what the calls mean; a record is completed once the
    broker has acknowledged all its outputs.

    Args:
        config: the consumer's; without a ``producer`` of its own, it connects as the consumer does.
    """

    def __init__(self, config: ConsumerConfig) -> None:
        self._config: Final = config.producer or attrs.evolve(
            producer_for(config.bootstrap_servers, config.kafka),
            connect_timeout=config.connect_timeout,
            close_timeout=config.close_timeout,
        )
        self._opening: _Opening | None = None
        self._is_wanted: Final = trio.lowlevel.ParkingLot()
        self._has_ended = False

    async def run(self) -> None:
        """Keep the producer until cancelled. Whoever sends waits for this."""
        try:
            while True:
                while self._opening is None:
                    await self._is_wanted.park()
                await self._keep_open(self._opening)
        finally:
            self._has_ended = True
            if self._opening is not None:
                self._opening.is_over.set()

    async def send(self, _assignment: Assignment[Record], _record: Record, outputs: Sequence[ProducerRecord]) -> None:
        (error,) = await self._send([outputs])
        if error is not None:
            raise error

    async def send_all(self, parcels: Sequence[Parcel]) -> Sequence[Exception | None]:
        return await self._send([parcel.outputs for parcel in parcels])

    async def _send(self, groups: Sequence[Sequence[ProducerRecord]]) -> list[Exception | None]:
        opening = await self._opened()
        if opening.sender is None:
            return [opening.failure() for _ in groups]
        results = await opening.sender.send_groups(groups)
        return [result if isinstance(result, Exception) else None for result in results]

    async def _opened(self) -> _Opening:
        if self._opening is None:
            self._opening = _Opening()
            self._is_wanted.unpark_all()
            if self._has_ended:
                self._opening.is_over.set()
        opening = self._opening
        if opening.sender is None:
            await opening.is_over.wait()
        return opening

    async def _keep_open(self, opening: _Opening) -> None:
        try:
            async with current_cluster.get().open_sender(self._config) as sender:
                opening.sender = sender
                opening.is_over.set()
                await sender.wait_ended()
        except ParallelKafkaError as error:
            if opening.sender is None:
                opening.error = error
            elif error is not opening.sender.failure:  # which it has logged itself
                logger.warning("while leaving, %s: %s", type(error).__name__, error)
        finally:
            opening.is_over.set()
            self._opening = None
