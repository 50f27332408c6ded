"""What the tests of the producer on the embedded broker share."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, KafkaError as ClientError, Message, TopicPartition
from embedded.kit import PATIENCE

from trio_parallel_kafka.config import ProducerConfig
from trio_parallel_kafka.producer import Producer
from trio_parallel_kafka.producing.sender import Sender
from trio_parallel_kafka.testing import EmbeddedBroker

Written = list[tuple[bytes | None, bytes | None]]
"""Keys and values of records."""


def sending(broker: EmbeddedBroker, /, **fields: Any) -> ProducerConfig:
    """A configuration that sends at once and waits for nothing in vain."""
    kafka = {"log_level": 0, "linger.ms": 0, "topic.metadata.propagation.max.ms": 50, **fields.pop("kafka", {})}
    return ProducerConfig(bootstrap_servers=broker.bootstrap_servers, kafka=kafka, **fields)


def sender_of(producer: Producer) -> Sender:
    """What is behind a producer of librdkafka."""
    sender = producer._sender
    assert isinstance(sender, Sender)
    return sender


def messages(broker: EmbeddedBroker, partition: int = 0, topic: str = "orders") -> list[Message]:
    """All that was written to a partition."""
    properties = {"group.id": "reader", "enable.partition.eof": True, "fetch.wait.max.ms": 5, "log_level": 0}
    reader = Consumer({"bootstrap.servers": broker.bootstrap_servers, **properties})
    found: list[Message] = []
    try:
        reader.assign([TopicPartition(topic, partition, 0)])
        while True:
            message = reader.poll(PATIENCE)
            assert message is not None, "the broker is silent"
            error = message.error()
            if error is not None:
                assert error.code() == ClientError._PARTITION_EOF
                return found
            found.append(message)
    finally:
        reader.close()


def written(broker: EmbeddedBroker, partition: int = 0, topic: str = "orders") -> Written:
    """Keys and values of all that was written to a partition."""
    return [(message.key(), message.value()) for message in messages(broker, partition, topic)]


def values(broker: EmbeddedBroker, partition: int = 0) -> list[int]:
    """The numbers that were written to a partition."""
    return [int(value or b"-1") for _, value in written(broker, partition)]
