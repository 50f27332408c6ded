"""The control loop: what the client tells, in its order, and what has to be done now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, assert_never

import trio
from confluent_kafka import KafkaError as ClientError, Message

from trio_parallel_kafka.config import ConsumerConfig, Delivery
from trio_parallel_kafka.control.alarm import Alarm
from trio_parallel_kafka.control.client import Assigned, Client, Failed, Fetched, Lost, Revoked, Trouble
from trio_parallel_kafka.control.committer import Committer
from trio_parallel_kafka.control.dead_letters import check_dead_letter_topics
from trio_parallel_kafka.control.dispatcher import Dispatcher
from trio_parallel_kafka.control.flow_control import FlowControl
from trio_parallel_kafka.control.gate import Gate
from trio_parallel_kafka.control.handling import Handling
from trio_parallel_kafka.control.outbox import ProducerOutbox
from trio_parallel_kafka.control.positions import Positions
from trio_parallel_kafka.control.rebalance import Rebalancer
from trio_parallel_kafka.control.totals import ControlTotals
from trio_parallel_kafka.control.transactions import TransactionCommitter
from trio_parallel_kafka.control.watches import Watches
from trio_parallel_kafka.core.assignments import Phase, TopicPartition
from trio_parallel_kafka.core.batching import BatchScope
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.member import STOPPING, Member
from trio_parallel_kafka.errors import ConsumerClosedError, ParallelKafkaError
from trio_parallel_kafka.execution.batches import BatchVisits
from trio_parallel_kafka.execution.clock import CoarseClock
from trio_parallel_kafka.execution.engine import Execute
from trio_parallel_kafka.execution.outbox import Outbox
from trio_parallel_kafka.execution.tally import Tally
from trio_parallel_kafka.execution.workers import WorkerPool
from trio_parallel_kafka.failures import FINAL, as_error, end_error, final_error
from trio_parallel_kafka.record import Record, shown_key
from trio_parallel_kafka.repeats import Repeats

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.control")

WATCH: Final = 1.0
RETRY: Final = 1.0
CHECK_TOPICS: Final = 30.0


class Controller:
    """Owns the core and the workers of one consumer, and connects them with the client.

    Args:
        config: the consumer's configuration.
        client: the port.
    """

    def __init__(self, config: ConsumerConfig, client: Client) -> None:
        self._config: Final = config
        self._client: Final = client
        self.totals: Final = ControlTotals()
        self.member: Final[Member[Record]] = Member(FlowLimits(config.max_buffered_records, config.max_buffered_bytes))
        self.tally: Final = Tally()
        self.pool: Final = WorkerPool(self.member.lanes, config.max_concurrency)
        self._clock: Final = CoarseClock()
        self._flow: Final = FlowControl(client, self.member, self.pool, self._clock)
        self._dispatcher: Final = Dispatcher(self.member, config, self.totals)
        self._committer, outbox, self._deliver = self._delivery()
        self.gate: Final = Gate(self.member, self.tally, config.breaker, self._dispatch_changed)
        self.handling: Final = Handling(
            config,
            self.member,
            outbox,
            probing=self.gate.probing,
            tally=self.tally,
            clock=self._clock,
            on_stop=self._handler_failed,
            on_failed_attempt=self.gate.attempt_failed,
            on_progress=self._flow.progressed,
        )
        limit = self.handling.limit
        self._alarm: Final = Alarm(
            (self._next_parked, self.pool.next_due, self.gate.next_due, limit.next_due), self._ring
        )
        self.member.lanes.on_parked = limit.on_due = self._alarm.due_at
        self._positions: Final = Positions(client, config.auto_offset_reset)
        self._rebalancer: Final = Rebalancer(
            client=client,
            member=self.member,
            pool=self.pool,
            committer=self._committer,
            positions=self._positions,
            totals=self.totals,
            revoke_grace=config.revoke_grace,
            on_started=self._something_started,
        )
        self._repeats: Final = Repeats()
        self._changed: Final = trio.lowlevel.ParkingLot()
        self._started: Final = trio.lowlevel.ParkingLot()
        self._loop: Final = trio.CancelScope()
        self._is_stopping = False
        self._has_client = True
        self.handler_errors: list[Exception] = []
        self.failure: BaseException | None = None
        self.last_trouble: str | None = None
        self._watches: Final = Watches(config, self.member, self.pool, self.handling.under_way)

    def _delivery(self) -> tuple[Committer, Outbox, Callable[[], Awaitable[None]]]:
        """How it is committed what was done, where results go, and the task that both need."""
        config, client = self._config, self._client
        if config.delivery is Delivery.EXACTLY_ONCE:
            transactions = TransactionCommitter(config, client, self.member, self.totals, self._fail)
            return transactions, transactions.outbox, transactions.run
        outbox = ProducerOutbox(config)
        return Committer(client, self.member, self.totals), outbox, outbox.run

    # What the front door asks for

    @property
    def is_assigned(self) -> bool:
        """Whether a partition is being read."""
        return any(assignment.phase is Phase.ACTIVE for assignment in self.member.assignments)

    async def join(self) -> None:
        """Join the group.

        Raises:
            KafkaError: what has to be known first wasn't to be had, or the transactions can't begin.
            ConfigError: the subscription takes in its own dead letters.
        """
        await check_dead_letter_topics(self._config, self._client)
        await self._committer.open()
        await self._positions.prepare()
        self._client.subscribe(self._config.topics)

    async def wait_until_assigned(self) -> None:
        """Wait until a partition is being read.

        Raises:
            KafkaError: the client can't go on.
            ConsumerClosedError: the consumer is stopping, so none will be.
        """
        while not self.is_assigned:
            if failure := self._failure_error():
                raise failure
            if self._is_stopping:
                raise ConsumerClosedError("no partition will be assigned: the consumer is stopping, or has")
            await self._changed.park()
        await trio.lowlevel.checkpoint()

    async def wait_until_ending(self) -> None:
        """Wait for :meth:`stop`, a handler's failure or the client's."""
        while not (self._is_stopping or self.handler_errors or self.failure):
            await self._changed.park()

    def batches(self, execute: Execute, *, size: int, scope: BatchScope, linger: float) -> BatchVisits:
        """What workers do with batches."""
        self.member.limits = self.member.limits.for_batches(size)
        return self.handling.batches(
            execute,
            size=size,
            scope=scope,
            linger=linger,
            on_unripe=self._alarm.due_at,
            on_left=self.pool.lanes_left,
        )

    def stop(self) -> None:
        """Fetch no more, and start nothing that is fetched from now on; also after a handler's failure."""
        self._is_stopping = True
        for assignment in self.member.assignments:
            assignment.pause_reason = STOPPING
        self._client.pause([assignment.partition for assignment in self.member.assignments])
        self.pool.stop_lingering()
        self._something_changed()

    async def drain(self) -> None:
        """Let the handlers end, within ``shutdown_timeout``; then cancel them.

        After a failure nothing new is started; otherwise what is buffered and can run is handled.
        """
        if self.handler_errors or self.failure:
            self.pool.halt()
        timeout = 0 if self.failure else self._config.shutdown_timeout
        with trio.move_on_after(timeout):
            await self.pool.wait_until(lambda: self.pool.is_dry() or bool(self.failure))
        self.pool.halt()
        reason = "the consumer can't go on" if self.failure else "it didn't end within shutdown_timeout"
        for lane in self.pool.running():
            logger.warning("the handler of %r is cancelled: %s", lane.head, reason)

    async def leave(self) -> None:
        """Commit and let all partitions go; the caller bounds it.

        Raises:
            KafkaError: the last commit failed for good.
        """
        self.stop()
        self._client.hurry()
        self.pool.halt()
        await self._rebalancer.cancel_all()
        try:
            if self._has_client:
                await self._committer.commit_all()
        finally:
            self._client.unsubscribe()
            while len(self.member.assignments) and self._has_client:
                await self._changed.park()  # noqa: ASYNC102 - the caller bounds it

    async def close_client(self) -> None:
        """Close the client before the block ends, because a handler holds the block up; shielded and bounded."""
        self._has_client = False
        self._loop.cancel()
        await self._client.close()

    @property
    def has_committed_all(self) -> bool:
        """Whether the last commit was acknowledged."""
        return self._committer.has_committed_all

    @property
    def outcome(self) -> Exception | None:
        """What the handlers raised, or what ended the client: the exception to leave with."""
        failure = self._failure_error()
        if not self.handler_errors:
            return failure
        group = ExceptionGroup("the handler failed", self.handler_errors)
        if failure is not None:
            group.add_note(f"and then {type(failure).__name__}: {failure}")
        return group

    # The loops

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Serve the client's events, and what is due, until cancelled."""
        try:
            with self._loop:
                await self._serve()
        finally:
            self._has_client = False  # or nobody hears it any more
            self._something_changed()

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._commit_regularly)
            nursery.start_soon(self._flow.watch)
            nursery.start_soon(self._every, WATCH, self._watches.look)
            nursery.start_soon(self._alarm.run)
            nursery.start_soon(self._deliver)
            if self.gate.look_every is not None:
                nursery.start_soon(self._every, self.gate.look_every, self.gate.observe)
            nursery.start_soon(self._every, RETRY, self._rebalancer.retry)
            nursery.start_soon(self._every, CHECK_TOPICS, self._rebalancer.check_topics)
            while self._has_client:
                try:
                    await self._serve_event()
                except ParallelKafkaError as error:
                    self._fail(error)
                self._something_changed()

    async def _serve_event(self) -> None:
        match await self._client.next_event():
            case Fetched() as event:
                try:
                    if not self._is_stopping:
                        await self._take(event)
                finally:
                    event.taken()
            case Assigned() as event:
                await self._rebalancer.assigned(event)
            case Revoked() as event:
                await self._rebalancer.revoked(event)
            case Lost() as event:
                self._rebalancer.lost(event)
            case Trouble(error):
                self._note_trouble(error)
            case Failed(error):
                self._has_client = False
                self._fail(error)
            case unknown:
                assert_never(unknown)

    async def _take(self, event: Fetched) -> None:
        self._clock.now = trio.current_time()
        result = self._dispatcher.dispatch(event.messages, event.assignment_epochs, self._clock.now)
        self._flow.fetched(result.touched)
        self.pool.wake()
        for message in result.errors:
            await self._take_error(message)
        for assignment, offset in result.went_back.items():
            if assignment.phase is Phase.ACTIVE:
                await self._rebalancer.restart(assignment, offset)

    async def _take_error(self, message: Message) -> None:
        error = message.error()
        assert error is not None  # noqa: S101 - the dispatcher sorted it out by that
        topic, number = message.topic(), message.partition()
        partition = TopicPartition(topic, number) if topic is not None and number is not None else None
        final = final_error(error, partition)
        if final is not None:
            raise final
        assignment = self.member.assignments.get(partition) if partition is not None else None
        if error.code() != ClientError._AUTO_OFFSET_RESET:  # noqa: SLF001 - the client's name for it
            self._note_trouble(error, partition)
        elif assignment is not None and assignment.phase is Phase.ACTIVE:
            await self._rebalancer.reset(assignment)

    # What has to be done now and then. Ctrl-C is for the main task: here it would cost the last commit.

    @trio.lowlevel.enable_ki_protection
    async def _every(self, period: float, duty: Callable[[], Awaitable[None]]) -> None:
        while True:
            await trio.sleep(period)
            await self._do(duty)

    @trio.lowlevel.enable_ki_protection
    async def _commit_regularly(self) -> None:
        while True:
            with trio.move_on_after(self._config.commit_interval):
                await self._started.park()
            await self._do(self._committer.commit_changes)

    async def _do(self, duty: Callable[[], Awaitable[None]]) -> None:
        try:
            await duty()
        except FINAL as error:
            self._fail(error)
        except ParallelKafkaError as error:
            logger.warning("%s", error)

    # What is told from elsewhere

    def _handler_failed(self, record: Record, error: Exception) -> None:
        error.add_note(
            f"while handling topic={record.topic!r} partition={record.partition} offset={record.offset} "
            f"key={shown_key(record.key)} attempt={record.attempt}"
        )
        logger.error("%r failed for good: %s", record, type(error).__name__)
        self.handler_errors.append(error)
        self.pool.halt()
        self.stop()

    def _note_trouble(self, error: ClientError, partition: TopicPartition | None = None) -> None:
        final = final_error(error, partition)
        if final is not None:
            self._fail(final)
            return
        told = str(as_error(error, "the client reports", partition))
        if error.code() != ClientError._ALL_BROKERS_DOWN or self.last_trouble is None:  # noqa: SLF001 - it doesn't say why
            self.last_trouble = told
        repeated = self._repeats.count((error.code(), partition), time.monotonic())
        if repeated is not None:
            logger.warning("%s%s", told, f" ({repeated} times more since)" if repeated else "")

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            logger.error("the consumer can't go on: %s", error)
            self.failure = error
        self._something_changed()

    def _failure_error(self) -> ParallelKafkaError | None:
        return None if self.failure is None else end_error(self.failure)

    def _next_parked(self) -> float | None:
        """Once the consumer is stopping, what is parked is left for replay."""
        return None if self._is_stopping else self.member.lanes.next_due()

    def _ring(self, now: float) -> None:
        self._clock.now = now
        self.handling.limit.look(now)
        if not self._is_stopping:
            self.member.lanes.release_due(now)
        self.gate.look(now)
        self.pool.wake()

    def _dispatch_changed(self) -> None:
        self.pool.wake()
        self._alarm.reset()

    def _something_started(self) -> None:
        if self._is_stopping:
            self.stop()
        for assignment in self.member.assignments:
            self.gate.began(assignment)
        self._started.unpark_all()
        self._something_changed()

    def _something_changed(self) -> None:
        self._changed.unpark_all()
        self.pool.notify()
