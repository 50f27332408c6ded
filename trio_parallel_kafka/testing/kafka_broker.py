"""A cluster that is there already, for tests to make topics of their own on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

from confluent_kafka import KafkaError as ClientError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from trio_parallel_kafka.errors import BrokerUnreachableError, KafkaError

CONNECT_TIMEOUT: Final = 5.0
"""Seconds within which the cluster has to answer."""

ADMIN_TIMEOUT: Final = 30.0
"""Seconds that making or deleting a topic may take."""

LOOK_AGAIN: Final = 0.02
"""Seconds between two questions whether it is done."""


class KafkaBroker:
    """A real cluster; made by :func:`open_kafka_broker`.

    Attributes:
        bootstrap_servers: where it is.
    """

    def __init__(self, bootstrap_servers: str, admin: AdminClient) -> None:
        self.bootstrap_servers: Final = bootstrap_servers
        self._admin: Final = admin
        self._made: Final[list[str]] = []

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Make a topic, with as many replicas as the cluster gives by default; the end of the block deletes it.

        The call blocks until the brokers know the topic.

        Raises:
            KafkaError: the cluster has such a topic, or refuses it.
            ValueError: ``partitions`` is below 1.
        """
        if partitions < 1:
            raise ValueError(f"a topic has at least 1 partition, not {partitions}")
        topic = NewTopic(name, num_partitions=partitions)
        made = self._admin.create_topics([topic], operation_timeout=ADMIN_TIMEOUT, request_timeout=ADMIN_TIMEOUT)
        try:
            made[name].result()
        except KafkaException as error:
            problem: ClientError = error.args[0]
            message = f"couldn't make the topic {name!r} on {self.bootstrap_servers}: {problem.str()}"
            raise KafkaError(message, topic=name) from error
        self._made.append(name)
        self._wait_until_known([name], are_there=True)

    def _delete_topics(self) -> None:
        """Delete what was made here, and nothing else."""
        if not self._made:
            return
        deleted = self._admin.delete_topics(self._made, operation_timeout=ADMIN_TIMEOUT, request_timeout=ADMIN_TIMEOUT)
        for name, answer in deleted.items():
            try:
                answer.result()
            except KafkaException as error:
                problem: ClientError = error.args[0]
                if problem.code() != ClientError.UNKNOWN_TOPIC_OR_PART:  # or somebody has deleted it already
                    message = f"couldn't delete the topic {name!r}, please do it by hand: {problem.str()}"
                    raise KafkaError(message, topic=name) from error
        self._wait_until_known(self._made, are_there=False)

    def _wait_until_known(self, names: Sequence[str], *, are_there: bool) -> None:
        """The controller answers before the brokers know."""
        deadline = time.monotonic() + ADMIN_TIMEOUT
        while time.monotonic() < deadline:
            known = self._admin.list_topics(timeout=ADMIN_TIMEOUT).topics
            if all((name in known) is are_there for name in names):
                return
            time.sleep(LOOK_AGAIN)


@contextmanager
def open_kafka_broker(
    bootstrap_servers: str, *, kafka: Mapping[str, str | int] = MappingProxyType({})
) -> Iterator[KafkaBroker]:
    """Use a cluster that is there already, for the length of a block; topics made in it are deleted at its end.

    Consumer groups are left to the cluster, which forgets their offsets with the topics.

    Args:
        bootstrap_servers: where it is.
        kafka: librdkafka properties of the admin client, such as those of security.

    Raises:
        BrokerUnreachableError: it doesn't answer within 5 seconds.
        KafkaError: a topic couldn't be deleted.
    """
    reasons: list[ClientError] = []
    own: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "log_level": 0, "error_cb": reasons.append}
    admin = AdminClient({**own, **kafka})
    try:
        admin.list_topics(timeout=CONNECT_TIMEOUT)
    except KafkaException as error:
        admin.poll(0)  # serves error_cb, which alone knows the reason
        reason = next(iter(reasons), error.args[0]).str()
        message = f"no answer from {bootstrap_servers} within {CONNECT_TIMEOUT} s: {reason}"
        raise BrokerUnreachableError(message) from error
    broker = KafkaBroker(bootstrap_servers, admin)
    try:
        yield broker
    finally:
        broker._delete_topics()  # noqa: SLF001 - its other half: only the opener ends it
