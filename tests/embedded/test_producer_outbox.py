"""The outbox that sends with a producer of its own: opened when it is needed, and anew when it has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from confluent_kafka import KafkaError as ClientError, Producer as Client
from embedded.kit import PATIENCE, configured, until
from embedded.producer_kit import sending, values, written

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.control.outbox import ProducerOutbox
from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.errors import BrokerUnreachableError, DeliveryError, SerializationError
from trio_parallel_kafka.execution.outbox import Outbox, Parcel
from trio_parallel_kafka.produced import ProducerRecord, RawRecord
from trio_parallel_kafka.producing import report_thread
from trio_parallel_kafka.record import Record
from trio_parallel_kafka.testing import EmbeddedBroker

INPUT = Record("inputs", 0, 0)
ASSIGNMENT: Assignment[Record] = None  # type: ignore[assignment]  # where it came from doesn't matter


class Clients:
    """Counts the clients that are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.properties: list[dict[str, Any]] = []
        made = self.properties

        class Counted(Client):
            def __init__(self, properties: dict[str, Any]) -> None:
                made.append(properties)
                super().__init__(properties)

        monkeypatch.setattr(report_thread, "Producer", Counted)


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Clients:
    """The clients that the test makes."""
    return Clients(monkeypatch)


@asynccontextmanager
async def running(config: ConsumerConfig) -> AsyncIterator[ProducerOutbox]:
    """An outbox for the length of a block."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            outbox = ProducerOutbox(config)
            nursery.start_soon(outbox.run)
            await trio.testing.wait_all_tasks_blocked()
            yield outbox
            nursery.cancel_scope.cancel()


def numbered(*numbers: int, topic: str = "orders") -> list[ProducerRecord]:
    """Records for partition 0."""
    return [ProducerRecord(topic, b"%d" % number, partition=0) for number in numbers]


def parcels(*groups: Sequence[ProducerRecord]) -> list[Parcel]:
    """What several records resulted in."""
    return [Parcel(ASSIGNMENT, INPUT, group) for group in groups]


async def test_opened_when_needed(nothing_stays: None, embedded_broker: EmbeddedBroker, clients: Clients) -> None:
    """A consumer that sends nothing has no producer; one that does has one."""
    async with running(configured(embedded_broker)) as outbox:
        assert not clients.properties
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(outbox.send, ASSIGNMENT, INPUT, numbered(number, number + 10))
        await outbox.send(ASSIGNMENT, INPUT, numbered(99))
        assert len(clients.properties) == 1
    found = values(embedded_broker)
    assert sorted(found) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 99]
    assert all(found[at + 1] == found[at] + 10 for at in range(0, 10, 2)), "outputs of a record stay together"


async def test_it_connects_as_the_consumer_does(embedded_broker: EmbeddedBroker, clients: Clients) -> None:
    """Without a producer of its own, the consumer's connection is used, and its bounds."""
    kafka = {"client.id": "me", "fetch.min.bytes": 2}
    async with running(configured(embedded_broker, kafka=kafka, connect_timeout=3.0, close_timeout=2.0)) as outbox:
        await outbox.send(ASSIGNMENT, INPUT, numbered(1))
        assert (outbox._config.connect_timeout, outbox._config.close_timeout) == (3.0, 2.0)
    (properties,) = clients.properties
    assert properties["client.id"] == "me"
    assert properties["bootstrap.servers"] == embedded_broker.bootstrap_servers
    assert properties["message.max.bytes"] == "1000000000"
    assert not {"fetch.min.bytes", "group.id"} & properties.keys()


async def test_a_producer_of_its_own(embedded_broker: EmbeddedBroker, clients: Clients) -> None:
    """The configuration's producer is used, with its serialisers; raw records pass by these."""

    def serialize(number: int, _context: object) -> bytes:
        return b"%d" % number

    producer = sending(embedded_broker, serialize_value=serialize, kafka={"client.id": "own"})
    async with running(configured(embedded_broker, producer=producer)) as outbox:
        await outbox.send(ASSIGNMENT, INPUT, [ProducerRecord("orders", 7, partition=0)])
        await outbox.send(ASSIGNMENT, INPUT, [RawRecord("orders", b"raw", partition=0)])
        with pytest.raises(SerializationError):
            await outbox.send(ASSIGNMENT, INPUT, [*numbered(1), ProducerRecord("orders", "x", partition=0)])
    assert [each["client.id"] for each in clients.properties] == ["own"]
    assert written(embedded_broker) == [(None, b"7"), (None, b"raw")]


