"""A Kafka cluster, and the passing of time, that a test holds in its hands."""

from __future__ import annotations

from trio_parallel_kafka.testing.simulation.broker import (
    SimulatedBroker as SimulatedBroker,
    open_simulated_broker as open_simulated_broker,
)
from trio_parallel_kafka.testing.simulation.client import SimulatedClient as SimulatedClient
from trio_parallel_kafka.testing.simulation.consumer import open_simulated_consumer as open_simulated_consumer
from trio_parallel_kafka.testing.simulation.process import SimulatedProcess as SimulatedProcess
from trio_parallel_kafka.testing.simulation.scheduling import seeded as seeded, simulate as simulate
