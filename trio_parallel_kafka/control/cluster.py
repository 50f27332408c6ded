"""Where consumers and producers get their clients from: librdkafka, unless a test puts something else in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Final, Protocol

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.config.producer import ProducerConfig
from trio_parallel_kafka.control.client import Client
from trio_parallel_kafka.control.gil import yielding_gil
from trio_parallel_kafka.control.kafka_client import open_kafka_client
from trio_parallel_kafka.errors import ParallelKafkaError
from trio_parallel_kafka.producing.port import Sends
from trio_parallel_kafka.producing.sender import open_sender
from trio_parallel_kafka.producing.transactional import MakesTransactions, TransactionalProducer


class Cluster(Protocol):
    """Makes clients; what they are connected to is named by the configuration, or known to the maker."""

    def open_client(
        self, config: ConsumerConfig, problems: list[ParallelKafkaError]
    ) -> AbstractAsyncContextManager[Client]:
        """A member of a group, for the length of a block; what the end has to tell goes to ``problems``."""

    def open_sender(self, config: ProducerConfig) -> AbstractAsyncContextManager[Sends]:
        """A producer, for the length of a block."""

    def transactional_producer(self, config: ConsumerConfig) -> MakesTransactions:
        """A transactional producer, which its user hosts, opens and closes."""


class Librdkafka:
    """Clients of librdkafka, by way of confluent-kafka."""

    def open_client(
        self, config: ConsumerConfig, problems: list[ParallelKafkaError]
    ) -> AbstractAsyncContextManager[Client]:
        return open_kafka_client(config, problems)

    @asynccontextmanager
    async def open_sender(self, config: ProducerConfig) -> AsyncIterator[Sends]:
        with yielding_gil():
            async with open_sender(config) as sender:
                yield sender

    def transactional_producer(self, config: ConsumerConfig) -> MakesTransactions:
        return TransactionalProducer(config)


current_cluster: Final[ContextVar[Cluster]] = ContextVar("current_cluster", default=Librdkafka())  # noqa: B039 - it has no state
"""Asked when a consumer or a producer is opened; inherited by tasks as Trio does with context variables."""
