"""The simulated broker's topics and records."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from trio_parallel_kafka import ConsumerConfig, ProducerConfig, Record, open_producer
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.testing import (
    AtLeastOnce,
    KeyOrder,
    SimulatedBroker,
    open_simulated_broker,
    open_simulated_consumer,
)
from trio_parallel_kafka.testing.events import Completed, GivenUp, Output, Produced
from trio_parallel_kafka.testing.simulation.log import Log


@pytest.fixture
async def broker() -> AsyncIterator[SimulatedBroker]:
    """A broker with the topic ``orders``, of two partitions."""
    async with open_simulated_broker({"orders": 2}) as made:
        yield made


def test_a_log() -> None:
    """Offsets count up, also over what nobody reads; reading starts anywhere, and leaves out what isn't there."""
    log = Log(TopicPartition("orders", 0))
    assert [log.append(None, b"a"), log.append(None, b"b")] == [0, 1]
    log.skip(3)
    assert log.append(b"k", b"c", (("h", None),), 1.5) == 5
    assert [message.offset() for message in log.read(0, 10)] == [0, 1, 5]
    assert [message.offset() for message in log.read(1, 1)] == [1]
    assert list(log.read(6, 10)) == []
    (last,) = log.read(2, 10)
    assert (last.key(), last.value(), last.headers(), last.timestamp()[1]) == (b"k", b"c", [("h", None)], 1500)
    log.cut(1, 3)
    assert (log.first, log.end, list(log.records)) == (1, 3, [1])


async def test_topics_are_made_and_grow(autojump_clock: MockClock, broker: SimulatedBroker) -> None:
    """A topic may get more partitions, and keeps its records and its id; as many or fewer is a mistake."""
    broker.produce("orders", "a", partition=1)
    before = broker.topic_ids["orders"]
    broker.create_topic("orders", 3)
    broker.create_topic("refunds")
    assert broker.partition_counts == {"orders": 3, "refunds": 1}
    assert broker.topic_ids["orders"] == before
    assert broker.topic_ids["refunds"] != before
    assert [record.value for record in broker.records("orders")] == [b"a"]
    for count in (3, 2, 0):
        with pytest.raises(ValueError, match=f"topic 'orders' is to have {count} partitions, and has 3"):
            broker.create_topic("orders", count)


async def test_a_topic_is_made_anew(autojump_clock: MockClock, broker: SimulatedBroker) -> None:
    """A recreated topic is empty and has another id; others are as they were."""
    broker.create_topic("refunds")
    broker.produce("orders", "a")
    broker.produce("refunds", "b")
    ids = dict(broker.topic_ids)
    broker.recreate_topic("orders")
    assert broker.partition_counts["orders"] == 2
    assert broker.records("orders") == []
    assert broker.produce("orders", "c", partition=0).offset == 0
    assert broker.topic_ids["orders"] not in ids.values()
    assert broker.topic_ids["refunds"] == ids["refunds"]
    assert [record.value for record in broker.records("refunds")] == [b"b"]


async def test_records_are_produced(autojump_clock: MockClock, broker: SimulatedBroker) -> None:
    """Text is UTF-8, a key's records stay together, others are spread; what is told is where and when."""
    await trio.sleep(5)
    written = broker.produce("orders", "ä", key="k", headers=[("h", b"1")])
    assert written.timestamp == 5.0
    assert [broker.produce("orders", key="k").partition for _ in range(5)] == [written.partition] * 5
    assert {broker.produce("orders").partition for _ in range(2)} == {0, 1}
    assert broker.produce("orders", partition=1, timestamp=1234.5).timestamp == 1234.5
    first = broker.records("orders", written.partition)[0]
    assert (first.key, first.value, first.headers, first.timestamp) == (b"k", "ä".encode(), (("h", b"1"),), 5.0)
    assert len(broker.records("orders")) == 9
    with pytest.raises(KeyError):
        broker.produce("refunds", "x")
    with pytest.raises(KeyError):
        broker.produce("orders", "x", partition=2)
    produced = [event for event in broker.history.events if isinstance(event, Produced)]
    assert len(produced) == 9
    assert (produced[0].place[:2], produced[0].key) == (("orders", written.partition), b"k")


async def test_records_are_deleted_and_lost(autojump_clock: MockClock, broker: SimulatedBroker) -> None:
    """Retention moves the log's beginning, also beyond its end; a truncation moves its end back, also below it."""
    for value in "abcde":
        broker.produce("orders", value, partition=0)
    log = broker.logs[TopicPartition("orders", 0)]
    broker.delete_records("orders", 0, before=2)
    assert (log.first, log.end, [record.value for record in broker.records("orders")]) == (2, 5, [b"c", b"d", b"e"])
    broker.truncate("orders", 0, end=4)
    assert (log.first, log.end, [record.value for record in broker.records("orders")]) == (2, 4, [b"c", b"d"])
    broker.truncate("orders", 0, end=1)
    assert (log.first, log.end, broker.records("orders")) == (1, 1, [])
    broker.delete_records("orders", 0, before=7)
    assert (log.first, log.end) == (7, 7)
    assert broker.produce("orders", "f", partition=0).offset == 7


