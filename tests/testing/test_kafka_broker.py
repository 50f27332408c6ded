"""A real cluster as tests are given it: it loses the topics that they made, and nothing else.

The cluster is faked as far as the embedded broker goes; ``tests/broker/test_kafka_broker.py`` has the real one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError as ClientError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from trio_parallel_kafka import KafkaError
from trio_parallel_kafka.testing import kafka_broker, open_embedded_broker, open_kafka_broker


class FakeCluster:
    """Stands in for the admin client, and for the topics of a cluster."""

    def __init__(self) -> None:
        self.topics = {"orders": 4}
        self.properties: dict[str, Any] = {}
        self.refuses_deletion_with: int | None = None
        self.stale_answers = 0

    def client(self, properties: dict[str, Any]) -> FakeCluster:
        self.properties = properties
        return self

    def list_topics(self, timeout: float) -> SimpleNamespace:
        if self.stale_answers:
            self.stale_answers -= 1
            return SimpleNamespace(topics={})
        AdminClient({"bootstrap.servers": self.properties["bootstrap.servers"]}).list_topics(timeout=timeout)
        return SimpleNamespace(topics=self.topics.copy())

    def create_topics(self, new: list[NewTopic], **_timeouts: float) -> Mapping[str, Future[None]]:
        (topic,) = new
        if topic.topic in self.topics:
            return {topic.topic: refusal(ClientError.TOPIC_ALREADY_EXISTS)}
        self.topics[topic.topic] = topic.num_partitions
        return {topic.topic: success()}

    def delete_topics(self, names: list[str], **_timeouts: float) -> Mapping[str, Future[None]]:
        if self.refuses_deletion_with is not None:
            return {name: refusal(self.refuses_deletion_with) for name in names}
        for name in names:
            del self.topics[name]
        return {name: success() for name in names}


def success() -> Future[None]:
    """An answer."""
    future: Future[None] = Future()
    future.set_result(None)
    return future


def refusal(code: int) -> Future[None]:
    """An answer of the other kind."""
    future: Future[None] = Future()
    future.set_exception(KafkaException(ClientError(code)))
    return future


@pytest.fixture
def address() -> Iterator[str]:
    """Somebody answers there."""
    with open_embedded_broker() as broker:
        yield broker.bootstrap_servers


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """It has the topic ``orders``."""
    cluster = FakeCluster()
    monkeypatch.setattr(kafka_broker, "AdminClient", cluster.client)
    return cluster


def test_topics_go_with_the_block(cluster: FakeCluster, address: str) -> None:
    """What was made in the block is there in it, and gone after it, even if it ends with an error; the rest stays."""

    def fail() -> None:
        with open_kafka_broker(address, kafka={"security.protocol": "SSL"}) as broker:
            assert broker.bootstrap_servers == address
            broker.create_topic("returns")
            broker.create_topic("invoices", 3)
            assert cluster.topics == {"orders": 4, "returns": 1, "invoices": 3}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert cluster.topics == {"orders": 4}
    assert cluster.properties["security.protocol"] == "SSL"


def test_a_topic_that_is_there(cluster: FakeCluster, address: str) -> None:
    """It is nobody's to make again, nor to delete."""
    with (
        pytest.raises(KafkaError, match=r"couldn't make the topic 'orders' on .*already exists") as raised,
        open_kafka_broker(address) as broker,
    ):
        broker.create_topic("orders")
    assert raised.value.topic == "orders"
    assert cluster.topics == {"orders": 4}


def test_no_partitions(cluster: FakeCluster, address: str) -> None:
    """A topic without partitions is refused here, for the cluster would choose a number."""
    with open_kafka_broker(address) as broker, pytest.raises(ValueError, match="at least 1 partition, not -1"):
        broker.create_topic("returns", -1)
    assert cluster.topics == {"orders": 4}


def test_a_topic_that_is_gone(cluster: FakeCluster, address: str) -> None:
    """Who deleted it has done the work; a topic that can't be deleted is named."""

    def use(code: int) -> None:
        with open_kafka_broker(address) as broker:
            broker.create_topic(f"topic-{code}")
            del cluster.topics[f"topic-{code}"]
            cluster.refuses_deletion_with = code

    use(ClientError.UNKNOWN_TOPIC_OR_PART)
    with pytest.raises(
        KafkaError, match=r"couldn't delete the topic 'topic-29', please do it by hand: .*authorization"
    ):
        use(ClientError.TOPIC_AUTHORIZATION_FAILED)


def test_brokers_that_learn_of_it_late(cluster: FakeCluster, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked until they know a topic that was made, for a while."""
    monkeypatch.setattr(kafka_broker, "LOOK_AGAIN", 0.001)
    with open_kafka_broker(address) as broker:
        cluster.stale_answers = 3
        broker.create_topic("late")
        assert cluster.stale_answers == 0
        monkeypatch.setattr(kafka_broker, "ADMIN_TIMEOUT", 0.05)
        cluster.stale_answers = 1000
        broker.create_topic("later")
        assert cluster.stale_answers
        cluster.stale_answers = 0
        monkeypatch.setattr(kafka_broker, "ADMIN_TIMEOUT", 30.0)
