"""Where the orders go: a topic of their own on the embedded broker, or on a real cluster."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final

import attrs
from confluent_kafka import KafkaError as ClientError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from trio_parallel_kafka.config import ConsumerConfig, Ordering
from trio_parallel_kafka.errors import BrokerUnreachableError, KafkaError

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.cli")

EMBEDDED_CAPACITY: Final = 40_000
"""Orders that the embedded broker is sure to keep in a partition: it drops the oldest beyond 5 MiB, and an order
takes less than 128 bytes."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds within which a real cluster has to answer."""

ADMIN_TIMEOUT: Final = 10.0
"""Seconds that making or deleting the topic may take."""

SILENT: Final = 0
"""librdkafka's ``log_level`` for clients whose troubles are errors of the calls anyway."""


@attrs.frozen
class OrderTopic:
    """A topic that nobody else uses.

    Attributes:
        name: its name; the consumer group has it, too.
        bootstrap_servers: where it is.
        place: the same, for people.
        kafka: librdkafka properties that suit a consumer there.
    """

    name: str
    bootstrap_servers: str
    place: str
    kafka: Mapping[str, str | int] = attrs.field(factory=dict)

    def consumer_config(self, *, ordering: Ordering, max_concurrency: int) -> ConsumerConfig:
        """The configuration of a consumer that reads it from the start."""
        return ConsumerConfig(
            bootstrap_servers=self.bootstrap_servers,
            group_id=self.name,
            topics=self.name,
            ordering=ordering,
            max_concurrency=max_concurrency,
            kafka=self.kafka,
        )


def open_topic(bootstrap_servers: str | None, *, partitions: int) -> AbstractContextManager[OrderTopic]:
    """Make a topic for the length of a block: on the cluster named, or else on an embedded broker."""
    if bootstrap_servers is None:
        return _embedded_topic(partitions)
    return _real_topic(bootstrap_servers, partitions)


@contextmanager
def _embedded_topic(partitions: int) -> Iterator[OrderTopic]:
    # Here, because members and health checks, which never get here, should start fast.
    from trio_parallel_kafka.testing import open_embedded_broker  # noqa: PLC0415

    with open_embedded_broker({"orders": partitions}) as broker:
        yield OrderTopic(
            name="orders",
            bootstrap_servers=broker.bootstrap_servers,
            place="the embedded broker",
            kafka={"group.protocol": "consumer", "fetch.wait.max.ms": 10},
        )


@contextmanager
def _real_topic(bootstrap_servers: str, partitions: int) -> Iterator[OrderTopic]:
    topic = OrderTopic(f"trio-parallel-kafka-demo-{uuid.uuid4().hex[:12]}", bootstrap_servers, bootstrap_servers)
    admin = _connect(bootstrap_servers)
    is_made = False
    try:
        _make_topic(admin, topic, partitions)
        is_made = True
        yield topic
    finally:
        # Also after a refusal or an interruption: the cluster may have made it none the less.
        problem = _delete_topic(admin, topic)
        if is_made:
            _delete_group(admin, topic)
            if problem is not None:
                logger.warning("couldn't delete the topic %s, please do it by hand: %s", topic.name, problem.str())


def _connect(bootstrap_servers: str) -> AdminClient:
    reasons: list[ClientError] = []
    properties: dict[str, Any] = {
        "bootstrap.servers": bootstrap_servers,
        "log_level": SILENT,
        "error_cb": reasons.append,
    }
    admin = AdminClient(properties)
    try:
        admin.list_topics(timeout=CONNECT_TIMEOUT)
    except KafkaException as error:
        admin.poll(0)  # serves error_cb, which alone knows the reason
        reason = next(iter(reasons), error.args[0]).str()
        raise BrokerUnreachableError(
            f"no answer from {bootstrap_servers} within {CONNECT_TIMEOUT} s: {reason}"
        ) from error
    return admin


def _make_topic(admin: AdminClient, topic: OrderTopic, partitions: int) -> None:
    made = admin.create_topics(
        [NewTopic(topic.name, partitions)], operation_timeout=ADMIN_TIMEOUT, request_timeout=ADMIN_TIMEOUT
    )
    try:
        made[topic.name].result()
    except KafkaException as error:
        message = f"couldn't make the topic {topic.name} on {topic.place}: {error.args[0].str()}"
        raise KafkaError(message, topic=topic.name) from error


def _delete_topic(admin: AdminClient, topic: OrderTopic) -> ClientError | None:
    deleted = admin.delete_topics([topic.name], operation_timeout=ADMIN_TIMEOUT, request_timeout=ADMIN_TIMEOUT)
    try:
        deleted[topic.name].result()
    except KafkaException as error:
        problem: ClientError = error.args[0]
        return problem
    return None


def _delete_group(admin: AdminClient, topic: OrderTopic) -> None:
    # No need to speak of a failure: the cluster itself removes a group without members whose topic is gone.
    with suppress(KafkaException):
        admin.delete_consumer_groups([topic.name], request_timeout=ADMIN_TIMEOUT)[topic.name].result()
