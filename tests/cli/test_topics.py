"""The topic of the demonstration on a real cluster: made, deleted on every path, and clear errors."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError as ClientError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from trio_parallel_kafka.cli import topics
from trio_parallel_kafka.cli.topics import open_topic
from trio_parallel_kafka.errors import BrokerUnreachableError, KafkaError
from trio_parallel_kafka.testing import EmbeddedBroker, open_embedded_broker


class FakeAdmin:
    """Plays the requests that the embedded broker doesn't know; makes topics there by its own ways.

    Args:
        broker: where.
        refuses: the error code to answer each call with; a call that isn't named succeeds.
    """

    def __init__(self, broker: EmbeddedBroker, **refuses: int) -> None:
        self.broker = broker
        self.refuses = refuses
        self.there: set[str] = set()
        self.deleted_groups: list[str] = []

    def open(self, properties: dict[str, Any]) -> FakeAdmin:
        assert properties["bootstrap.servers"] == self.broker.bootstrap_servers
        return self

    def list_topics(self, timeout: float) -> None:
        AdminClient({"bootstrap.servers": self.broker.bootstrap_servers, "log_level": 0}).list_topics(timeout=timeout)

    def create_topics(self, new: list[NewTopic], **_timeouts: float) -> Mapping[str, Future[None]]:
        (topic,) = new
        answer = self.answer("create_topics", topic.topic)
        if "create_topics" not in self.refuses:
            self.broker.create_topic(topic.topic, topic.num_partitions)
            self.there.add(topic.topic)
        return answer

    def delete_topics(self, names: list[str], **_timeouts: float) -> Mapping[str, Future[None]]:
        (name,) = names
        if "delete_topics" not in self.refuses:
            self.there.discard(name)
        return self.answer("delete_topics", name)

    def delete_consumer_groups(self, names: list[str], **_timeouts: float) -> Mapping[str, Future[None]]:
        self.deleted_groups += names
        return self.answer("delete_consumer_groups", names[0])

    def answer(self, call: str, name: str) -> Mapping[str, Future[None]]:
        future: Future[None] = Future()
        if call in self.refuses:
            future.set_exception(KafkaException(ClientError(self.refuses[call])))
        else:
            future.set_result(None)
        return {name: future}


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """Stands for a real cluster."""
    with open_embedded_broker() as broker:
        yield broker


def install(monkeypatch: pytest.MonkeyPatch, admin: FakeAdmin) -> FakeAdmin:
    """Have the topic made through a fake."""
    monkeypatch.setattr(topics, "AdminClient", admin.open)
    return admin


def test_topic_lives_as_long_as_the_block(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a name of its own each time, and is gone after the block, with the group of the same name."""
    admin = install(monkeypatch, FakeAdmin(broker))
    names = []
    for _ in range(2):
        with open_topic(broker.bootstrap_servers, partitions=3) as topic:
            assert admin.there == {topic.name}
            assert topic.place == topic.bootstrap_servers == broker.bootstrap_servers
            names.append(topic.name)
        assert not admin.there
    assert len(set(names)) == 2
    assert admin.deleted_groups == names
    assert all(name.startswith("trio-parallel-kafka-demo-") for name in names)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_topic_goes_with_an_error(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Whatever ends the block, Ctrl-C too, topic and group are deleted."""
    admin = install(monkeypatch, FakeAdmin(broker))
    with pytest.raises(error), open_topic(broker.bootstrap_servers, partitions=1):
        raise error
    assert not admin.there
    assert len(admin.deleted_groups) == 1


def test_interrupted_making_is_undone(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the cluster makes the topic deletes it, too."""
    admin = install(monkeypatch, FakeAdmin(broker))
    make = topics._make_topic

    def interrupted(*arguments: Any) -> None:
        make(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(topics, "_make_topic", interrupted)
    with pytest.raises(KeyboardInterrupt), open_topic(broker.bootstrap_servers, partitions=1):
        pytest.fail("the block began")
    assert not admin.there


def test_refused_topic(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A topic that may not be made is an error with the reason; that it can't be deleted either isn't mentioned."""
    denied = ClientError.TOPIC_AUTHORIZATION_FAILED
    install(monkeypatch, FakeAdmin(broker, create_topics=denied, delete_topics=denied))
    with (
        pytest.raises(
            KafkaError, match=r"couldn't make the topic .* on .*: Broker: Topic authorization failed"
        ) as raised,
        open_topic(broker.bootstrap_servers, partitions=1),
    ):
        pytest.fail("the block began")
    assert raised.value.topic is not None
    assert not caplog.records


def test_cluster_that_makes_no_topics(broker: EmbeddedBroker) -> None:
    """The client's own refusal is such an error, too: the embedded broker doesn't know the request."""
    with (
        pytest.raises(KafkaError, match=r"couldn't make the topic .* not supported by broker"),
        open_topic(broker.bootstrap_servers, partitions=1),
    ):
        pytest.fail("the block began")


def test_topic_that_stays_is_named(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A deletion that fails is a warning that names the topic; a group that stays is none."""
    denied = ClientError.TOPIC_AUTHORIZATION_FAILED
    admin = install(monkeypatch, FakeAdmin(broker, delete_topics=denied, delete_consumer_groups=denied))
    with caplog.at_level(logging.WARNING), open_topic(broker.bootstrap_servers, partitions=1) as topic:
        pass
    assert admin.there == {topic.name}
    (record,) = caplog.records
    assert f"couldn't delete the topic {topic.name}" in record.getMessage()


def test_unreachable_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that doesn't answer is an error within the bound, with the address and the reason."""
    monkeypatch.setattr(topics, "CONNECT_TIMEOUT", 0.5)
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # and doesn't listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(BrokerUnreachableError, match=f"no answer from {address} within 0.5 s: .*refused"),
            open_topic(address, partitions=1),
        ):
            pytest.fail("the block began")


def test_silent_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the connection and says nothing is such an error, too."""
    monkeypatch.setattr(topics, "CONNECT_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BrokerUnreachableError, match="Failed to get metadata"), open_topic(address, partitions=1):
            pytest.fail("the block began")
