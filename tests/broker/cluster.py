"""What tests do to a Kafka cluster besides consuming from it: topics, records, committed offsets, ACLs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")

ANSWER_TIMEOUT = 30.0
"""Seconds that any one request to the cluster may take, and that the delivery of all records may pause."""

_ATTEMPT_TIMEOUT = 5.0
_PARTITIONER = -1

# What a broker answers for a while when it, or the group that it is asked about, has just started.
_PASSING_ERRORS = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
}


class NewRecord(NamedTuple):
    """A record to produce; a plain tuple of its first two, three or four values will do as well."""

    key: bytes | None
    value: bytes | None
    partition: int = _PARTITIONER
    headers: Iterable[tuple[str, bytes | None]] = ()


class Cluster:
    """A cluster, whoever runs it. The calls block; an async test wraps them in a thread.

    Args:
        bootstrap_servers: where to connect; open to everything that is done here.
    """

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self._client: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            # The broker may have been restarted since the last call.
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "log_level": 0,
            "error_cb": lambda _error: None,
        }
        self.admin = AdminClient(self._client)
        self._names: set[str] = set()

    def unique(self, name: str) -> str:
        """Return a name for a topic or a group that no other test has; :meth:`clean_up` knows it."""
        unique = f"{name}-{uuid.uuid4().hex[:12]}"
        self._names.add(unique)
        return unique

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create a topic with one replica and wait until every partition has a leader."""
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        _ask(lambda: self.admin.create_topics([topic]))
        _wait(f"leaders of {name}", lambda: self._partitions_with_leader(name) == partitions)

    def delete_topic(self, name: str) -> None:
        """Delete a topic and wait until it is gone."""
        _ask(lambda: self.admin.delete_topics([name]))
        _wait(f"the end of {name}", lambda: self._partitions_with_leader(name) == 0)

    def topic_id(self, name: str) -> str:
        """Return the id of a topic: another one once it has been deleted and made again."""
        (described,) = _ask(lambda: self.admin.describe_topics(TopicCollection([name]))).values()
        return str(described.topic_id)

    def produce(self, topic: str, records: Iterable[NewRecord | tuple[Any, ...]]) -> int:
        """Produce records in their order and wait until the broker has acknowledged every one.

        A key goes to the partition that Java's clients would choose.

        Returns:
            How many records there were.

        Raises:
            KafkaException: if a record wasn't delivered.
            TimeoutError: if deliveries stop coming.
        """
        delivery = _Delivery()
        producer = Producer(
            {
                **self._client,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.max.bytes": 1_000_000_000,  # how large records may be is the topic's to say
                "partitioner": "murmur2_random",
                "delivery.timeout.ms": int(ANSWER_TIMEOUT * 1000),
                "on_delivery": delivery,
            }
        )
        count = 0
        with producer:
            for record in records:
                _enqueue(producer, topic, NewRecord(*record))
                count += 1
            while delivery.count < count:
                before = delivery.count
                producer.flush(ANSWER_TIMEOUT)
                if delivery.count == before:
                    raise TimeoutError(f"{count - before} of {count} records for {topic} were never acknowledged")
        if delivery.error is not None:
            raise KafkaException(delivery.error)
        return count

    def read(self, topic: str) -> list[Message]:
        """Return all that was written to a topic by now, each partition in its order.

        Raises:
            TimeoutError: if the broker doesn't hand it out.
        """
        left = {partition: end for partition, end in self.end_offsets(topic).items() if end}
        found: dict[int, list[Message]] = {partition: [] for partition in left}
        with self._member_to_be("reader") as reader:
            reader.assign([TopicPartition(topic, partition, 0) for partition in left])
            while any(len(found[partition]) < end for partition, end in left.items()):
                message = reader.poll(ANSWER_TIMEOUT)
                if message is None:
                    raise TimeoutError(f"{topic} can't be read")
                found[message.partition() or 0].append(message)
        return [message for partition in sorted(found) for message in found[partition]]

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Return, by partition, the offset that the next record will get."""
        return self._offsets(topic, OffsetSpec.latest())

    def start_offsets(self, topic: str) -> dict[int, int]:
        """Return, by partition, the lowest offset that can still be read."""
        return self._offsets(topic, OffsetSpec.earliest())

    def delete_records_before(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Delete the records below an offset by partition, as retention would."""
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        _ask(lambda: self.admin.delete_records(wanted))

    def committed(self, group: str, topic: str) -> dict[int, tuple[int, str]]:
        """Return, by partition, the committed offset and its metadata; only where there is a commit."""
        asked = [TopicPartition(topic, partition) for partition in range(self._partitions(topic))]
        with self._member_to_be(group) as consumer:
            answer = _retried(lambda: _checked(consumer.committed(asked, timeout=_ATTEMPT_TIMEOUT)))
        return {
            found.partition: (found.offset, found.metadata or "") for found in answer if found.offset != OFFSET_INVALID
        }

    def commit(self, group: str, topic: str, offsets: Mapping[int, tuple[int, str]]) -> None:
        """Commit an offset with metadata by partition, for a group without members.

        Raises:
            KafkaException: if the broker refuses one of them.
        """
        wanted = [
            TopicPartition(topic, partition, offset, metadata) for partition, (offset, metadata) in offsets.items()
        ]
        with self._member_to_be(group) as consumer:
            _retried(lambda: _checked(consumer.commit(offsets=wanted, asynchronous=False)))

    def delete_offsets(self, group: str) -> None:
        """Delete a group without members, and so every offset that it has committed."""
        _ask(lambda: self.admin.delete_consumer_groups([group]))

    def allow_reading(self, user: str, *, topic: str | None = None, group: str | None = None) -> None:
        """Let a user read a topic, use a group, or both, where an authorizer refuses what isn't allowed."""
        if topic is not None:
            self._allow_reading(user, ResourceType.TOPIC, topic)
        if group is not None:
            self._allow_reading(user, ResourceType.GROUP, group)

    def clean_up(self) -> None:
        """Delete the topics and groups named by :meth:`unique`, for a cluster that outlives the tests."""
        topics = self._names & self.admin.list_topics(timeout=ANSWER_TIMEOUT).topics.keys()
        if topics:
            _ask(lambda: self.admin.delete_topics(sorted(topics)))
        listed = self.admin.list_consumer_groups().result(ANSWER_TIMEOUT)
        groups = self._names & {group.group_id for group in listed.valid}
        if groups:
            _ask(lambda: self.admin.delete_consumer_groups(sorted(groups)))

    def _member_to_be(self, group: str) -> Consumer:
        # It never subscribes, so it never joins. The admin client's calls for a group's offsets won't do: while
        # a restarted coordinator loads they hang or crash the process (confluentinc/librdkafka issue 5040).
        return Consumer({**self._client, "group.id": group, "enable.auto.commit": False})

    def _allow_reading(self, user: str, kind: ResourceType, name: str) -> None:
        literal, anywhere = ResourcePatternType.LITERAL, "*"
        rule = (kind, name, literal, f"User:{user}", anywhere, AclOperation.READ, AclPermissionType.ALLOW)
        _ask(lambda: self.admin.create_acls([AclBinding(*rule)]))
        # The broker hears of it a little later than the controller that has answered.
        in_force = AclBindingFilter(*rule)
        _wait("the ACL", lambda: bool(self.admin.describe_acls(in_force).result(ANSWER_TIMEOUT)))

    def _offsets(self, topic: str, spec: OffsetSpec) -> dict[int, int]:
        asked = {TopicPartition(topic, partition): spec for partition in range(self._partitions(topic))}
        answer = _ask(lambda: self.admin.list_offsets(asked))
        return {partition.partition: found.offset for partition, found in answer.items()}

    def _partitions(self, topic: str) -> int:
        return len(self.admin.list_topics(topic, timeout=ANSWER_TIMEOUT).topics[topic].partitions)

    def _partitions_with_leader(self, topic: str) -> int:
        metadata = self.admin.list_topics(topic, timeout=ANSWER_TIMEOUT).topics[topic]
        return sum(partition.leader >= 0 for partition in metadata.partitions.values())