async def test_several_parcels(embedded_broker: EmbeddedBroker) -> None:
    """Of each parcel it is said what became of it; those that fail don't disturb the others."""
    producer = sending(embedded_broker)
    async with running(configured(embedded_broker, producer=producer)) as outbox:
        given = parcels(
            numbered(1, 2), [], numbered(3, topic="odrers"), [*numbered(4), ProducerRecord("orders", 5)], numbered(6)
        )
        errors = await outbox.send_all(given)
    assert [type(error) for error in errors] == [type(None), type(None), DeliveryError, SerializationError, type(None)]
    assert values(embedded_broker) == [1, 2, 6]


async def test_it_can_not_be_opened(nothing_stays: None, embedded_broker: EmbeddedBroker, clients: Clients) -> None:
    """Whoever waits for the opening is told why it failed, by an error of its own; the next one tries again."""
    embedded_broker.down()
    config = configured(embedded_broker, connect_timeout=0.2, kafka={"reconnect.backoff.max.ms": 100})
    errors: list[DeliveryError] = []

    async def send(outbox: Outbox) -> None:
        with pytest.raises(DeliveryError, match="no producer to send with: no answer") as caught:
            await outbox.send(ASSIGNMENT, INPUT, numbered(1))
        errors.append(caught.value)

    async with running(config) as outbox:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, outbox)
            nursery.start_soon(send, outbox)
        errors += [error for error in await outbox.send_all(parcels(numbered(1), numbered(2))) if error]  # type: ignore[misc]
        assert len(clients.properties) == 2
        embedded_broker.up()
        await outbox.send(ASSIGNMENT, INPUT, numbered(3))
    assert len(set(map(id, errors))) == len(errors) == 4
    assert all(isinstance(error.__cause__, BrokerUnreachableError) for error in errors)
    assert values(embedded_broker) == [3]


async def test_opened_anew(
    nothing_stays: None, embedded_broker: EmbeddedBroker, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    """After a fatal error, which fails what is on its way, the next output gets a new producer."""
    async with running(configured(embedded_broker)) as outbox:
        embedded_broker.fail_next("InitProducerId", ClientError.CLUSTER_AUTHORIZATION_FAILED)
        with pytest.raises(DeliveryError, match="an ACL is missing"):
            await outbox.send(ASSIGNMENT, INPUT, numbered(1))
        await until(lambda: outbox._opening is None)
        await outbox.send(ASSIGNMENT, INPUT, numbered(2))
    assert len(clients.properties) == 2
    assert values(embedded_broker) == [2]
    assert "the producer ended: an ACL is missing" in caplog.text
    assert "while leaving" not in caplog.text, "it was told once"


async def test_what_is_cancelled_and_not_delivered(
    embedded_broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """An output that is given up because the consumer ends is no error: its record isn't completed. It is logged."""
    async with running(configured(embedded_broker, close_timeout=0.1)) as outbox:
        await outbox.send(ASSIGNMENT, INPUT, numbered(1))
        embedded_broker.down()
        with trio.CancelScope() as scope:
            scope.cancel()
            await outbox.send(ASSIGNMENT, INPUT, numbered(2))
    assert scope.cancelled_caught
    assert "while leaving, DeliveryError: 1 of the records" in caplog.text


async def test_after_its_end(embedded_broker: EmbeddedBroker) -> None:
    """Who sends when the outbox has ended, or ends before its producer is open, doesn't wait for ever."""
    errors: list[DeliveryError] = []

    async def send(outbox: Outbox) -> None:
        with pytest.raises(DeliveryError, match="the consumer has ended") as caught:
            await outbox.send(ASSIGNMENT, INPUT, numbered(1))
        errors.append(caught.value)

    embedded_broker.down()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as outer:
            async with running(configured(embedded_broker)) as outbox:
                outer.start_soon(send, outbox)
                await trio.testing.wait_all_tasks_blocked()
            await send(outbox)
            await send(outbox)
        never_opened = ProducerOutbox(configured(embedded_broker))
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await never_opened.run()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await send(never_opened)
    assert len(errors) == 4
    assert all(error.__cause__ is None for error in errors)
