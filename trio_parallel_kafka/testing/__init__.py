"""What tests and the demonstration run against instead of a real cluster."""

from __future__ import annotations

from trio_parallel_kafka.testing.embedded_broker import (
    EmbeddedBroker as EmbeddedBroker,
    EmbeddedBrokerError as EmbeddedBrokerError,
    open_embedded_broker as open_embedded_broker,
)