class _Delivery:
    """Counts acknowledgements and keeps the first error."""

    def __init__(self) -> None:
        self.count = 0
        self.error: KafkaError | None = None

    def __call__(self, error: KafkaError | None, _message: Message) -> None:
        self.count += 1
        self.error = self.error or error


def _enqueue(producer: Producer, topic: str, record: NewRecord) -> None:
    while True:
        try:
            producer.produce(topic, record.value, record.key, partition=record.partition, headers=list(record.headers))
        except BufferError:
            producer.poll(0.1)
        else:
            return


def _ask(request: Callable[[], Mapping[_Asked, Future[Any]]]) -> dict[_Asked, Any]:
    """Send a request and return its answers, asking again while the error is one that passes."""
    return _retried(lambda: {asked: future.result(ANSWER_TIMEOUT) for asked, future in request().items()})


def _checked(answer: list[TopicPartition]) -> list[TopicPartition]:
    for partition in answer:
        if partition.error is not None:
            raise KafkaException(partition.error)
    return answer


def _retried(attempt: Callable[[], _Answer]) -> _Answer:
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while True:
        try:
            return attempt()
        except KafkaException as error:
            if error.args[0].code() not in _PASSING_ERRORS or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _wait(what: str, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {ANSWER_TIMEOUT:g} s for {what}")
        time.sleep(0.01)
