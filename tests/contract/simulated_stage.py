"""The simulated broker as a stage."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import trio
from confluent_kafka import Message

from trio_parallel_kafka.control.client import Client
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.testing.simulation import SimulatedBroker, SimulatedClient


class SimulatedStage:
    """In virtual time; clients find the broker by themselves."""

    bounds_metadata = True
    tells_timestamps = True
    bootstrap_servers = "simulated:9092"
    properties: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, broker: SimulatedBroker, protocol: str) -> None:
        self.protocol = protocol
        self.broker: Final = broker
        self.largest = broker.max_message_bytes
        self._numbers = itertools.count()

    def unique(self, name: str) -> str:
        return f"{name}-{next(self._numbers)}"

    async def create_topic(self, name: str, partitions: int) -> None:
        await trio.lowlevel.checkpoint()
        self.broker.create_topic(name, partitions)

    async def produce(self, topic: str, values: Iterable[bytes], partition: int) -> None:
        await trio.lowlevel.checkpoint()
        for value in values:
            self.broker.produce(topic, value, partition=partition)

    async def read(self, topic: str, partition: int) -> Sequence[Message]:
        await trio.lowlevel.checkpoint()
        return list(self.broker.logs[TopicPartition(topic, partition)].records.values())

    async def committed(self, group: str, topic: str) -> Mapping[int, tuple[int, str]]:
        await trio.lowlevel.checkpoint()
        found = self.broker.committed(group)
        return {place[1]: (offset, metadata or "") for place, (offset, metadata) in found.items() if place[0] == topic}

    async def delete_records(self, topic: str, partition: int, before: int) -> None:
        await trio.lowlevel.checkpoint()
        self.broker.delete_records(topic, partition, before=before)

    async def expel(self, client: Client, group: str) -> None:
        await trio.lowlevel.checkpoint()
        assert isinstance(client, SimulatedClient)
        self.broker.expel(client)
