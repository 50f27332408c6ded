"""A transactional producer: transactions asked for from Trio, made by one thread."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar, cast

import trio

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.config.producer import producer_for, producer_properties
from trio_parallel_kafka.errors import CloseTimeoutError, KafkaError
from trio_parallel_kafka.producing.transaction_thread import Outcome, Transaction, TransactionThread

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.transactions")

IDLE: Final = 1.0
"""Seconds without a transaction after which the client is asked what it has to say."""

T = TypeVar("T")


class MakesTransactions(Protocol):
    """What a committer needs of a transactional producer. One transaction is made at a time."""

    async def host(self) -> None:
        """Serve until :meth:`close`. Never raises."""

    async def open(self) -> None:
        """Take over the identity, within ``connect_timeout``.

        Raises:
            KafkaError: what's wrong; its subclass says more.
        """

    async def transact(self, transaction: Transaction) -> Outcome:
        """Make a transaction, and take its outcome.

        Cancelled, it goes on all the same: its outcome is to be had by :meth:`settle`.

        Raises:
            RefusedError: a record will never be taken; the transaction was aborted.
            KafkaError: no further transaction can be made.
        """

    async def settle(self) -> Outcome:
        """Take the outcome of the transaction that was asked for last."""

    async def close(self) -> None:
        """End, shielded and bounded."""


class TransactionalProducer:
    """See :class:`MakesTransactions`.

    Args:
        config: the consumer's, with a ``transactional_id``.

    Attributes:
        problem: what the end would have to tell.
    """

    def __init__(self, config: ConsumerConfig) -> None:
        producer = config.producer or producer_for(config.bootstrap_servers, config.kafka)
        self.problem: KafkaError | None = None
        self._close_timeout: Final = config.close_timeout
        self._thread: Final = TransactionThread(
            producer_properties(producer),
            transactional_id=cast("str", config.transactional_id),
            connect_timeout=config.connect_timeout,
        )
        self._token: Final = trio.lowlevel.current_trio_token()
        self._jobs: Final[queue.SimpleQueue[Callable[[], None] | None]] = queue.SimpleQueue()
        self._abandon: Final = trio.CancelScope(shield=True)
        self._ended: Final = trio.Event()
        self._asked: Answer[Outcome] | None = None

    async def host(self) -> None:
        """Serve until :meth:`close`."""
        try:
            with self._abandon:
                await trio.to_thread.run_sync(self._live, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
        finally:
            self._ended.set()
            if self._asked is not None:
                self._asked.event.set()

    async def open(self) -> None:
        """Take over the identity."""
        await self._ask(self._thread.open).wait()

    async def transact(self, transaction: Transaction) -> Outcome:
        """Make a transaction, and take its outcome."""
        self._asked = self._ask(lambda: self._thread.transact(transaction))
        return await self.settle()

    async def settle(self) -> Outcome:
        """Take the outcome of the last."""
        assert self._asked is not None  # noqa: S101 - asked for before
        await self._asked.event.wait()
        asked, self._asked = self._asked, None
        return asked.result()

    async def close(self) -> None:
        """End, shielded and bounded by ``close_timeout``."""
        self._thread.stop()
        self._jobs.put(None)
        try:
            with trio.move_on_after(self._close_timeout, shield=True):
                await self._ended.wait()
        finally:  # also when a second Ctrl-C strikes
            if not self._ended.is_set():
                self._abandon.cancel()
                self.problem = CloseTimeoutError(
                    f"the transactional client didn't close within {self._close_timeout} s (close_timeout); is the "
                    "broker down? One daemon thread is left to it"
                )
                logger.error("%s", self.problem)

    def _ask(self, function: Callable[[], T]) -> Answer[T]:
        answer: Answer[T] = Answer()

        def job() -> None:
            answer.fill(function)
            self._call_soon(answer.event.set)

        self._jobs.put(job)
        if self._ended.is_set():
            answer.event.set()
        return answer

    def _live(self) -> None:
        try:
            while (job := self._next_job()) is not None:
                job()
        finally:
            self._thread.close()

    def _next_job(self) -> Callable[[], None] | None:
        while True:
            try:
                return self._jobs.get(timeout=IDLE)
            except queue.Empty:
                self._thread.serve_callbacks()

    def _call_soon(self, function: Callable[[], None]) -> None:
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            logger.debug("the Trio run is over")


class Answer(Generic[T]):
    """What a call in the thread came to; ``event`` is set once that is known, or never will be."""

    def __init__(self) -> None:
        self.event: Final = trio.Event()
        self._results: list[T] = []
        self._error: BaseException | None = None

    def fill(self, function: Callable[[], T]) -> None:
        """Make the call, in the thread."""
        try:
            self._results.append(function())
        except BaseException as error:  # noqa: ASYNC103, BLE001 - carried to the caller
            self._error = error

    async def wait(self) -> T:
        """Wait for the result."""
        await self.event.wait()
        return self.result()

    def result(self) -> T:
        """The result, once ``event`` is set; what the call raised is raised."""
        if self._error is not None:
            raise self._error
        if not self._results:
            raise KafkaError("the transactional client has ended")
        return self._results[0]
