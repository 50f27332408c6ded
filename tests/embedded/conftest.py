"""An embedded broker for each test, and clients that end before it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from confluent_kafka import Consumer

from trio_parallel_kafka.testing import EmbeddedBroker, open_embedded_broker

OpenConsumer = Callable[..., Consumer]


@pytest.fixture
def embedded_broker() -> Iterator[EmbeddedBroker]:
    """A fresh embedded broker with the topic ``orders``, of two partitions."""
    with open_embedded_broker({"orders": 2}) as broker:
        yield broker


@pytest.fixture
def open_consumer(embedded_broker: EmbeddedBroker) -> Iterator[OpenConsumer]:
    """Make bare consumers of the embedded broker; librdkafka properties override the defaults."""
    defaults = {
        "bootstrap.servers": embedded_broker.bootstrap_servers,
        "group.id": "billing",
        "group.protocol": "consumer",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "fetch.wait.max.ms": 5,
        "log_level": 0,
    }
    with ExitStack() as consumers:

        def open_one(properties: dict[str, object] | None = None) -> Consumer:
            consumer = Consumer({**defaults, **(properties or {})})
            consumers.callback(consumer.close)
            return consumer

        yield open_one
