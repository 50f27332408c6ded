"""What goes wrong at the start: each a clear error, in bounded time, nothing left."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from confluent_kafka import KafkaError as ClientError, KafkaException
from embedded.kit import (
    PATIENCE,
    QUICK,
    configured,
)

from trio_parallel_kafka import (
    AuthenticationError,
    AuthorizationError,
    BrokerUnreachableError,
    ConfigError,
    ConsumerConfig,
    KafkaError,
    TopicNotFoundError,
    parallel_consumer,
)
from trio_parallel_kafka.control import kafka_client
from trio_parallel_kafka.testing import EmbeddedBroker


async def open_and_close(config: ConsumerConfig) -> None:
    """Open a consumer, which is expected to fail."""
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config):
            pytest.fail("it opened")


def at(address: str, **fields: Any) -> ConsumerConfig:
    """A configuration for a broker that isn't there."""
    kafka = {**QUICK, **fields.pop("kafka", {})}
    topics = fields.pop("topics", "orders")
    return ConsumerConfig(
        bootstrap_servers=address, group_id="billing", topics=topics, connect_timeout=1.0, kafka=kafka, **fields
    )


@pytest.fixture
def closed_port() -> str:
    """A port of this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def silent_port() -> Iterator[str]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("topics", ["orders", "^orders"])
async def test_nobody_listens(nothing_stays: None, closed_port: str, topics: str) -> None:
    """No broker at the address: an error that names it and the bound, with the client's own behind it."""
    config = at(closed_port, topics=topics, kafka={"group.protocol": "classic"})
    with pytest.raises(BrokerUnreachableError, match=f"no answer from {closed_port} within 1.0 s") as caught:
        await open_and_close(config)
    assert isinstance(caught.value.__cause__, KafkaException)


async def test_nobody_answers(nothing_stays: None, silent_port: str) -> None:
    """A broker that takes the connection and stays silent is no broker, either."""
    with pytest.raises(BrokerUnreachableError, match="connect_timeout"):
        await open_and_close(at(silent_port))


async def test_latest_and_a_broker_that_falls_silent(
    nothing_stays: None, embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has to be known before joining with latest is asked within a bound, too."""
    monkeypatch.setattr(kafka_client, "REQUEST_TIMEOUT", 0.2)
    connect = kafka_client.KafkaClient.connect

    async def connect_and_lose(client: kafka_client.KafkaClient) -> None:
        await connect(client)
        embedded_broker.delay(30)

    monkeypatch.setattr(kafka_client.KafkaClient, "connect", connect_and_lose)
    with pytest.raises(KafkaError, match="no answer about the topics") as caught:
        await open_and_close(configured(embedded_broker, auto_offset_reset="latest"))
    assert isinstance(caught.value.__cause__, KafkaException)
    embedded_broker.delay(0)


async def test_no_such_topic(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """A topic that isn't there is named, after a moment in which it may still appear."""
    with pytest.raises(TopicNotFoundError, match=r"'odrers' isn't there .*correct `topics`") as caught:
        await open_and_close(configured(embedded_broker, topics=["orders", "odrers"]))
    assert caught.value.topic == "odrers"


async def test_a_topic_that_appears(embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that is made just after the start is found."""
    monkeypatch.setattr(kafka_client, "MISSING_TOPIC_PATIENCE", PATIENCE)
    config = configured(embedded_broker, topics="late", connect_timeout=PATIENCE)

    async def appear() -> None:
        await trio.sleep(0.3)
        embedded_broker.create_topic("late", 1)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(appear)
            async with parallel_consumer(config) as pc:
                await pc.wait_assigned()


async def test_what_may_not_be_read(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """A missing right is told at the start, and at once."""
    embedded_broker.fail_next("Metadata", *[ClientError.TOPIC_AUTHORIZATION_FAILED] * 20)
    with pytest.raises(AuthorizationError, match="READ and DESCRIBE on the topic") as caught:
        await open_and_close(configured(embedded_broker, connect_timeout=PATIENCE))
    assert isinstance(caught.value.__cause__, KafkaException)


@pytest.mark.parametrize(
    "properties",
    [
        {"security.protocol": "ssl", "ssl.ca.location": "/nonexistent/ca.pem"},
        {"sasl.mechanism": "SCRAM-SHA-512", "security.protocol": "sasl_plaintext"},
    ],
)
async def test_a_property_refused_late(
    nothing_stays: None, embedded_broker: EmbeddedBroker, properties: dict[str, Any]
) -> None:
    """What librdkafka refuses only when the client is made is an invalid configuration as well.

    It was once told as a client that has ended, without the reason.
    """
    with pytest.raises(ConfigError, match="librdkafka refuses the properties") as caught:
        await open_and_close(configured(embedded_broker, kafka=properties))
    assert isinstance(caught.value.__cause__, KafkaException)


async def test_tls_against_a_plain_port(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """The error about a broker that can't be reached holds what the client reported about it."""
    kafka = {"security.protocol": "ssl"}
    with pytest.raises(BrokerUnreachableError, match="in state SSL_HANDSHAKE"):
        await open_and_close(configured(embedded_broker, kafka=kafka, connect_timeout=1.0))


async def test_refused_credentials(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """Credentials that the broker doesn't take are told at the start, and at once."""
    kafka = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN"}
    kafka |= {"sasl.username": "me", "sasl.password": "mine"}
    with pytest.raises(AuthenticationError, match=r"check sasl.mechanism, sasl.username and sasl.password"):
        await open_and_close(configured(embedded_broker, kafka=kafka, connect_timeout=PATIENCE))
