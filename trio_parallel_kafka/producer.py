"""The front door for sending: a producer that lives in an ``async with`` block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from trio_parallel_kafka.config.producer import ProducerConfig
from trio_parallel_kafka.control.cluster import current_cluster
from trio_parallel_kafka.produced import ProducerRecord, RecordMetadata
from trio_parallel_kafka.producing.deliveries import PendingDelivery
from trio_parallel_kafka.producing.port import Sends


class Producer:
    """Sends records, made by :func:`open_producer`.

    Any number of tasks of the Trio run that opened it may use it at once.

    **Ordering.** Records go to the client in the order of the calls; those for one partition are written in that order,
    whatever the client had to repeat. Who waits for room waits in line. (With serialisers that may block, two tasks
    that send at once have no order among them.)
    """

    def __init__(self, sender: Sends) -> None:
        self._sender: Final = sender

    async def send(
        self,
        topic: str,
        value: Any = None,
        *,
        key: Any = None,
        headers: Iterable[tuple[str, bytes | None]] = (),
        partition: int | None = None,
        timestamp: float | None = None,
    ) -> RecordMetadata:
        """Send a record, and wait until the broker has acknowledged it.

        While the client's queue is full (``queue.buffering.max.messages``, ``queue.buffering.max.kbytes``) it waits
        for room. Throughput comes from many tasks that send at once.

        Args:
            topic: where to. It has to exist.
            value: what ``serialize_value`` takes; without one, bytes, ``str`` (sent as UTF-8) or ``None``.
            key: the same with ``serialize_key``. Records of one key go to one partition.
            headers: pairs of name and raw bytes or ``None``.
            partition: the partition; ``None``: the client chooses one by key.
            timestamp: seconds since 1970; ``None``: now.

        Returns:
            Where the broker put it.

        **Cancellation.** It is unknown whether the record was, or will be, written; the client isn't told. A failure
        that becomes known afterwards is reported by :meth:`flush`, or at the end of the block.

        Raises:
            DeliveryError: the broker refused the record, or didn't acknowledge it within ``delivery_timeout``. The
                message says whether it may have been written all the same. The client's own error is its cause.
            RecordTooLargeError: a ``DeliveryError``; the record is larger than the client or the topic allows.
            SerializationError: key or value can't be serialised; nothing was sent.
            ProducerClosedError: the block has ended, or ends while the record waits for room.
        """
        record = ProducerRecord(topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp)
        return await self._sender.send(record)

    async def send_all(self, records: Iterable[ProducerRecord]) -> list[RecordMetadata]:
        """Send several records in order, none of others between them, and wait for all acknowledgements.

        They may end up written in part: this is no transaction.

        Args:
            records: what to send.

        Returns:
            Where the broker put each.

        **Cancellation.** As for :meth:`send`, for each of them.

        Raises:
            DeliveryError: of the first that failed, once it is known of all what became of them; notes on it tell
                of the others.
            SerializationError: one can't be serialised; nothing was sent.
            ProducerClosedError: as for :meth:`send`.
        """
        (result,) = await self._sender.send_groups([tuple(records)])
        if isinstance(result, Exception):
            raise result
        return result

    def send_nowait(
        self,
        topic: str,
        value: Any = None,
        *,
        key: Any = None,
        headers: Iterable[tuple[str, bytes | None]] = (),
        partition: int | None = None,
        timestamp: float | None = None,
    ) -> PendingDelivery:
        """Hand a record to the client now; what it returns can be waited for, or not.

        A failure that nobody waits for isn't lost: :meth:`flush`, or the end of the block, reports it. The arguments
        are those of :meth:`send`.

        Raises:
            trio.WouldBlock: the client's queue is full, or others wait for room in it.
            DeliveryError: the client refuses the record, or has ended.
            SerializationError: key or value can't be serialised, or only by a serialiser that may block. One that
                never does is to be wrapped in :class:`Inline`.
            ProducerClosedError: the block has ended.
        """
        record = ProducerRecord(topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp)
        return self._sender.send_nowait(record)

    async def flush(self) -> None:
        """Wait until it is known what became of all records that were sent before.

        **Cancellation.** Only the waiting ends.

        Raises:
            DeliveryError: some weren't delivered, and nobody waited for them. It says how many, and names the first.
                Each failure is reported once.
            ProducerClosedError: the block has ended.
        """
        await self._sender.flush()


@asynccontextmanager
async def open_producer(config: ProducerConfig) -> AsyncIterator[Producer]:
    """Open a producer for the length of a block.

    The thread and the client end with the block, on every path. Leaving waits up to ``close_timeout`` for records that
    aren't acknowledged yet, shielded from cancellation, and as long again for the client to close.

    Args:
        config: where to, and how.

    Raises:
        BrokerUnreachableError: at the start; no broker answered within ``connect_timeout``.
        AuthenticationError: at the start; credentials or certificates were refused.
        ConfigError: at the start; librdkafka refused the properties.
        KafkaError: at the end; a fatal error had ended the client. Whatever was sent after that, or was on its way,
            has raised a :exc:`DeliveryError`.
        DeliveryError: at the end; some records weren't delivered, and nobody waited for them. It says how many, and
            names the first.
        CloseTimeoutError: at the end; the client didn't close within ``close_timeout`` and one daemon thread is
            left to it.

    What the body raises leaves as it is. If the end has a problem of its own by then, it is added as a note; in place
    of a cancellation it is raised.

    **Cancellation.** A cancelled block still gets what was sent delivered, within ``close_timeout``.
    """
    async with current_cluster.get().open_sender(config) as sender:
        yield Producer(sender)
