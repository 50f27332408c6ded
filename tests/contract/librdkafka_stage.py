"""Brokers that are reached through librdkafka, as stages: the embedded one, and what Kafka has in common with it."""

from __future__ import annotations

import socket
import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import trio
from confluent_kafka import (
    Consumer,
    KafkaError as ClientError,
    KafkaException,
    Message,
    Producer,
    TopicPartition as ClientPartition,
)
from contract.stage import PATIENCE

from trio_parallel_kafka.control.client import Client
from trio_parallel_kafka.control.kafka_client import KafkaClient
from trio_parallel_kafka.testing import EmbeddedBroker

LEAVE_GROUP: Final = 13
CONSUMER_GROUP_HEARTBEAT: Final = 68


class LibrdkafkaStage:
    """What takes nothing but a client."""

    bounds_metadata = True
    tells_timestamps = True
    largest = 1_048_588

    def __init__(self, bootstrap_servers: str, protocol: str, properties: Mapping[str, Any]) -> None:
        self.protocol = protocol
        self.bootstrap_servers = bootstrap_servers
        self.properties: Mapping[str, Any] = {"log_level": 0, "fetch.wait.max.ms": 10, **properties}

    def unique(self, name: str) -> str:
        return f"{name}-{uuid.uuid4().hex[:12]}"

    async def produce(self, topic: str, values: Iterable[bytes], partition: int) -> None:
        await trio.to_thread.run_sync(self._produce, topic, list(values), partition)

    async def read(self, topic: str, partition: int) -> Sequence[Message]:
        return await trio.to_thread.run_sync(self._read, topic, partition)

    async def committed(self, group: str, topic: str) -> Mapping[int, tuple[int, str]]:
        return await trio.to_thread.run_sync(self._committed, group, topic)

    async def expel(self, client: Client, group: str) -> None:
        assert isinstance(client, KafkaClient)
        member: str = await client._call(client._thread.consumer.memberid)
        send = _leave_for if self.protocol == "consumer" else _leave_classic_for
        await trio.to_thread.run_sync(send, self.bootstrap_servers, group, member)

    def _produce(self, topic: str, values: Sequence[bytes], partition: int) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap_servers, "linger.ms": 0, "log_level": 0})
        for value in values:
            producer.produce(topic, value, partition=partition)
        assert producer.flush(PATIENCE) == 0

    def _read(self, topic: str, partition: int) -> Sequence[Message]:
        found: list[Message] = []
        reader = self._consumer("reader")
        try:
            reader.assign([ClientPartition(topic, partition, 0)])
            while True:
                message = reader.poll(PATIENCE)
                assert message is not None, "the broker is silent"
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == ClientError._PARTITION_EOF:
                    return found
                else:
                    raise KafkaException(error)
        finally:
            reader.close()

    def _committed(self, group: str, topic: str) -> Mapping[int, tuple[int, str]]:
        consumer = self._consumer(group)
        try:
            partitions = consumer.list_topics(topic, timeout=PATIENCE).topics[topic].partitions
            answer = consumer.committed([ClientPartition(topic, each) for each in partitions], timeout=PATIENCE)
            return {each.partition: (each.offset, each.metadata or "") for each in answer if each.offset >= 0}
        finally:
            consumer.close()

    def _consumer(self, group: str) -> Consumer:
        return Consumer(
            {
                **self.properties,
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )


class EmbeddedStage(LibrdkafkaStage):
    """The embedded broker."""

    bounds_metadata = False
    tells_timestamps = False

    def __init__(self, broker: EmbeddedBroker) -> None:
        super().__init__(broker.bootstrap_servers, "consumer", {})
        self.broker: Final = broker

    async def create_topic(self, name: str, partitions: int) -> None:
        await trio.lowlevel.checkpoint()
        self.broker.create_topic(name, partitions)

    async def expel(self, client: Client, group: str) -> None:
        await trio.lowlevel.checkpoint()
        self.broker.fail_next("ConsumerGroupHeartbeat", ClientError.UNKNOWN_MEMBER_ID)

    async def delete_records(self, topic: str, partition: int, before: int) -> None:
        raise AssertionError("no clause asks for what a broker lacks")


# To leave a group in another's name is what no client does. The requests are so small that they are made by hand.


def _leave_classic_for(bootstrap_servers: str, group: str, member: str) -> None:
    _request(bootstrap_servers, LEAVE_GROUP, b"", _text(group) + _text(member))


def _leave_for(bootstrap_servers: str, group: str, member: str) -> None:
    epoch = struct.pack(">i", -1)
    nothing_else = b"\0\0" + struct.pack(">i", -1) + b"\0\0\0\0"
    _request(
        bootstrap_servers, CONSUMER_GROUP_HEARTBEAT, b"\0", _compact(group) + _compact(member) + epoch + nothing_else
    )


def _request(bootstrap_servers: str, api: int, tags: bytes, body: bytes) -> None:
    """Send a request of version 0, and wait for its answer."""
    host, _, port = bootstrap_servers.partition(",")[0].rpartition(":")
    message = struct.pack(">hhi", api, 0, 1) + _text("test") + tags + body
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(struct.pack(">i", len(message)) + message)
        assert connection.recv(4), "the broker refused the request"


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _compact(text: str) -> bytes:
    assert len(text) < 127  # longer ones have their length in more bytes
    return bytes([len(text) + 1]) + text.encode()
