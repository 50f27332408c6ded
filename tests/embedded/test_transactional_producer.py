"""Transactions asked for from Trio: how the thread is hosted, and on the embedded broker that it makes them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from confluent_kafka import Consumer, TopicPartition as ClientPartition
from embedded.kit import PATIENCE, configured, until

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.errors import CloseTimeoutError, KafkaError
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producing import transactional
from trio_parallel_kafka.producing.transaction_thread import COMMITTED, Ending, Outcome, Transaction
from trio_parallel_kafka.producing.transactional import TransactionalProducer
from trio_parallel_kafka.testing import EmbeddedBroker

NOTHING = Transaction([], [], None, lambda: True)


class StandIn:
    """A thread's work that waits for the test."""

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        self.may_open = threading.Event()
        self.may_end = threading.Event()
        self.has_begun = threading.Event()
        self.is_stopped = False
        self.is_closed = False
        self.served = 0

    def open(self) -> None:
        assert self.may_open.wait(PATIENCE)

    def transact(self, _transaction: Transaction) -> Outcome:
        self.has_begun.set()
        assert self.may_end.wait(PATIENCE)
        return COMMITTED

    def serve_callbacks(self) -> None:
        self.served += 1

    def stop(self) -> None:
        self.is_stopped = True

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of producers do what the test says."""
    monkeypatch.setattr(transactional, "TransactionThread", StandIn)


def producer_with(**fields: Any) -> tuple[TransactionalProducer, StandIn]:
    """A producer, and what stands in for its thread."""
    made = TransactionalProducer(
        ConsumerConfig(
            bootstrap_servers="fake:9092",
            group_id="billing",
            topics="orders",
            delivery="exactly_once",
            transactional_id="billing-0",
            **fields,
        )
    )
    thread: Any = made._thread
    return made, thread


@asynccontextmanager
async def hosted(producer: TransactionalProducer) -> AsyncIterator[None]:
    """Host it for the length of a block."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.host)
            try:
                yield
            finally:
                await producer.close()  # noqa: ASYNC102 - it shields and bounds itself


async def in_thread(function: Callable[[], object]) -> None:
    """Call something that blocks."""
    await trio.to_thread.run_sync(function)


async def test_nobody_waits(stand_in: None) -> None:
    """Who stops waiting doesn't stop the transaction; who comes later takes its outcome."""
    producer, thread = producer_with()
    thread.may_open.set()
    async with hosted(producer):
        await producer.open()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(producer.transact, NOTHING)
                await in_thread(thread.has_begun.wait)
                scope.cancel()
        thread.may_end.set()
        assert (await producer.settle()).ending is Ending.COMMITTED
        assert (await producer.transact(NOTHING)).ending is Ending.COMMITTED
    assert (thread.is_stopped, thread.is_closed, producer.problem) == (True, True, None)


async def test_opening_fails(stand_in: None) -> None:
    """What goes wrong in the thread is raised by who has asked."""
    producer, thread = producer_with()
    thread.open = _refuse  # type: ignore[method-assign]  # it is a stand-in
    async with hosted(producer):
        with pytest.raises(KafkaError, match="for the test"):
            await producer.open()


def _refuse() -> None:
    raise KafkaError("for the test")


async def test_callbacks_between_transactions(stand_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """While there is nothing to do, the client gets to say what it has to."""
    monkeypatch.setattr(transactional, "IDLE", 0.001)
    producer, thread = producer_with()
    async with hosted(producer):
        await until(lambda: thread.served > 2)


async def test_thread_doesn_t_end(stand_in: None) -> None:
    """The end is bounded: a thread that is still blocked then is left behind, which is told."""
    producer, thread = producer_with(close_timeout=0.05)
    async with hosted(producer):
        thread.may_open.set()
        await producer.open()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(producer.transact, NOTHING)
                await in_thread(thread.has_begun.wait)
                scope.cancel()
    assert isinstance(producer.problem, CloseTimeoutError)
    with pytest.raises(KafkaError, match="has ended"):
        await producer.settle()
    with pytest.raises(KafkaError, match="has ended"):
        await producer.transact(NOTHING)
    thread.may_end.set()
    await until(lambda: thread.is_closed)


def test_run_is_over_first(stand_in: None) -> None:
    """A thread that was left behind, and ends after the whole run has, does no harm."""

    async def leave_behind() -> StandIn:
        producer, thread = producer_with(close_timeout=0.05)
        with trio.CancelScope() as scope:
            async with hosted(producer), trio.open_nursery() as nursery:
                nursery.start_soon(producer.open)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        return thread

    thread = trio.run(leave_behind)
    thread.may_open.set()
    deadline = threading.Event()
    for _ in range(1000):
        if thread.is_closed:
            return
        deadline.wait(0.01)
    pytest.fail("the thread doesn't end")


async def test_on_the_embedded_broker(embedded_broker: EmbeddedBroker) -> None:
    """Transactions, one after another, are written; the client ends with its block."""
    config = configured(embedded_broker, delivery="exactly_once", transactional_id="billing-0")
    producer = TransactionalProducer(config)
    partition = TopicPartition("orders", 0)
    member = Consumer({"bootstrap.servers": embedded_broker.bootstrap_servers, "group.id": "billing", "log_level": 0})
    async with hosted(producer):
        await producer.open()
        for number in (1, 2):
            records = [ProducerRecord("orders", b"%d" % number, partition=1)]
            entries = [CommitEntry(partition, 1, number, "")]
            given = Transaction(records, entries, member.consumer_group_metadata(), lambda: True)
            assert (await producer.transact(given)).ending is Ending.COMMITTED
    assert producer.problem is None
    await in_thread(lambda: member.assign([ClientPartition("orders", 1, 0)]))
    found = await trio.to_thread.run_sync(member.consume, 2, PATIENCE)
    assert [message.value() for message in found] == [b"1", b"2"]
    await in_thread(member.close)
