"""Sending on the embedded broker: what arrives, in which order, and how a full queue is waited out."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any

import pytest
import trio
from confluent_kafka import Producer as Client
from confluent_kafka.serialization import SerializationContext
from embedded.kit import PATIENCE, until
from embedded.producer_kit import messages, sender_of, sending, values, written

from trio_parallel_kafka import producer as front
from trio_parallel_kafka.control import gil
from trio_parallel_kafka.control.gil import GilYield
from trio_parallel_kafka.errors import DeliveryError, ProducerClosedError, SerializationError
from trio_parallel_kafka.produced import ProducerRecord, RawRecord, RecordMetadata
from trio_parallel_kafka.producer import open_producer
from trio_parallel_kafka.producing import report_thread
from trio_parallel_kafka.serialization import Inline
from trio_parallel_kafka.testing import EmbeddedBroker

SMALL_QUEUE = {"queue.buffering.max.messages": 10}


async def test_a_record_arrives(embedded_broker: EmbeddedBroker) -> None:
    """The broker has the record with all its parts, and send() says where."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            headers = [("trace", b"1"), ("trace", None)]
            first = await producer.send("orders", b"v", key=b"k", headers=headers, partition=1, timestamp=1234.5678)
            second = await producer.send("orders", b"w", partition=1)
    assert (first.topic, first.partition, first.offset) == ("orders", 1, 0)
    assert (second.topic, second.partition, second.offset) == ("orders", 1, 1)
    assert isinstance(second.timestamp, float)
    message = messages(embedded_broker, 1)[0]
    assert (message.key(), message.value(), message.headers()) == (b"k", b"v", headers)
    assert message.timestamp()[1] == 1234568


async def test_a_record_may_be_almost_empty(embedded_broker: EmbeddedBroker) -> None:
    """Text is sent as UTF-8, a value may be missing, and the client finds a partition by key."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            places = [await producer.send("orders", key="ß") for _ in range(3)]
    (partition,) = {place.partition for place in places}
    assert written(embedded_broker, partition) == [("ß".encode(), None)] * 3


async def test_the_first_moment_of_time(embedded_broker: EmbeddedBroker) -> None:
    """A timestamp of 0 isn't taken for "now", as the client would."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            await producer.send("orders", partition=0, timestamp=0.0)
            for timestamp in (-1.0, float("nan"), float("inf")):
                with pytest.raises(ValueError, match="timestamp must be seconds since 1970"):
                    await producer.send("orders", timestamp=timestamp)
    assert messages(embedded_broker)[0].timestamp()[1] == 1


async def test_what_no_record_can_have(embedded_broker: EmbeddedBroker) -> None:
    """What the client would cut, make text of, or crash at is refused; any other header arrives as it is."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            for name in ("a\0b", "\ud800", b"a", 5):
                with pytest.raises(ValueError, match="a header's name must be text that UTF-8 can encode"):
                    await producer.send("orders", headers=[(name, b"x")])  # type: ignore[list-item]
            for partition in (-2, 2**31, "0"):
                with pytest.raises(ValueError, match="a partition must be a number from 0"):
                    await producer.send("orders", partition=partition)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="a topic must be text, is 5"):
                await producer.send(5)  # type: ignore[arg-type]
            await producer.send("orders", partition=0, headers=[("", None), ("größe", b"x")])
    assert messages(embedded_broker)[0].headers() == [("", None), ("größe", b"x")]


async def test_order_and_room(embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue of 10 makes 200 tasks wait, in the order of their calls; each try follows upon reports."""
    tries = []

    class Counted(Client):
        def produce(self, *args: Any, **kwargs: Any) -> None:
            tries.append(1)
            super().produce(*args, **kwargs)

    monkeypatch.setattr(report_thread, "Producer", Counted)
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker, kafka=SMALL_QUEUE)) as producer:
            embedded_broker.delay(0.01)
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(functools.partial(producer.send, "orders", b"%d" % number, partition=0))
                    await trio.lowlevel.checkpoint()
            crossings = sender_of(producer).crossings
    assert values(embedded_broker) == list(range(200))
    assert crossings > 10, "the queue never was full"
    assert 200 < len(tries) <= 200 + crossings + 1


