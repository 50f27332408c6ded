"""Transactions at the simulated broker: their coordinator, and the producers that make them.

A producer keeps the contract of :class:`~trio_parallel_kafka.producing.transactional.MakesTransactions`. A transaction
is written at the moment in which it is committed; until then it is in nobody's way.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import attrs
import trio
from confluent_kafka import KafkaError as ClientError, KafkaException

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.errors import BrokerUnreachableError, KafkaError, ProducerFencedError
from trio_parallel_kafka.failures import as_error
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producing.transaction_errors import RefusedError, local_error, transactional_error
from trio_parallel_kafka.producing.transaction_thread import COMMITTED, Ending, Outcome, Transaction
from trio_parallel_kafka.testing.simulation.group import RETRY_BACKOFF, GroupMetadata

if TYPE_CHECKING:
    from trio_parallel_kafka.testing.simulation.broker import SimulatedBroker


@attrs.frozen
class Silence:
    """The broker decides, and then doesn't tell the client."""

    is_committed: bool


Scripted = ClientError | Exception | Silence | None


class Coordinator:
    """What the broker knows of transactions.

    Attributes:
        script: what becomes of the next ones: aborted with an error, an exception that ends the producer, a
            :class:`Silence`, or ``None`` (committed).
        committed: the transactions that are to be seen.
        aborted: those that never will be.
        owners: who has which identity.
    """

    def __init__(self, broker: SimulatedBroker) -> None:
        self.broker: Final = broker
        self.script: deque[Scripted] = deque()
        self.committed: list[Transaction] = []
        self.aborted: list[Transaction] = []
        self.owners: dict[str, SimulatedTransactions] = {}

    @property
    def outputs(self) -> list[ProducerRecord]:
        """What a reader sees who reads only what is committed."""
        return [record for transaction in self.committed for record in transaction.records]

    def commit(self, transaction: Transaction, group_id: str, member_id: str) -> None:
        """All of it is seen from now on."""
        self.committed.append(transaction)
        written = [self.broker.write(record) for record in transaction.records]
        for partition in dict.fromkeys(TopicPartition(each.topic, each.partition) for each in written):
            self.broker.logs[partition].skip(1)
        offsets = [(entry.partition, entry.offset, entry.metadata) for entry in transaction.offsets]
        self.broker.group(group_id).commit(member_id, offsets, None)

    def abort(self, transaction: Transaction) -> None:
        """None of it is seen; its records keep their offsets."""
        self.aborted.append(transaction)
        for record in transaction.records:
            self.broker.log_for(record).skip(1)

    def objection(self, transaction: Transaction, group_id: str) -> Scripted:
        """Why it isn't committed, if it isn't."""
        scripted = self.script.popleft() if self.script else None
        refusal = self.refusal(transaction, group_id)
        if isinstance(scripted, Silence) and refusal is not None:
            return Silence(is_committed=False)
        return refusal if scripted is None else scripted

    def refusal(self, transaction: Transaction, group_id: str) -> ClientError | None:
        """Why its offsets mayn't be committed."""
        group = self.broker.group(group_id)
        if any(len(entry.metadata) > group.max_metadata for entry in transaction.offsets):
            return ClientError(ClientError.OFFSET_METADATA_TOO_LARGE)
        return group.objection(transaction.group_metadata)


class SimulatedTransactions:
    """The producer."""

    def __init__(self, coordinator: Coordinator, config: ConsumerConfig) -> None:
        assert config.transactional_id is not None  # noqa: S101 - the configuration sees to it
        self.is_closed: bool = False
        self._coordinator: Final = coordinator
        self._identity: Final = config.transactional_id
        self._group_id: Final = config.group_id
        self._connect_timeout: Final = config.connect_timeout
        self._jobs, self._jobs_out = trio.open_memory_channel[Transaction](1)
        self._outcome: Outcome | Exception | None = None
        self._changed: Final = trio.lowlevel.ParkingLot()
        self._waiting = trio.CancelScope()

    async def host(self) -> None:
        """Serve until closed."""
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
        """Take over the identity; like librdkafka, try again for as long as that may help."""
        deadline = trio.current_time() + self._connect_timeout
        while (error := await self._take_over()) is not None:
            if final := transactional_error(error, is_running=False):
                raise final
            if trio.current_time() >= deadline:
                doing = "no answer about transactions from the simulated broker"
                raise as_error(error, doing, kind=BrokerUnreachableError)
            await trio.sleep(RETRY_BACKOFF)
        self._coordinator.owners[self._identity] = self

    async def _take_over(self) -> ClientError | None:
        network = self._coordinator.broker.network
        error = await network.request("InitProducerId")
        await network.answer("InitProducerId")
        return error

    async def transact(self, transaction: Transaction) -> Outcome:
        """Make a transaction, and take its outcome."""
        self._outcome = None
        try:
            self._jobs.send_nowait(transaction)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            self._outcome = KafkaError("the transactional client has ended")
        return await self.settle()

    async def settle(self) -> Outcome:
        """Take the outcome of the last."""
        while self._outcome is None:
            await self._changed.park()
        outcome, self._outcome = self._outcome, None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def close(self) -> None:
        """End; what isn't decided yet is aborted."""
        self.kill()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def kill(self) -> None:
        """End at once."""
        self.is_closed = True
        self._waiting.cancel()
        self._jobs.close()

    async def _make(self, transaction: Transaction) -> Outcome:
        coordinator = self._coordinator
        if coordinator.owners[self._identity] is not self:
            raise ProducerFencedError("another took over")
        for record in transaction.records:
            self._refuse(record)
        error = await self._request("AddOffsetsToTxn")
        await self._answer("AddOffsetsToTxn")
        if self.is_closed or not transaction.is_wanted():
            error = local_error("not wanted")
        objection = error or coordinator.objection(transaction, self._group_id)
        if objection is None:
            objection = await self._request("EndTxn") or coordinator.refusal(transaction, self._group_id)
        if isinstance(objection, Exception):
            coordinator.abort(transaction)
            raise objection
        if isinstance(objection, ClientError):
            coordinator.abort(transaction)
            return Outcome(Ending.ABORTED, objection)
        if objection is None or objection.is_committed:
            given = transaction.group_metadata
            assert isinstance(given, GroupMetadata)  # noqa: S101 - made by a member's client
            coordinator.commit(transaction, self._group_id, given.member.settings.member_id)
        await self._answer("EndTxn")
        return COMMITTED if objection is None else Outcome(Ending.UNKNOWN, ClientError(ClientError._FENCED))  # noqa: SLF001 - its name

    async def _request(self, api: str) -> ClientError | None:
        """Have a request get to the broker, unless this is closed before."""
        error: ClientError | None = local_error("closed")
        if not self.is_closed:
            with trio.CancelScope() as self._waiting:
                error = await self._coordinator.broker.network.request(api, math.inf)
        return error

    async def _answer(self, api: str) -> None:
        """Have the answer get back, unless this is closed before."""
        if not self.is_closed:
            with trio.CancelScope() as self._waiting:
                await self._coordinator.broker.network.answer(api)

    def _refuse(self, record: ProducerRecord) -> None:
        """Raise if the broker never takes this."""
        error = self._coordinator.broker.refusal(record)
        if error is not None:
            raise RefusedError(record, KafkaException(error))
