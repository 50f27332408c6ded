"""What the clauses of the contract need of a broker, whichever it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from confluent_kafka import Message

from trio_parallel_kafka.config import ConsumerConfig, ProducerConfig
from trio_parallel_kafka.control.client import Client

PATIENCE: Final = 60.0
"""Seconds after which a clause hangs for certain."""

QUIET: Final = 0.2
"""Seconds in which what isn't to happen would happen."""

PROTOCOLS: Final[Mapping[str, Mapping[str, Any]]] = {
    "range": {"partition.assignment.strategy": "range"},
    "cooperative-sticky": {"partition.assignment.strategy": "cooperative-sticky"},
    "consumer": {"group.protocol": "consumer"},
}
"""The ways to rebalance, and what a member has to be told for each."""


class Stage(Protocol):
    """A broker, and its names that nobody else uses.

    Attributes:
        protocol: how its groups rebalance, one of :data:`PROTOCOLS`.
        bounds_metadata: whether it refuses metadata that is too large, as Kafka does.
        tells_timestamps: whether it says when it has put a record down.
        bootstrap_servers: where it is.
        properties: librdkafka's, for members.
        largest: bytes that a record may have, or a little less.
    """

    protocol: str
    bounds_metadata: bool
    tells_timestamps: bool
    bootstrap_servers: str
    properties: Mapping[str, Any]
    largest: int

    def unique(self, name: str) -> str:
        """A name of a topic or a group."""

    async def create_topic(self, name: str, partitions: int) -> None:
        """Make a topic, and wait until it is there."""

    async def produce(self, topic: str, values: Iterable[bytes], partition: int) -> None:
        """Write records, as another application does."""

    async def read(self, topic: str, partition: int) -> Sequence[Message]:
        """All that is in a partition now, for who reads only what is committed."""

    async def committed(self, group: str, topic: str) -> Mapping[int, tuple[int, str]]:
        """Offsets and metadata that a group has committed, by partition, where it has."""

    async def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Delete what is below an offset."""

    async def expel(self, client: Client, group: str) -> None:
        """Have the group take the member for gone, which doesn't know."""


Clause: TypeAlias = Callable[[Stage], Awaitable[None]]
"""What every broker does; its docstring says what that is."""


async def topic_with(stage: Stage, *counts: int) -> str:
    """Make a topic that holds so many records by partition, whose values are their offsets."""
    topic = stage.unique("orders")
    await stage.create_topic(topic, len(counts))
    for partition, count in enumerate(counts):
        await stage.produce(topic, [b"%d" % number for number in range(count)], partition)
    return topic


def consuming(stage: Stage, topic: str, **fields: Any) -> ConsumerConfig:
    """A configuration for a member."""
    given: dict[str, Any] = {"group_id": stage.unique("billing"), "topics": topic, **fields}
    kafka = {**stage.properties, **PROTOCOLS[stage.protocol], **given.pop("kafka", {})}
    return ConsumerConfig(bootstrap_servers=stage.bootstrap_servers, kafka=kafka, **given)


def sending(stage: Stage, **fields: Any) -> ProducerConfig:
    """A configuration for a producer that waits for nothing in vain."""
    kafka = {"log_level": 0, "linger.ms": 0, "topic.metadata.propagation.max.ms": 50}
    return ProducerConfig(bootstrap_servers=stage.bootstrap_servers, kafka=kafka, **fields)
