"""A consumer and its simulated broker in one."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_parallel_kafka import (
    ConsumerConfig,
    DeadLetterConfig,
    InThread,
    ProducerConfig,
    ProducerRecord,
    Record,
    RetryPolicy,
    TopicNotFoundError,
)
from trio_parallel_kafka.control.cluster import Librdkafka, current_cluster
from trio_parallel_kafka.serialization import never_in_threads
from trio_parallel_kafka.testing import AtLeastOnce, History, KeyOrder, KeySerial, OneOwner, open_simulated_consumer


def config(**fields: Any) -> ConsumerConfig:
    """A configuration; nobody is at its address."""
    return ConsumerConfig(**{"bootstrap_servers": "nobody:1", "group_id": "billing", "topics": "orders", **fields})


@pytest.mark.parametrize(
    ("fields", "topics"),
    [
        ({}, {"orders": 4}),
        ({"topics": ["orders", "refunds"]}, {"orders": 4, "refunds": 4}),
        ({"on_failure": "dead_letter"}, {"orders": 4, "orders.dlt": 4}),
        ({"topics": ["a", "b"], "on_failure": "dead_letter"}, {"a": 4, "b": 4, "a.dlt": 4, "b.dlt": 4}),
        ({"dead_letter": DeadLetterConfig(topic="graves")}, {"orders": 4, "graves": 4}),
        ({"dead_letter": DeadLetterConfig(topic=lambda _: "graves")}, {"orders": 4}),
    ],
)
async def test_topics_by_default(
    autojump_clock: MockClock, fields: Mapping[str, Any], topics: Mapping[str, int]
) -> None:
    """What the configuration names is there, and where its dead letters go to; patterns name nothing."""
    async with open_simulated_consumer(config(**fields)) as (_, broker):
        assert broker.partition_counts == topics


async def test_topics_that_are_named(autojump_clock: MockClock) -> None:
    """Topics that are named are there, and no others: as with any broker, one that is missing is an error."""
    async with open_simulated_consumer(config(topics="^ord"), topics={"orders": 1, "others": 2}) as (_, broker):
        assert broker.partition_counts == {"orders": 1, "others": 2}
    with pytest.raises(TopicNotFoundError):
        async with open_simulated_consumer(config(), topics={"others": 1}):
            raise AssertionError("it opened")


async def test_a_handler_in_virtual_time(autojump_clock: MockClock) -> None:
    """Retries of minutes take none; what happened stands in the history, and is committed."""
    history = History()
    times: list[float] = []
    policy = RetryPolicy(max_attempts=7, initial_backoff=5, max_backoff=300, jitter=0)

    async def handle(record: Record) -> None:
        times.append(trio.current_time())
        if len(times) < 7:
            raise ConnectionError

    given = config(retry=policy)
    async with open_simulated_consumer(given, history=history) as (pc, broker), trio.open_nursery() as nursery:
        assert broker.history is history
        nursery.start_soon(pc.run, history.watch(handle, "only", config=given))
        written = broker.produce("orders", "a", key="k")
        await trio.sleep(600)
        pc.stop()
    assert times[-1] - times[0] == pytest.approx(5 * (1 + 2 + 4 + 8 + 16 + 32), abs=1)
    assert [type(event).__name__ for event in history.events].count("Failed") == 6
    assert broker.committed("billing")["orders", written.partition][0] == 1


async def test_dead_letters_exactly_once(autojump_clock: MockClock) -> None:
    """A lane goes on while the dead letter of its record waits for the transaction's end: its order is kept."""
    given = config(delivery="exactly_once", transactional_id="billing-1", on_failure="dead_letter")

    async def handle(record: Record) -> None:
        await trio.sleep(0.1)
        if record.offset == 0:
            raise ValueError

    async with open_simulated_consumer(given) as (pc, broker), trio.open_nursery() as nursery:
        for _ in range(2):
            broker.produce("orders", key="k")
        nursery.start_soon(pc.run, broker.history.watch(handle, config=given))
        while broker.lag("billing", "orders"):
            await trio.sleep(1)
        pc.stop()
    assert len(broker.records("orders.dlt")) == 1
    for guarantee in (AtLeastOnce, KeyOrder, KeySerial, OneOwner):
        guarantee(broker.history).check()


async def test_conversions_in_virtual_time(autojump_clock: MockClock) -> None:
    """Serialisers and deserialisers that take real time take none of the virtual, and not a turn of the loop."""
    here = threading.get_ident()
    threads: list[int] = []
    taken: list[float] = []

    def slow(data: bytes | None, _context: object) -> bytes | None:
        threads.append(threading.get_ident())
        time.sleep(0.01)
        return data

    async def handle(record: Record) -> ProducerRecord:
        taken.append(trio.current_time())
        return ProducerRecord("results", record.value)

    made = config(
        deserialize_value=InThread(slow),
        delivery="exactly_once",
        transactional_id="billing-0",
        producer=ProducerConfig(bootstrap_servers="nobody:1", serialize_value=slow),
    )
    topics = {"orders": 1, "results": 1}
    async with open_simulated_consumer(made, topics=topics) as (pc, broker), trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        for value in "abc":
            broker.produce("orders", value)
        await trio.sleep(60)
        pc.stop()
    assert threads == [here] * 6
    assert taken[0] == taken[-1]
    assert not never_in_threads.get()


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_what_the_body_raises(autojump_clock: MockClock, is_cancelled: bool) -> None:
    """It leaves the block as it is, also when a cancellation comes with it, and tasks of a group have to end."""
    error = ValueError("mine")

    async def body() -> None:
        with trio.CancelScope() as scope:
            async with open_simulated_consumer(config()):
                await trio.sleep(1)
                if is_cancelled:
                    scope.cancel()
                raise error

    with pytest.raises(ValueError, match="mine") as caught:
        await body()
    assert caught.value is error


async def test_a_cancelled_block(autojump_clock: MockClock) -> None:
    """A cancellation passes through it."""
    with trio.move_on_after(5) as scope:
        async with open_simulated_consumer(config()):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_broker_breaks_down(autojump_clock: MockClock) -> None:
    """What its own tasks raise isn't taken for what the body did."""

    async def body() -> None:
        async with open_simulated_consumer(config()) as (_, broker):
            broker.group("billing").generation = None  # type: ignore[assignment]  # makes its coordinator fail
            broker.create_topic("refunds")
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await body()
    assert caught.group_contains(TypeError)


async def test_after_the_block(autojump_clock: MockClock) -> None:
    """What is opened outside of the block finds no simulated broker."""
    async with open_simulated_consumer(config()) as (_, broker):
        assert current_cluster.get() is broker
    assert isinstance(current_cluster.get(), Librdkafka)
