"""Sends the orders to their topic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from confluent_kafka import KafkaError as ClientError, Message, Producer

from trio_parallel_kafka.cli.orders import Order
from trio_parallel_kafka.cli.topics import SILENT, OrderTopic
from trio_parallel_kafka.errors import KafkaError

MAX_UNDELIVERED: Final = 2_000
"""Orders that may be on their way at once."""

DELIVERY_TIMEOUT: Final = 30.0
"""Seconds within which the cluster has to take an order."""

_FLUSH_TIMEOUT: Final = 0.1


class OrderProducer:
    """Produces to one topic, in order."""

    def __init__(self, topic: OrderTopic) -> None:
        self._topic: Final = topic
        self._delivered = 0
        self._refusal: ClientError | None = None

    def produce(self, orders: Sequence[Order], on_progress: Callable[[int], None]) -> None:
        """Produce the orders, and wait until all are acknowledged.

        Args:
            orders: in the order to produce them in.
            on_progress: told now and then how many are acknowledged.

        Raises:
            KafkaError: one of them wasn't taken.
        """
        # Made here and dropped on return: so it ends before the broker does, interrupted or not.
        producer = Producer(
            {
                "bootstrap.servers": self._topic.bootstrap_servers,
                "enable.idempotence": True,  # or a retry could change the order
                "delivery.timeout.ms": int(DELIVERY_TIMEOUT * 1000),
                "log_level": SILENT,
            }
        )
        for order in orders:
            while len(producer) >= MAX_UNDELIVERED:
                self._flush(producer, on_progress)
            producer.produce(
                self._topic.name,
                key=order.key,
                value=order.value,
                partition=order.partition,
                on_delivery=self._on_delivery,
            )
        while self._flush(producer, on_progress):
            pass

    def _flush(self, producer: Producer, on_progress: Callable[[int], None]) -> int:
        """Wait for a moment, report; return how many are left to deliver."""
        left = producer.flush(_FLUSH_TIMEOUT)
        if self._refusal is not None:
            message = f"couldn't produce to {self._topic.name} on {self._topic.place}: {self._refusal.str()}"
            raise KafkaError(message, topic=self._topic.name)
        on_progress(self._delivered)
        return left

    def _on_delivery(self, error: ClientError | None, _message: Message) -> None:
        if error is None:
            self._delivered += 1
        else:
            self._refusal = self._refusal or error
