"""An embedded broker for each test, and clients that end before it does."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest
import trio
from confluent_kafka import Consumer
from embedded.kit import assert_no_more_than, held
from embedded.poll_rig import StandIn

from trio_parallel_kafka.control import poll_thread
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


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll threads make no client but the stand-in, and don't wait long for the loop."""
    monkeypatch.setattr(poll_thread, "Consumer", StandIn)
    monkeypatch.setattr(poll_thread, "PATIENCE", 0.001)


@pytest.fixture
async def nothing_stays() -> AsyncIterator[None]:
    """No more threads and files are there after the test than before."""
    gc.collect()
    await trio.to_thread.run_sync(lambda: None)  # Trio keeps this thread for the next call
    before = held()
    yield
    await assert_no_more_than(before)
