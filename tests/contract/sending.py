"""Clauses: producers."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from typing import Final

import pytest
import trio
from contract.stage import Clause, Stage, sending, topic_with

from trio_parallel_kafka.errors import DeliveryError, ProducerClosedError, RecordTooLargeError, SerializationError
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producer import open_producer


async def a_record_with_all_its_parts(stage: Stage) -> None:
    """A record arrives as it was sent; where it is, and when, is told."""
    topic = await topic_with(stage, 0, 0)
    lately = round(time.time()) + 0.5  # a broker may delete what is old at once
    async with open_producer(sending(stage)) as producer:
        headers = [("trace", b"1"), ("trace", None)]
        first = await producer.send(topic, "vä", key=b"k", headers=headers, partition=1, timestamp=lately)
        second = await producer.send(topic, partition=1)
    assert (first.topic, first.partition, first.offset, second.offset) == (topic, 1, 0, 1)
    if stage.tells_timestamps:
        assert first.timestamp == lately
        assert second.timestamp is not None
    message, empty = await stage.read(topic, 1)
    assert (message.key(), message.value(), message.headers()) == (b"k", "vä".encode(), headers)
    assert message.timestamp()[1] == lately * 1000
    assert (empty.key(), empty.value(), empty.headers()) == (None, None, None)
    assert await stage.read(topic, 0) == []


async def keys_choose_partitions(stage: Stage) -> None:
    """Records of a key go to the partition that librdkafka chooses for it; those without one go somewhere."""
    topic = await topic_with(stage, 0, 0, 0, 0)
    keys = [b"k%d" % number for number in range(20)]
    async with open_producer(sending(stage)) as producer:
        sent = await producer.send_all([ProducerRecord(topic, key, key=key) for key in keys])
        keyless = await producer.send_all([ProducerRecord(topic, b"", key=key) for key in (None, b"") * 20])
    assert [each.partition for each in sent] == [zlib.crc32(key) % 4 for key in keys]
    assert {each.partition for each in keyless} <= {0, 1, 2, 3}


async def together_and_in_order(stage: Stage) -> None:
    """Records that are sent together are written in their order, none of others between them."""
    topic = await topic_with(stage, 0)

    async def send(group: int) -> None:
        await producer.send_all([ProducerRecord(topic, b"%d-%d" % (group, number)) for number in range(10)])

    async with open_producer(sending(stage)) as producer, trio.open_nursery() as nursery:
        for group in range(5):
            nursery.start_soon(send, group)
    written = [(message.value() or b"").decode() for message in await stage.read(topic, 0)]
    groups = list(dict.fromkeys(each.partition("-")[0] for each in written))
    assert sorted(groups) == list("01234")
    assert written == [f"{group}-{number}" for group in groups for number in range(10)]


async def what_is_refused(stage: Stage) -> None:
    """A topic or a partition that isn't there and a record that is too large are told by name; others go through."""
    topic, missing = await topic_with(stage, 0), stage.unique("missing")
    async with open_producer(sending(stage)) as producer:
        with pytest.raises(DeliveryError, match="the topic isn't there; make it") as caught:
            await producer.send(missing, b"1")
        assert caught.value.topic == missing
        with pytest.raises(DeliveryError, match="the topic has no such partition") as caught:
            await producer.send(topic, b"1", partition=7)
        assert caught.value.partition == 7
        with pytest.raises(RecordTooLargeError) as too_large:
            await producer.send(topic, b"x" * (stage.largest + 1000))
        assert too_large.value.topic == topic
        assert (await producer.send(topic, b"1")).offset == 0


async def some_are_refused(stage: Stage) -> None:
    """Of records that are sent together the others are written; the error is the first one's, and tells of the rest."""
    topic = await topic_with(stage, 0)
    good = [ProducerRecord(topic, b"%d" % number) for number in range(3)]
    bad = [ProducerRecord(topic, b"x", partition=number) for number in (8, 9)]
    async with open_producer(sending(stage)) as producer:
        await producer.send(topic, b"-")  # the client knows the topic, and refuses at once
        with pytest.raises(DeliveryError) as caught:
            await producer.send_all([good[0], bad[0], good[1], bad[1], good[2]])
        assert caught.value.partition == 8
    assert [message.value() for message in await stage.read(topic, 0)][:2] == [b"-", b"0"]


async def what_cannot_be_serialised(stage: Stage) -> None:
    """Of records of which one can't be serialised none is written."""
    topic = await topic_with(stage, 0)
    async with open_producer(sending(stage)) as producer:
        with pytest.raises(SerializationError):
            await producer.send_all([ProducerRecord(topic, b"1"), ProducerRecord(topic, 2)])
        with pytest.raises(SerializationError):
            producer.send_nowait(topic, 3)
    assert await stage.read(topic, 0) == []


async def flushing(stage: Stage) -> None:
    """A flush waits for all that was sent; a failure that nobody waited for is told once, then or at the end."""
    topic, missing = await topic_with(stage, 0), stage.unique("missing")
    async with open_producer(sending(stage)) as producer:
        pending = [producer.send_nowait(topic, b"%d" % number) for number in range(20)]
        await producer.flush()
        assert all(each.is_settled for each in pending)
        assert [(await each.wait()).offset for each in pending] == list(range(20))
        producer.send_nowait(missing, b"x")
        with pytest.raises(DeliveryError, match=f"1 of the records sent .*\n- .*{missing}"):
            await producer.flush()
        await producer.flush()
    with pytest.raises(DeliveryError, match=f"1 of the records sent .*\n- .*{missing}"):
        async with open_producer(sending(stage)) as producer:
            producer.send_nowait(missing, b"x")


async def leaving(stage: Stage) -> None:
    """What was sent is written before the block ends, also a cancelled one; after it nothing can be sent."""
    topic = await topic_with(stage, 0)
    with trio.CancelScope() as scope:
        async with open_producer(sending(stage)) as producer:
            producer.send_nowait(topic, b"1")
            scope.cancel()
    assert [message.value() for message in await stage.read(topic, 0)] == [b"1"]
    with pytest.raises(ProducerClosedError):
        await producer.send(topic, b"2")
    with pytest.raises(ProducerClosedError):
        await producer.send_all([ProducerRecord(topic, b"2")])
    with pytest.raises(ProducerClosedError):
        producer.send_nowait(topic, b"2")
    with pytest.raises(ProducerClosedError):
        await producer.flush()


async def an_error_in_the_block(stage: Stage) -> None:
    """What the body raises leaves as it is, with a note on what wasn't delivered."""
    missing = stage.unique("missing")

    async def use() -> None:
        async with open_producer(sending(stage)) as producer:
            producer.send_nowait(missing, b"1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await use()
    (note,) = caught.value.__notes__
    assert note.startswith("while leaving, DeliveryError: 1 of the records sent weren't delivered")


SENDING: Final[Sequence[Clause]] = (
    a_record_with_all_its_parts,
    keys_choose_partitions,
    together_and_in_order,
    what_is_refused,
    some_are_refused,
    what_cannot_be_serialised,
    flushing,
    leaving,
    an_error_in_the_block,
)
