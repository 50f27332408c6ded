"""A transactional producer within the test's own tasks and in virtual time, beside the fake broker.

It keeps the contract of :class:`~trio_parallel_kafka.producing.transactional.MakesTransactions`, which
``transaction_contract.py`` spells out: the real one is held against the same, on a real broker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import trio
from confluent_kafka import KafkaError as ClientError, KafkaException
from shell.fake_broker import FakeBroker

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.errors import KafkaError, ProducerFencedError
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producing.transaction_errors import RefusedError, local_error
from trio_parallel_kafka.producing.transaction_thread import COMMITTED, Ending, Outcome, Transaction

LARGEST = 1000
"""Bytes of a value that the brokers take."""


@attrs.frozen
class Silence:
    """The broker decides, and then doesn't tell the client."""

    is_committed: bool


Scripted = ClientError | Exception | Silence | None


class Coordinator:
    """What the broker knows of transactions.

    ``script`` says what becomes of the next ones: aborted with an error, an exception that ends the producer, a
    :class:`Silence`, or ``None`` (committed). A transaction takes ``delay`` seconds before it is decided, and
    ``commit_delay`` after that before it is told.
    """

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.script: deque[Scripted] = deque()
        self.delay = 0.0
        self.commit_delay = 0.0
        self.open_error: Exception | None = None
        self.topics: Mapping[str, int] = {"results": 2}
        self.transactions: list[Transaction] = []
        self.aborted: list[Transaction] = []
        self.producers: list[FakeTransactions] = []
        self.owners: dict[str, FakeTransactions] = {}

    @property
    def outputs(self) -> list[ProducerRecord]:
        """What a reader sees who reads only what is committed."""
        return [record for transaction in self.transactions for record in transaction.records]

    def make(self, config: ConsumerConfig) -> FakeTransactions:
        """Stands in for the constructor of the real one."""
        self.producers.append(FakeTransactions(self, config))
        return self.producers[-1]

    def commit(self, transaction: Transaction) -> None:
        """All of it is seen from now on."""
        self.transactions.append(transaction)
        for entry in transaction.offsets:
            self.broker.group[entry.partition] = (entry.offset, entry.metadata)
            self.broker.commits.append(entry)

    def objection(self, transaction: Transaction) -> Scripted:
        """Why it isn't committed, if it isn't."""
        scripted = self.script.popleft() if self.script else None
        if scripted is not None:
            return scripted
        if transaction.group_metadata != self.broker.generation:
            return ClientError(ClientError.ILLEGAL_GENERATION)
        if any(len(entry.metadata) > self.broker.max_metadata for entry in transaction.offsets):
            return ClientError(ClientError.OFFSET_METADATA_TOO_LARGE)
        return None


class FakeTransactions:
    """The producer."""

    def __init__(self, coordinator: Coordinator, config: ConsumerConfig) -> None:
        assert config.transactional_id is not None
        self.is_closed = False
        self._coordinator = coordinator
        self._identity = config.transactional_id
        self._jobs, self._jobs_out = trio.open_memory_channel[Transaction](1)
        self._outcome: Outcome | Exception | None = None
        self._changed = trio.lowlevel.ParkingLot()

    async def host(self) -> None:
        async with self._jobs_out:
            async for transaction in self._jobs_out:
                try:
                    self._outcome = await self._make(transaction)
                except Exception as error:  # noqa: BLE001 - raised by whoever takes the outcome
                    self._outcome = error
                self._changed.unpark_all()
        self._outcome = self._outcome or KafkaError("the transactional client has ended")
        self._changed.unpark_all()

    async def open(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._coordinator.open_error is not None:
            raise self._coordinator.open_error
        self._coordinator.owners[self._identity] = self

    async def transact(self, transaction: Transaction) -> Outcome:
        assert self._outcome is None, "there is an outcome that nobody took"
        assert transaction.offsets
        self._jobs.send_nowait(transaction)
        return await self.settle()

    async def settle(self) -> Outcome:
        while self._outcome is None:
            await self._changed.park()
        outcome, self._outcome = self._outcome, None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def close(self) -> None:
        self.is_closed = True
        self._jobs.close()

    async def _make(self, transaction: Transaction) -> Outcome:
        coordinator = self._coordinator
        if coordinator.owners[self._identity] is not self:
            raise ProducerFencedError("another took over")
        for record in transaction.records:
            _refuse(record, coordinator.topics)
        await self._sleep(coordinator.delay)
        if self.is_closed or not transaction.is_wanted():
            coordinator.aborted.append(transaction)
            return Outcome(Ending.ABORTED, local_error("not wanted"))
        objection = coordinator.objection(transaction)
        if isinstance(objection, Exception):
            raise objection
        if isinstance(objection, ClientError):
            coordinator.aborted.append(transaction)
            return Outcome(Ending.ABORTED, objection)
        if objection is None or objection.is_committed:
            coordinator.commit(transaction)
        await self._sleep(coordinator.commit_delay)
        return COMMITTED if objection is None else Outcome(Ending.UNKNOWN, ClientError(ClientError._FENCED))

    async def _sleep(self, seconds: float) -> None:
        until = trio.current_time() + seconds
        while not self.is_closed and trio.current_time() < until:
            await trio.sleep(min(0.1, until - trio.current_time()))


def _refuse(record: ProducerRecord, topics: Mapping[str, int]) -> None:
    partitions = topics.get(record.topic)
    if partitions is None:
        raise RefusedError(record, KafkaException(ClientError(ClientError._UNKNOWN_TOPIC)))
    if (record.partition or 0) >= partitions:
        raise RefusedError(record, KafkaException(ClientError(ClientError._UNKNOWN_PARTITION)))
    if len(record.value or b"") > LARGEST:
        raise RefusedError(record, KafkaException(ClientError(ClientError.MSG_SIZE_TOO_LARGE)))


def install(monkeypatch: Any, broker: FakeBroker) -> Coordinator:
    """Have consumers make their transactions here."""
    coordinator = Coordinator(broker)
    make: Callable[[ConsumerConfig], FakeTransactions] = coordinator.make
    monkeypatch.setattr("trio_parallel_kafka.control.transactions.TransactionalProducer", make)
    return coordinator