async def test_now_or_not_at_all(embedded_broker: EmbeddedBroker) -> None:
    """send_nowait() says when there is no room, and doesn't push in before those who wait for it."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker, kafka=SMALL_QUEUE)) as producer:
            embedded_broker.down()
            pending = [producer.send_nowait("orders", b"%d" % number, partition=0) for number in range(10)]
            with pytest.raises(trio.WouldBlock):
                producer.send_nowait("orders", b"full")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(functools.partial(producer.send, "orders", b"10", partition=0))
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.WouldBlock):
                    producer.send_nowait("orders", b"pushes in")
                assert not any(each.is_settled for each in pending)
                embedded_broker.up()
            async with sender_of(producer)._turn():  # it is another's turn, who may wait for room just now
                with pytest.raises(trio.WouldBlock):
                    producer.send_nowait("orders", b"pushes in")
            last = producer.send_nowait("orders", b"11", partition=0)
            assert [(await each.wait()).offset for each in [*pending, last, last]] == [*range(10), 11, 11]
            assert all(each.is_settled for each in pending)
    assert values(embedded_broker) == list(range(12))


async def test_several_wait_for_one(embedded_broker: EmbeddedBroker) -> None:
    """Any number of tasks may wait for a delivery; one that is cancelled doesn't disturb the others."""
    found: list[RecordMetadata] = []
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            embedded_broker.delay(0.05)
            pending = producer.send_nowait("orders", b"1", partition=0)

            async def wait(scope: trio.CancelScope) -> None:
                with scope:
                    found.append(await pending.wait())

            async with trio.open_nursery() as nursery:
                scopes = [trio.CancelScope() for _ in range(3)]
                for scope in scopes:
                    nursery.start_soon(wait, scope)
                await trio.testing.wait_all_tasks_blocked()
                scopes[1].cancel()
            embedded_broker.delay(0)
    assert [each.offset for each in found] == [0, 0]


async def test_several_at_once(embedded_broker: EmbeddedBroker) -> None:
    """send_all() keeps its records together, whatever others send meanwhile."""

    def batch(tens: int) -> list[ProducerRecord]:
        return [ProducerRecord("orders", b"%d" % (10 * tens + ones), partition=0) for ones in range(8)]

    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker, kafka={"queue.buffering.max.messages": 3})) as producer:
            assert await producer.send_all([]) == []
            async with trio.open_nursery() as nursery:
                for tens in range(5):
                    nursery.start_soon(producer.send_all, batch(tens))
            assert [each.offset for each in await producer.send_all(batch(5))] == list(range(40, 48))
    found = values(embedded_broker)
    assert sorted(found) == [10 * tens + ones for tens in range(6) for ones in range(8)]
    assert all(found[at + 1] == found[at] + 1 for at in range(47) if at % 8 != 7)


async def test_some_of_several(embedded_broker: EmbeddedBroker) -> None:
    """The first failure of several leaves once it is known of all; the others are notes on it."""
    records = [
        ProducerRecord("orders", b"0", partition=0),
        ProducerRecord("odrers"),
        ProducerRecord("orders", partition=7),
    ]
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            with pytest.raises(DeliveryError, match="the topic isn't there") as caught:
                await producer.send_all([*records, ProducerRecord("orders", headers=[("a", 3)])])  # type: ignore[list-item]
            await producer.flush()  # nothing is left to tell
    assert [note.partition(":")[2][:30] for note in caught.value.__notes__] == [
        " the topic has no such partiti",
        " expected header value to be N",
    ]
    assert values(embedded_broker) == [0]


