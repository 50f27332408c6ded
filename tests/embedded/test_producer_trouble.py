"""What goes wrong when sending: at the start, with single records, with the client, at the end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from confluent_kafka import KafkaError as ClientError, KafkaException, Producer as Client
from embedded.kit import PATIENCE, until
from embedded.producer_kit import sender_of, sending, values

from trio_parallel_kafka.config import ProducerConfig
from trio_parallel_kafka.errors import (
    AuthenticationError,
    AuthorizationError,
    BrokerUnreachableError,
    CloseTimeoutError,
    ConfigError,
    DeliveryError,
    KafkaError,
    RecordTooLargeError,
)
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producer import open_producer
from trio_parallel_kafka.producing import report_thread
from trio_parallel_kafka.producing.deliveries import PendingDelivery
from trio_parallel_kafka.producing.report_thread import ReportThread
from trio_parallel_kafka.producing.sender import Sender
from trio_parallel_kafka.testing import EmbeddedBroker

# The start


async def open_and_close(config: ProducerConfig) -> None:
    """Open a producer, which is expected to fail."""
    with trio.fail_after(PATIENCE):
        async with open_producer(config):
            pytest.fail("it opened")


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


def at(address: str, **fields: Any) -> ProducerConfig:
    """A configuration for a broker that isn't there."""
    return ProducerConfig(bootstrap_servers=address, kafka={"log_level": 0}, **fields)


async def test_nobody_listens(nothing_stays: None, closed_port: str) -> None:
    """No broker at the address: an error that names it, the bound, and what the client reports."""
    match = f"no answer from {closed_port} within 0.3 s .*: .*Connection refused"
    with pytest.raises(BrokerUnreachableError, match=match) as caught:
        await open_and_close(at(closed_port, connect_timeout=0.3))
    assert isinstance(caught.value.__cause__, KafkaException)
    assert not hasattr(caught.value, "__notes__")


async def test_nobody_answers(nothing_stays: None, silent_port: str) -> None:
    """A broker that takes the connection and stays silent is no broker, either."""
    with pytest.raises(BrokerUnreachableError, match="nothing is reported"):
        await open_and_close(at(silent_port, connect_timeout=0.3))