async def test_what_is_deleted_is_given_up(autojump_clock: MockClock) -> None:
    """Guarantees hold where nobody could handle a record, because it was deleted or lost before."""
    config = ConsumerConfig(bootstrap_servers="any:1", group_id="billing", topics="orders")

    async def handle(_: Record) -> None:
        await trio.lowlevel.checkpoint()

    async with open_simulated_consumer(config, topics={"orders": 1}) as (pc, broker), trio.open_nursery() as nursery:
        for value in "abcde":
            broker.produce("orders", value, key="k")
        broker.delete_records("orders", 0, before=2)
        broker.truncate("orders", 0, end=4)
        nursery.start_soon(pc.run, broker.history.watch(handle, config=config))
        await trio.sleep(5)
        pc.stop()
    done = [event.place.offset for event in broker.history.events if isinstance(event, GivenUp | Completed)]
    assert done == [0, 1, 4, 2, 3]
    for guarantee in (AtLeastOnce, KeyOrder):
        guarantee(broker.history).check()


async def test_many_topics(autojump_clock: MockClock, broker: SimulatedBroker) -> None:
    """Each of hundreds has an id of its own, of 16 bytes."""
    for number in range(300):
        broker.create_topic(f"topic-{number}")
    assert len(set(broker.topic_ids.values())) == 301
    assert {len(each) for each in broker.topic_ids.values()} == {16}


async def test_topics_and_partitions_that_are_missing(autojump_clock: MockClock, broker: SimulatedBroker) -> None:
    """A name with a typo is a mistake, rather than a topic without records that everybody has read."""
    for ask in (
        lambda: broker.lag("billing", "ordres"),
        lambda: broker.records("ordres"),
        lambda: broker.recreate_topic("ordres"),
        lambda: broker.commit("billing", "ordres", 0, 1),
    ):
        with pytest.raises(KeyError, match="ordres"):
            ask()
    with pytest.raises(KeyError):
        broker.commit("billing", "orders", 2, 1)
    assert not broker.committed("billing")
    assert "ordres" not in broker.topic_ids


async def test_what_a_subscription_matches(autojump_clock: MockClock, broker: SimulatedBroker) -> None:
    """Names match themselves, patterns what they match from the beginning; the first that is missing is named."""
    broker.create_topic("orders.dlt")
    broker.create_topic("refunds")

    def topics(*subscribed: str) -> list[str]:
        return list(dict.fromkeys(place.topic for place in broker.matching(subscribed)))

    assert topics("orders") == ["orders"]
    assert topics("^orders") == ["orders", "orders.dlt"]
    assert topics("^orders$", "refunds") == ["orders", "refunds"]
    assert topics("^unds") == []
    assert len(broker.matching(["orders"])) == 2
    assert broker.missing(["orders", "x", "y"]) == "x"
    assert broker.missing(["orders", "refunds"]) is None


async def test_a_log_changes_under_a_reader(autojump_clock: MockClock) -> None:
    """A consumer that waits notices at once that its log was cut, and reads what is written then."""
    config = ConsumerConfig(bootstrap_servers="any:1", group_id="billing", topics="orders", commit_interval=0.1)
    values: list[bytes | None] = []

    async def handle(record: Record) -> None:
        values.append(record.value)

    async with open_simulated_consumer(config, topics={"orders": 1}) as (pc, broker), trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        broker.produce("orders", "a")
        await trio.sleep(1)
        broker.truncate("orders", 0, end=0)
        await trio.sleep(0.1)  # what is written over at once isn't seen to be another record
        broker.produce("orders", "b")
        await trio.sleep(1)
        broker.delete_records("orders", 0, before=4)
        broker.produce("orders", "c")
        await trio.sleep(1)
        pc.stop()
    assert values == [b"a", b"b", b"c"]
    assert broker.committed("billing") == {("orders", 0): (5, broker.committed("billing")["orders", 0][1])}


async def test_what_clients_send_is_noted(autojump_clock: MockClock, broker: SimulatedBroker) -> None:
    """Outputs stand in the history, as what handlers made; what a test produces is what handlers get."""
    async with open_producer(ProducerConfig(bootstrap_servers=broker.bootstrap_servers)) as producer:
        await producer.send("orders", b"v", key=b"k")
    (output,) = [event for event in broker.history.events if isinstance(event, Output)]
    assert (output.topic, output.key, output.value) == ("orders", b"k", b"v")
    assert not [event for event in broker.history.events if isinstance(event, Produced)]


async def test_dead_letters_are_noted(autojump_clock: MockClock) -> None:
    """A record is given up once its dead letter is there."""
    config = ConsumerConfig(bootstrap_servers="any:1", group_id="billing", topics="orders", on_failure="dead_letter")

    async def handle(_record: Record) -> None:
        raise ValueError

    async with open_simulated_consumer(config) as (pc, broker), trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        written = broker.produce("orders", "bad", key="k")
        await trio.sleep(5)
        pc.stop()
    (given_up,) = [event for event in broker.history.events if isinstance(event, GivenUp)]
    assert given_up.place == ("orders", written.partition, written.offset)
    assert [(record.key, record.value) for record in broker.records("orders.dlt")] == [(b"k", b"bad")]