async def test_flush(embedded_broker: EmbeddedBroker) -> None:
    """flush() waits for what was sent before, and tells once of failures that nobody waited for."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            pending = [producer.send_nowait("orders", b"%d" % number) for number in range(100)]
            await producer.flush()
            assert all(each.is_settled for each in pending)
            lost = [producer.send_nowait("odrers", b"x") for _ in range(8)]
            with pytest.raises(DeliveryError, match="8 of the records sent weren't delivered") as caught:
                await producer.flush()
            assert str(caught.value).count("the topic isn't there") == 5
            assert str(caught.value).endswith("- and 3 more")
            assert (caught.value.topic, caught.value.partition) == ("odrers", None)
            assert caught.value.__cause__ is not None
            with pytest.raises(DeliveryError, match="odrers"):
                await lost[7].wait()  # told again to whoever asks
            await producer.flush()


async def test_flush_while_others_wait(embedded_broker: EmbeddedBroker) -> None:
    """Failures that somebody waits for are that task's, also if flush() hears of them at the same moment."""

    async def send(producer: front.Producer) -> None:
        with pytest.raises(DeliveryError):
            await producer.send("odrers", b"x")

    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer, trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(send, producer)
            await trio.testing.wait_all_tasks_blocked()
            await producer.flush()


async def test_what_is_told_late(embedded_broker: EmbeddedBroker) -> None:
    """A failure that somebody asks for after it has become known isn't told again."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            for told, remaining in ((7, 0), (5, 2)):
                pending = [producer.send_nowait(f"odrers{told}", b"x") for _ in range(7)]
                await until(lambda pending=pending: all(each.is_settled for each in pending))  # type: ignore[misc]
                for each in pending[:told]:
                    with pytest.raises(DeliveryError):
                        await each.wait()
                if remaining:
                    with pytest.raises(DeliveryError, match=r"2 of the records[^-]*- and 2 more$"):
                        await producer.flush()


async def test_few_crossings(embedded_broker: EmbeddedBroker) -> None:
    """Reports of 10,000 sends at once come over from the thread in less than 100 lots."""
    count = 10_000
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(producer.send, "orders", b"%d" % number)
            print(f"{sender_of(producer).crossings} crossings")
            assert sender_of(producer).crossings < 100


async def test_a_busy_loop(embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the length of the blocks, and no longer, their threads get their turn at the GIL, by one instrument."""
    made: list[GilYield] = []
    waits: list[float] = []

    class Counting(GilYield):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def before_io_wait(self, timeout: float) -> None:
            waits.append(timeout)
            super().before_io_wait(timeout)

    monkeypatch.setattr(gil, "GilYield", Counting)
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as first:
            async with open_producer(sending(embedded_broker)) as second:
                await second.send("orders", b"1")
            count = len(waits)
            await first.send("orders", b"2")
            assert len(waits) > count
        count = len(waits)
        await trio.sleep(0.001)
        assert len(waits) <= count + 1  # it is told of the end of the wait that it was removed in
    assert len(made) == 1