async def test_refused_credentials(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """Credentials that the broker doesn't take are told at once."""
    kafka = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN"}
    kafka |= {"sasl.username": "me", "sasl.password": "mine"}
    with pytest.raises(AuthenticationError, match=r"check sasl.mechanism, sasl.username and sasl.password"):
        await open_and_close(sending(embedded_broker, kafka=kafka, connect_timeout=PATIENCE))


async def test_a_property_refused_late(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """What librdkafka refuses only when the client is made is an invalid configuration as well."""
    with pytest.raises(ConfigError, match="librdkafka refuses the properties") as caught:
        await open_and_close(
            sending(embedded_broker, kafka={"sasl.mechanism": "PLAIN", "security.protocol": "sasl_ssl"})
        )
    assert isinstance(caught.value.__cause__, KafkaException)


async def test_cancelled_while_it_opens(nothing_stays: None, silent_port: str) -> None:
    """A cancellation ends the search for a broker, long before its bound."""
    with trio.fail_after(PATIENCE), trio.move_on_after(0.05) as scope:
        async with open_producer(at(silent_port, connect_timeout=1000)):
            pytest.fail("it opened")
    assert scope.cancelled_caught


# Single records


async def refusal_of(
    broker: EmbeddedBroker, /, *arguments: Any, config: ProducerConfig | None = None, **more: Any
) -> Any:
    """Send a record that can't be delivered, and return why; the producer goes on."""
    with trio.fail_after(PATIENCE):
        async with open_producer(config or sending(broker)) as producer:
            with pytest.raises(DeliveryError) as caught:
                await producer.send(*arguments, **more)
            if config is None:
                await producer.send("orders", b"0", partition=0)
    return caught.value


def code_of(error: BaseException) -> int:
    """The code of the client's error behind this one."""
    assert isinstance(error.__cause__, KafkaException)
    code: int = error.__cause__.args[0].code()
    return code


async def test_no_such_topic(embedded_broker: EmbeddedBroker) -> None:
    """A topic that isn't there is named, and isn't made by the sending."""
    error = await refusal_of(embedded_broker, "odrers", b"1")
    assert str(error).startswith("the topic isn't there; make it, or correct its name (odrers): ")
    assert (error.topic, error.partition, error.offset) == ("odrers", None, None)
    assert code_of(error) == ClientError.UNKNOWN_TOPIC_OR_PART


async def test_no_such_partition(embedded_broker: EmbeddedBroker) -> None:
    """A partition that the topic doesn't have is named, when the client finds it out and when it knows."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            for _ in range(2):
                with pytest.raises(DeliveryError, match=r"has no such partition \(orders\[7\]\)") as caught:
                    await producer.send("orders", b"1", partition=7)
                assert (caught.value.topic, caught.value.partition) == ("orders", 7)
                await producer.send("orders", b"1", partition=0)


async def test_too_large_for_the_client(embedded_broker: EmbeddedBroker) -> None:
    """What the client refuses at once is too large, and so is what its whole queue can't hold."""
    error = await refusal_of(embedded_broker, "orders", b"x" * 1_000_001)
    assert isinstance(error, RecordTooLargeError)
    assert "message.max.bytes" in str(error)
    config = sending(embedded_broker, kafka={"queue.buffering.max.kbytes": 1})
    error = await refusal_of(embedded_broker, "orders", b"x" * 5000, partition=1, config=config)
    assert isinstance(error, RecordTooLargeError)
    assert "queue.buffering.max.kbytes" in str(error)
    assert (error.topic, error.partition) == ("orders", 1)
    assert isinstance(error.__cause__, BufferError)


@pytest.mark.parametrize(
    ("code", "kind", "explanation"),
    [
        (ClientError.MSG_SIZE_TOO_LARGE, RecordTooLargeError, "max.message.bytes of the topic"),
        (ClientError.TOPIC_AUTHORIZATION_FAILED, DeliveryError, "an ACL is missing: WRITE"),
        (ClientError.INVALID_RECORD, DeliveryError, "the record wasn't delivered"),
    ],
)
async def test_refused_by_the_broker(
    embedded_broker: EmbeddedBroker, code: int, kind: type[DeliveryError], explanation: str
) -> None:
    """What the broker refuses is explained, with the place and the client's own error."""
    embedded_broker.fail_next("Produce", code)
    error = await refusal_of(embedded_broker, "orders", b"1", partition=1, config=sending(embedded_broker))
    assert type(error) is kind
    assert explanation in str(error)
    assert (error.topic, error.partition) == ("orders", 1)
    assert code_of(error) == code


async def test_not_acknowledged_in_time(embedded_broker: EmbeddedBroker) -> None:
    """After delivery_timeout it is said that nothing is known, and what the client reported."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker, delivery_timeout=1.0)) as producer:
            await producer.send("orders", b"1")
            embedded_broker.down()
            with pytest.raises(DeliveryError, match="it is unknown whether the record was written") as caught:
                await producer.send("orders", b"2")
    assert "the client reported: " in str(caught.value)


async def test_old_trouble_explains_nothing(embedded_broker: EmbeddedBroker) -> None:
    """What the client reported before its last delivery isn't held to be the reason."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker, delivery_timeout=0.5)) as producer:
            await trio.testing.wait_all_tasks_blocked()
            sender_of(producer).troubled(ClientError(ClientError._TRANSPORT, "long ago"))
            await producer.send("orders", b"1")
            embedded_broker.delay(PATIENCE)
            with pytest.raises(DeliveryError, match="within delivery_timeout; it is unknown") as caught:
                await producer.send("orders", b"2")
            embedded_broker.delay(0)
    assert "long ago" not in str(caught.value)


async def test_cancelled_while_it_waits(embedded_broker: EmbeddedBroker) -> None:
    """A cancelled send may be delivered all the same; the producer doesn't mind."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            embedded_broker.delay(0.05)
            with trio.CancelScope() as scope:
                scope.cancel()
                await producer.send("orders", b"1", partition=0)
            assert scope.cancelled_caught
            embedded_broker.delay(0)
    assert values(embedded_broker) == [1]


async def test_cancelled_and_then_refused(embedded_broker: EmbeddedBroker) -> None:
    """The failure of a send that was cancelled before it was known is told at the end."""

    async def use() -> None:
        async with open_producer(sending(embedded_broker)) as producer:
            with trio.CancelScope() as scope:
                scope.cancel()
                await producer.send("odrers", b"1")

    with trio.fail_after(PATIENCE), pytest.raises(DeliveryError, match=r"1 of the records .*\n.*odrers"):
        await use()


HELD = {"linger.ms": 20_000}
"""The client keeps a record that can be sent, in the hope of more."""


async def test_refused_and_then_cancelled(embedded_broker: EmbeddedBroker) -> None:
    """A failure that became known while its only hearer waited for another record isn't lost when that is cancelled."""
    records = [ProducerRecord("odrers", b"1"), ProducerRecord("orders", b"2", partition=0)]

    async def use() -> None:
        async with open_producer(sending(embedded_broker, kafka=HELD)) as producer, trio.open_nursery() as nursery:
            nursery.start_soon(producer.send_all, records)
            await until(lambda: len(sender_of(producer)._outstanding) == 2)
            await until(lambda: len(sender_of(producer)._outstanding) == 1)
            nursery.cancel_scope.cancel()

    with trio.fail_after(PATIENCE), pytest.raises(DeliveryError, match=r"^1 of the records .*\n.*odrers"):
        await use()


@pytest.mark.parametrize("is_flushed", [True, False], ids=["flush", "end"])
async def test_nothing_lingers_at_the_end(embedded_broker: EmbeddedBroker, is_flushed: bool) -> None:
    """Whoever waits for what was sent doesn't wait for more to come along with it."""
    with trio.fail_after(HELD["linger.ms"] / 2000):
        async with open_producer(sending(embedded_broker, kafka=HELD)) as producer:
            producer.send_nowait("orders", b"1", partition=0)
            if is_flushed:
                await producer.flush()
    assert values(embedded_broker) == [1]


# The client


async def test_a_fatal_error(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """A fatal error fails what is on its way and what comes after it, and the block ends with it."""
    embedded_broker.fail_next("InitProducerId", ClientError.CLUSTER_AUTHORIZATION_FAILED)

    async def use() -> None:
        async with open_producer(sending(embedded_broker)) as producer:
            for _ in range(2):
                with pytest.raises(DeliveryError, match="an ACL is missing"):
                    await producer.send("orders", b"1")
            with pytest.raises(DeliveryError, match="the producer has ended: an ACL"):
                producer.send_nowait("orders", b"1")
            with pytest.raises(DeliveryError, match="the producer has ended: an ACL"):
                await producer.flush()

    with trio.fail_after(PATIENCE), pytest.raises(AuthorizationError, match="an ACL is missing") as caught:
        await use()
    assert isinstance(caught.value.__cause__, KafkaException)


async def test_a_fatal_error_and_another(embedded_broker: EmbeddedBroker) -> None:
    """When the body raises, the fatal error is a note on that."""
    embedded_broker.fail_next("InitProducerId", ClientError.CLUSTER_AUTHORIZATION_FAILED)

    async def use() -> None:
        async with open_producer(sending(embedded_broker)) as producer:
            await sender_of(producer).wait_ended()
            await producer.send("orders", b"1")

    with trio.fail_after(PATIENCE), pytest.raises(DeliveryError) as caught:
        await use()
    (note,) = caught.value.__notes__
    assert note.startswith("while leaving, AuthorizationError: an ACL is missing")
    assert isinstance(caught.value.__cause__, AuthorizationError)


async def test_a_callback_that_raises(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """What a user's callback raises ends the producer, and isn't swallowed."""

    def fail(_statistics: str) -> None:
        raise ZeroDivisionError("statistics")

    config = sending(embedded_broker, kafka={"stats_cb": fail, "statistics.interval.ms": 20})

    async def use() -> None:
        async with open_producer(config) as producer:
            await sender_of(producer).wait_ended()

    with trio.fail_after(PATIENCE), pytest.raises(KafkaError, match="the Kafka client ended: statistics") as caught:
        await use()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_an_error_within_a_callback(embedded_broker: EmbeddedBroker) -> None:
    """The client's error is found behind the one that Python makes of it in a callback."""

    async def use() -> None:
        async with open_producer(sending(embedded_broker)) as producer:
            error = SystemError("a result with an exception set")
            error.__cause__ = KafkaException(ClientError(ClientError.UNKNOWN, "told"))
            sender_of(producer).failed(error)
            await sender_of(producer).wait_ended()
            sender_of(producer).failed(ValueError("the first one counts"))

    with trio.fail_after(PATIENCE), pytest.raises(KafkaError, match="the client can't go on: told"):
        await use()


async def test_reports_that_got_lost(embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of which the client says nothing to its end doesn't make anybody wait for ever."""
    monkeypatch.setattr(ReportThread, "report", lambda *_: None)
    errors: list[DeliveryError] = []

    async def send() -> None:
        with pytest.raises(DeliveryError, match="ended without a word") as caught:
            await producer.send("orders", b"1")
        errors.append(caught.value)

    with trio.fail_after(PATIENCE):
        config = sending(embedded_broker, close_timeout=0.3)
        async with trio.open_nursery() as nursery, open_producer(config) as producer:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
    assert [each.topic for each in errors] == ["orders"]


async def test_a_thread_that_outlives_the_run(embedded_broker: EmbeddedBroker) -> None:
    """A thread that was left behind may call when Trio is no longer there to listen."""

    async def leave_behind() -> Sender:
        async with open_producer(sending(embedded_broker)) as producer:
            return sender_of(producer)

    sender = await trio.to_thread.run_sync(trio.run, leave_behind)
    sender.failed(ValueError("nobody listens"))


# The end


async def test_what_was_not_delivered(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """The end of the block waits within close_timeout, then says how many records weren't delivered, and which."""
    pending: list[PendingDelivery] = []

    async def use() -> None:
        async with open_producer(sending(embedded_broker, close_timeout=0.2)) as producer:
            await producer.send("orders", b"1", partition=0)
            embedded_broker.down()
            pending.extend(producer.send_nowait("orders", b"lost", partition=0) for _ in range(7))

    with trio.fail_after(PATIENCE), pytest.raises(DeliveryError) as caught:
        await use()
    assert str(caught.value).startswith(
        "7 of the records sent weren't delivered, and nobody waited to be told:\n- not "
    )
    assert str(caught.value).count("before the producer ended") == 5
    assert (caught.value.topic, caught.value.partition) == ("orders", 0)
    assert all(each.is_settled for each in pending)


async def test_on_its_way_at_the_end(embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a record that the broker may have at the end nobody says that it wasn't written; that was left to chance."""

    class Late(Client):
        def purge(self, *args: Any, **kwargs: Any) -> None:
            threading.Timer(0.1, super().purge, args, kwargs).start()

    monkeypatch.setattr(report_thread, "Producer", Late)

    async def use() -> None:
        async with open_producer(sending(embedded_broker, close_timeout=2)) as producer:
            await producer.send("orders", b"1", partition=0)
            embedded_broker.delay(PATIENCE)
            embedded_broker.clear_requests()
            producer.send_nowait("orders", b"2", partition=0)
            await until(lambda: embedded_broker.requests()["Produce"] == 1)

    with trio.fail_after(PATIENCE), pytest.raises(DeliveryError, match="producer ended; it is unknown whether"):
        await use()


async def test_not_delivered_and_another_error(embedded_broker: EmbeddedBroker) -> None:
    """When the body raises, what wasn't delivered is a note on that."""

    async def use() -> None:
        async with open_producer(sending(embedded_broker, close_timeout=0.1)) as producer:
            await producer.send("orders", b"1", partition=0)
            embedded_broker.down()
            producer.send_nowait("orders", b"lost", partition=0)
            raise ZeroDivisionError

    with trio.fail_after(PATIENCE), pytest.raises(ZeroDivisionError) as caught:
        await use()
    (note,) = caught.value.__notes__
    assert note.startswith("while leaving, DeliveryError: 1 of the records")


async def test_not_delivered_and_cancelled(embedded_broker: EmbeddedBroker) -> None:
    """A cancellation gives way to what wasn't delivered."""

    async def use() -> None:
        async with open_producer(sending(embedded_broker, close_timeout=0.1)) as producer:
            await producer.send("orders", b"1", partition=0)
            embedded_broker.down()
            scope.cancel()
            await producer.send("orders", b"lost", partition=0)

    scope = trio.CancelScope()
    with trio.fail_after(PATIENCE), scope, pytest.raises(DeliveryError, match="1 of the records"):
        await use()
    assert not scope.cancelled_caught


class Stuck:
    """Clients that don't close until they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_close = threading.Event()
        self.threads: list[threading.Thread] = []
        stuck = self

        class Slow(Client):
            def purge(self, *args: Any, **kwargs: Any) -> None:
                stuck.threads.append(threading.current_thread())
                stuck.may_close.wait(PATIENCE)
                super().purge(*args, **kwargs)

        monkeypatch.setattr(report_thread, "Producer", Slow)


async def test_a_client_that_does_not_close(embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that overruns its bound is left to a thread; the block ends with an error that says so."""
    stuck = Stuck(monkeypatch)
    senders: list[Sender] = []
    pending: list[PendingDelivery] = []

    async def use() -> None:
        async with open_producer(sending(embedded_broker, close_timeout=0.1)) as producer:
            senders.append(sender_of(producer))
            embedded_broker.down()
            pending.append(producer.send_nowait("orders", b"lost", partition=0))

    with trio.fail_after(PATIENCE), pytest.raises(DeliveryError, match="1 of the records") as caught:
        await use()
    (note,) = caught.value.__notes__
    assert note.startswith(f"while leaving, {CloseTimeoutError.__name__}: the Kafka client didn't close within 0.1 s")
    assert stuck.threads[0].daemon
    crossings = senders[0].crossings
    stuck.may_close.set()
    with trio.fail_after(PATIENCE):
        await until(lambda: senders[0].crossings > crossings)
        with pytest.raises(DeliveryError, match=r"it is unknown .* without a word"):  # its late reports change nothing
            await pending[0].wait()


async def test_an_opening_that_fails_and_does_not_close(closed_port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why a producer can't be opened is told within its bounds, even if the client doesn't close."""
    stuck = Stuck(monkeypatch)
    with pytest.raises(BrokerUnreachableError) as caught, trio.move_on_after(PATIENCE / 2) as scope:
        await open_and_close(at(closed_port, connect_timeout=0.1, close_timeout=0.1))
    assert not scope.cancel_called
    stuck.may_close.set()
    (note,) = caught.value.__notes__
    assert note.startswith("while leaving, CloseTimeoutError")


async def test_opened_too_late(embedded_broker: EmbeddedBroker) -> None:
    """A cluster that is found when the block is ending already isn't used any more."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            pass
        sender_of(producer).opened(Client({"log_level": 0}))
        await trio.testing.wait_all_tasks_blocked()
    assert sender_of(producer)._client is None
