"""The transactional producer on a real broker: the contract that its fake is held against, and the broker's outages."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from broker.cluster import Cluster
from broker.kafka_server import KafkaServer, StartKafka
from broker.scenario import PATIENCE
from confluent_kafka import Consumer, TopicPartition as ClientPartition
from shell.transaction_contract import CONTRACT, Stage, opened, transaction

from trio_parallel_kafka import AuthorizationError, BrokerUnreachableError, ConsumerConfig
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.producing import transactional
from trio_parallel_kafka.producing.transaction_thread import Ending, TransactionThread
from trio_parallel_kafka.producing.transactional import TransactionalProducer

SHORT = 3.0
"""Seconds after which the broker gives up a transaction, in tests that wait for it."""


class RealStage:
    """A member of a group, and topics of its own."""

    largest = 1_048_588

    def __init__(self, kafka: Cluster, **properties: Any) -> None:
        self.source = TopicPartition(kafka.unique("orders"), 0)
        self.output = kafka.unique("results")
        kafka.create_topic(self.source.topic, 1)
        kafka.create_topic(self.output, 2)
        self._kafka = kafka
        self._group = kafka.unique("billing")
        self._identity = kafka.unique("identity")
        self._member: Consumer | None = None
        self._properties = properties

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[TransactionalProducer]:
        producer = TransactionalProducer(
            ConsumerConfig(
                bootstrap_servers=self._kafka.bootstrap_servers,
                group_id=self._group,
                topics=self.source.topic,
                delivery="exactly_once",
                transactional_id=self._identity,
                kafka={"log_level": 0, **self._properties},
            )
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.host)
            try:
                yield producer
            finally:
                await producer.close()
        assert producer.problem is None

    async def metadata(self) -> object:
        return await trio.to_thread.run_sync(self._metadata)

    async def leave(self) -> None:
        await trio.to_thread.run_sync(self.close)

    async def seen(self) -> list[bytes]:
        return await trio.to_thread.run_sync(self._seen)

    async def committed(self) -> tuple[int, str] | None:
        found = await trio.to_thread.run_sync(self._kafka.committed, self._group, self.source.topic)
        return found.get(0)

    def close(self) -> None:
        if self._member is not None:
            self._member.close()
            self._member = None

    def _metadata(self) -> object:
        if self._member is None:
            self._member = Consumer(
                {
                    "bootstrap.servers": self._kafka.bootstrap_servers,
                    "group.id": self._group,
                    "enable.auto.commit": False,
                    "log_level": 0,
                }
            )
            self._member.subscribe([self.source.topic])
        while not self._member.assignment():
            self._member.poll(0.05)
        return self._member.consumer_group_metadata()

    def _seen(self) -> list[bytes]:
        """Read up to where the log ended when this began."""
        reader = Consumer(
            {
                "bootstrap.servers": self._kafka.bootstrap_servers,
                "group.id": "none",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
                "log_level": 0,
            }
        )
        seen: list[bytes] = []
        try:
            reader.assign([ClientPartition(self.output, 0, 0)])
            while True:
                (message,) = reader.consume(1, 30)
                if message.error() is not None:  # the end
                    return seen
                seen.append(message.value() or b"")
        finally:
            reader.close()


@pytest.fixture
def stage(kafka: Cluster) -> Any:
    """A stage on the shared broker."""
    made = RealStage(kafka)
    yield made
    made.close()


@pytest.mark.parametrize("clause", CONTRACT)
async def test_contract(stage: RealStage, clause: Callable[[Stage], Awaitable[None]]) -> None:
    """See the clause."""
    with trio.fail_after(PATIENCE):
        await clause(stage)