async def test_after_the_block(embedded_broker: EmbeddedBroker) -> None:
    """Once the block has ended, nothing can be sent."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            pending = producer.send_nowait("orders", b"1")
        assert (await pending.wait()).offset == 0, "the end of the block waits for it"
        for use in (producer.flush, functools.partial(producer.send, "orders")):
            with pytest.raises(ProducerClosedError, match=r"the producer's block has ended; .* open_producer\(\)"):
                await use()
        with pytest.raises(ProducerClosedError):
            producer.send_nowait("orders")


async def test_whoever_waits_for_room_when_the_block_ends(embedded_broker: EmbeddedBroker) -> None:
    """A task outside the block that waits in line is told that it has ended."""
    errors: list[ProducerClosedError] = []

    async def send(producer: front.Producer) -> None:
        with pytest.raises(ProducerClosedError) as caught:
            await producer.send("orders", b"late")
        errors.append(caught.value)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            async with open_producer(sending(embedded_broker, kafka=SMALL_QUEUE)) as producer:
                embedded_broker.delay(0.05)
                for number in range(10):
                    producer.send_nowait("orders", b"%d" % number, partition=0)
                for _ in range(3):
                    nursery.start_soon(send, producer)
                await trio.testing.wait_all_tasks_blocked()
            embedded_broker.delay(0)
    assert len(errors) == 3
    assert values(embedded_broker) == list(range(10))


def shouting(data: str, context: SerializationContext) -> bytes:
    """A serialiser that also says in a header what it did."""
    assert isinstance(context.headers, list)
    context.headers.append((f"{context.field}-of", context.topic.encode()))
    return data.upper().encode()


async def test_serialisers(embedded_broker: EmbeddedBroker) -> None:
    """Keys and values go through the serialisers, which may add headers; what is raw already doesn't."""
    config = sending(embedded_broker, serialize_key=shouting, serialize_value=shouting)
    with trio.fail_after(PATIENCE):
        async with open_producer(config) as producer:
            await producer.send("orders", "v", key="k", headers=[("own", b"1")], partition=0)
            await producer.send_all([RawRecord("orders", b"raw", partition=0)])
            with pytest.raises(SerializationError, match="value") as caught:
                await producer.send("orders", 5, key="k", partition=0)
            good = ProducerRecord("orders", "good", key="k", partition=0)
            with pytest.raises(SerializationError):
                await producer.send_all([good, ProducerRecord("orders", 5, key="k")])
            with pytest.raises(SerializationError, match=r"use send\(\)"):
                producer.send_nowait("orders", "v")
    assert isinstance(caught.value.__cause__, AttributeError)
    assert written(embedded_broker) == [(b"K", b"V"), (None, b"raw")], "nothing of what couldn't be serialised"
    headers = messages(embedded_broker)[0].headers()
    assert headers == [("own", b"1"), ("key-of", b"orders"), ("value-of", b"orders")]


@pytest.mark.parametrize("serializer", [Inline(shouting), None])
async def test_serialisers_that_never_block(
    embedded_broker: EmbeddedBroker, serializer: Callable[..., bytes] | None
) -> None:
    """send_nowait() takes serialisers that say that they never block, and none."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker, serialize_value=serializer)) as producer:
            producer.send_nowait("orders", "v", partition=0)
            with pytest.raises(SerializationError):
                producer.send_nowait("orders", 5)
    assert written(embedded_broker) == [(None, b"V" if serializer else b"v")]


async def test_what_the_client_cannot_take(embedded_broker: EmbeddedBroker) -> None:
    """Arguments of a wrong type are told as such, and the producer goes on."""
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(embedded_broker)) as producer:
            with pytest.raises(TypeError, match="header"):
                await producer.send("orders", headers=[("a", 3)])  # type: ignore[list-item]
            with pytest.raises(SerializationError, match="value"):
                await producer.send("orders", 5)
            await producer.send("orders", b"1", partition=0)
    assert values(embedded_broker) == [1]


def producers_alive() -> int:
    """How many objects of producers there are: other tests may have left some in the traceback of a failure."""
    gc.collect()
    return sum(isinstance(each, (front.Producer, Client, GilYield)) for each in gc.get_objects())


async def test_nothing_is_left_behind(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """No thread, file or object of a producer stays after its block."""

    async def use(number: int) -> None:
        with trio.CancelScope() as scope:
            async with open_producer(sending(embedded_broker)) as producer:
                await producer.send("orders", b"%d" % number, partition=0)
                if number % 2:
                    scope.cancel()

    before = producers_alive()
    with trio.fail_after(PATIENCE):
        for number in range(20):
            await use(number)
    assert producers_alive() <= before
    assert values(embedded_broker) == list(range(20))
