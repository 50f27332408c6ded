"""The front door: a consumer that lives in an ``async with`` block."""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import trio

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.control.client import Client
from trio_parallel_kafka.control.cluster import current_cluster
from trio_parallel_kafka.control.controller import Controller
from trio_parallel_kafka.control.snapshot import take_snapshot
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.batching import BatchScope
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.errors import (
    CommitError,
    ConsumerBusyError,
    ConsumerClosedError,
    HandlerStuckError,
    KafkaError,
    ParallelKafkaError,
)
from trio_parallel_kafka.execution.batches import BatchHandler
from trio_parallel_kafka.execution.engine import AnyHandler, Execute, ExecutionEngine
from trio_parallel_kafka.execution.engines import engine_of
from trio_parallel_kafka.execution.visits import Handler, Visits
from trio_parallel_kafka.failures import add_notes, is_cancellation, is_only
from trio_parallel_kafka.record import Record
from trio_parallel_kafka.statistics import ConsumerStatistics

logger: logging.Logger = logging.getLogger("trio_parallel_kafka")


class State(enum.Enum):
    """Where a consumer stands."""

    OPEN = "open"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
    CLOSED = "closed"


class ParallelConsumer:
    """A member of a consumer group, made by :func:`parallel_consumer`.

    Its methods belong to the Trio run that opened it; :meth:`run` may be called once.
    """

    def __init__(self, config: ConsumerConfig, controller: Controller, client: Client) -> None:
        self._config: Final = config
        self._controller: Final = controller
        self._client: Final = client
        self._engine = engine_of(config)
        self._state = State.OPEN
        self._scope: Final = trio.CancelScope()
        self._opening: trio.CancelScope | None = None
        self._has_ended: Final = trio.Event()

    async def run(  # noqa: ASYNC128 - _announce() says started
        self,
        handler: Handler | AnyHandler | str,
        *,
        engine: ExecutionEngine | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Handle records until :meth:`stop` has drained, a handler fails, or it is cancelled.

        However it ends, what completed is committed and the partitions are let go before it returns or raises.
        With ``nursery.start`` it is ready once a partition is assigned and its position is known, or once it is
        stopped before that.

        Args:
            handler: a function of one :class:`Record`, or its name, ``"module:function"``. ``execution_mode`` says
                where it runs, and of which kind it is: async (``async``), plain (``thread``), either (``process``).
                Its return completes the record. It may return a :class:`ProducerRecord` or several: then the record
                completes when the broker has acknowledged them.
                What it raises follows the failure policy (``retry``, ``on_failure``), unless it is :class:`Retry`,
                :class:`Skip` or :class:`DeadLetter`, by which it decides itself.
            engine: what runs the handler, in place of what ``execution_mode`` names.
            task_status: for ``nursery.start``.

        **Ordering.** Records of one key (see ``ordering`` and ``key_of``) are handled one after another, in the
        order of their offsets; all others at once, up to ``max_concurrency``.

        **Cancellation.** Handlers are cancelled at once. A handler whose partition is taken away is cancelled after
        ``revoke_grace``, or at once if the partition was lost; its record is handled again by the new owner. A thread
        can't be cancelled: it is waited for where its lane, or this consumer, would go on. A worker process is killed.

        Raises:
            ExceptionGroup: handlers failed for good. It holds their exceptions, each with a note that names topic,
                partition, offset and key. Handlers that ran finished first, within ``shutdown_timeout``; the failed
                records and all after them in their lanes will be handled again.
            BaseException: what a handler raises beyond ``Exception``, such as ``SystemExit``, leaves at once, in the
                groups of Trio's nurseries.
            KafkaError: the client can't go on, or the last commit failed; a subclass says more.
            HandlerStuckError: handlers didn't react to their cancellation. All else was committed and let go in time;
                this left when they returned.
            InvalidHandlerError: ``handler`` isn't a function that the mode can run.
            WorkerStartError: worker processes can't begin: the handler can't be imported, ``worker_initializer``
                fails, or they die before they handle anything.
            ConsumerBusyError: ``run`` was called before.
            ConsumerClosedError: the block has ended, or ends before ``run`` does.
        """
        await self._run(handler, engine, self._controller.handling.records, task_status)

    async def run_batches(  # noqa: ASYNC128 - as in run()
        self,
        handler: BatchHandler | AnyHandler | str,
        *,
        max_size: int = 100,
        linger: float = 0.0,
        scope: BatchScope | Literal["key", "partition", "any"] = BatchScope.PARTITION,
        engine: ExecutionEngine | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Handle batches of records; in all else like :meth:`run`.

        A batch holds up to ``max_size`` records, in the order of topic, partition and offset. It may hold several of
        one key, and while it is handled no other batch has records of that key. ``max_concurrency`` bounds the batches
        that are handled at once.

        Args:
            handler: as for :meth:`run`, but a function of a tuple of records. It returns nothing if all of them are
                done, or a sequence with one outcome for each: ``None`` or what is to be sent (it is done), or an
                instance of :class:`Retry`, :class:`Skip`, :class:`DeadLetter` or any other exception (it failed with
                that). If it raises, all have failed. Each failure follows the failure policy, and records that are
                tried again come in a later batch. What the handler had together with them isn't held back; later
                records of their keys are.
            max_size: records in a batch at most.
            linger: seconds that the first record of a batch may wait for more. 0: take what is there. It delays no
                :meth:`stop` and no revoke.
            scope: what the records of one batch have in common: their ``key`` (and partition), their ``partition``,
                or nothing (``any``). If a batch of ``any`` is cancelled because one of its partitions is taken away,
                its other records are handled again.
            engine: as for :meth:`run`.
            task_status: for ``nursery.start``.

        Raises:
            ValueError: ``max_size`` isn't a whole number from 1 on, ``linger`` isn't seconds from 0 on, or ``scope`` is
                none of the three.
        """
        size: Any = max_size  # whatever its type says
        if not isinstance(size, int) or size < 1 or not 0 <= linger < math.inf:
            message = (
                f"max_size must be a whole number from 1 on and linger seconds from 0 on, are {size!r} and {linger!r}"
            )
            raise ValueError(message)
        if scope not in list(BatchScope):
            message = f"scope must be one of {', '.join(BatchScope)}, is {scope!r}"
            raise ValueError(message)
        options: Any = {"size": size, "scope": BatchScope(scope), "linger": linger}
        await self._run(handler, engine, lambda execute: self._controller.batches(execute, **options), task_status)

    async def _run(  # noqa: ASYNC128, ASYNC910 - _announce() says started; whatever ends it, leaving waits
        self,
        handler: AnyHandler | str,
        engine: ExecutionEngine | None,
        visits: Callable[[Execute], Visits],
        task_status: trio.TaskStatus[None],
    ) -> None:
        engine = engine or self._engine
        opened = engine.open(handler)
        self._begin()
        self._engine = engine
        problems: list[ParallelKafkaError] = []
        self._opening = opening = trio.CancelScope()
        try:
            with self._scope:
                try:
                    with opening:
                        async with opened as execute:
                            if not opening.cancel_called:
                                self._opening, opening.deadline = None, math.inf
                                await self._serve(visits(execute), task_status, problems)
                finally:
                    if self._state is State.RUNNING:  # the engine wasn't opened
                        await self._leave(problems)  # noqa: ASYNC102 - it shields and bounds itself
                if self._opening is not None:
                    task_status.started()  # stopped before: whoever waits for the start has to be told
        except BaseException as error:  # noqa: ASYNC103 - a cancellation gives way to what there is to say
            if not is_cancellation(error) or not (problems or self._controller.outcome):
                add_notes(error, problems)
                raise
        finally:
            self._has_ended.set()
        outcome = self._controller.outcome
        if outcome is None and self._scope.cancelled_caught:
            outcome = ConsumerClosedError(
                "the block ended while run() was going on; open the nursery that run() is started in inside the block"
            )
        if outcome is not None:
            add_notes(outcome, problems)
            raise outcome
        if problems:
            raise problems[0]

    def stop(self) -> None:
        """Fetch no more, finish what can finish within ``shutdown_timeout``; then :meth:`run` returns.

        Returns at once; does nothing when it was called before or the block has ended. Not for signal handlers or
        other threads: there, use :meth:`trio.lowlevel.TrioToken.run_sync_soon`.
        """
        if self._state is State.CLOSED:
            return
        self._controller.stop()
        if self._opening is not None:  # which may take for ever
            patience_ends = trio.current_time() + self._config.shutdown_timeout
            self._opening.deadline = min(self._opening.deadline, patience_ends)

    def pause(self, partitions: Iterable[tuple[str, int]] | None = None) -> None:
        """Start no handlers, until :meth:`resume`. What runs goes on, and so does fetching, until the buffers are full.

        Args:
            partitions: pairs of topic and partition; ``None``: all. They stay paused when they are assigned anew, and
                may be named before they are assigned.
        """
        self._controller.gate.pause(_partitions(partitions))

    def resume(self, partitions: Iterable[tuple[str, int]] | None = None) -> None:
        """Start handlers again.

        Args:
            partitions: pairs of topic and partition; ``None``: everything that was paused, whole or by partition.
        """
        self._controller.gate.resume(_partitions(partitions))

    async def wait_assigned(self) -> None:
        """Wait until at least one partition is assigned and its position is known.

        A member of a group with more members than partitions waits until it gets one.

        Raises:
            KafkaError: the client can't go on.
            ConsumerClosedError: the consumer was stopped, or its block has ended.
        """
        if self._state is State.CLOSED:
            raise _closed()
        await self._controller.wait_until_assigned()

    def statistics(self) -> ConsumerStatistics:
        """What can be said about the consumer at this moment; also after its end."""
        return take_snapshot(
            self._state.value, self._config.max_concurrency, self._controller, self._client, self._engine
        )

    def _begin(self) -> None:
        if self._state is State.CLOSED:
            raise _closed()
        if self._state is not State.OPEN:
            message = "run() may be called once in the life of a consumer; open another one"
            raise ConsumerBusyError(message)
        self._state = State.RUNNING

    async def _serve(  # noqa: ASYNC128 - _announce() does
        self, visits: Visits, task_status: trio.TaskStatus[None], problems: list[ParallelKafkaError]
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._controller.pool.run, visits)
            try:
                if task_status is not trio.TASK_STATUS_IGNORED:
                    nursery.start_soon(self._announce, task_status)
                await self._controller.wait_until_ending()
                self._state = State.DRAINING
                await self._controller.drain()
            finally:
                await self._leave(problems)  # noqa: ASYNC102 - it shields and bounds itself
                self._controller.pool.finish()
                nursery.cancel_scope.cancel()

    async def _announce(self, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC910 - a task of its own
        try:
            await self._controller.wait_until_assigned()
        except KafkaError:
            return  # noqa: ASYNC910 - run() raises it
        except ConsumerClosedError:
            pass  # stopped before: run() is about to return, and whoever waits for its start has to be told
        task_status.started()

    async def _leave(self, problems: list[ParallelKafkaError]) -> None:  # noqa: ASYNC910 - at the end only
        """Commit and let go; shielded, and bounded by ``close_timeout``."""
        try:
            with trio.move_on_after(self._config.close_timeout, shield=True) as bound:
                await self._controller.leave()
            stuck = self._controller.pool.running()
            if stuck:
                problems.append(_stuck_error(stuck))
                await self._controller.close_client()
            if bound.cancelled_caught and self._controller.has_committed_all:
                logger.warning(
                    "all is committed, but the partitions weren't taken back within %.1f s (close_timeout): another "
                    "member holds up a rebalance, or the broker is down",
                    self._config.close_timeout,
                )
            elif bound.cancelled_caught:
                message = (
                    f"the last commit wasn't acknowledged within {self._config.close_timeout} s (close_timeout); is "
                    "the broker down? What it would have said will be replayed"
                )
                problems.append(CommitError(message))
        except KafkaError as error:
            problems.append(error)
        finally:
            self._state = State.STOPPED

    async def _close(self, problems: list[ParallelKafkaError]) -> None:
        """The block ends, perhaps without a run."""
        if self._state is State.OPEN:
            await self._leave(problems)
        else:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self._has_ended.wait()
        self._state = State.CLOSED


@asynccontextmanager
async def parallel_consumer(config: ConsumerConfig) -> AsyncIterator[ParallelConsumer]:
    """Join a consumer group for the length of a block.

    All tasks, the thread and the client end with the block, on every path. Leaving takes at most
    ``shutdown_timeout`` for handlers (nothing when it is cancelled), and ``close_timeout`` each for the last commit
    and for the client to close.

    Args:
        config: what to consume, and how.

    Raises:
        BrokerUnreachableError: at the start; no broker answered within ``connect_timeout``.
        AuthenticationError: at the start; credentials or certificates were refused.
        AuthorizationError: at the start, or from :meth:`ParallelConsumer.run`; an ACL is missing.
        TopicNotFoundError: at the start; a topic named in ``topics`` isn't there.
        ConfigError: at the start; librdkafka refused a property.
        CommitError: at the end; the last commit wasn't acknowledged.
        CloseTimeoutError: at the end; the client didn't close within ``close_timeout`` and one daemon thread is
            left to it.

    What the body raises leaves as it is. If the end has a problem of its own by then, it is added as a note.

    **Cancellation.** A cancelled block cancels its handlers at once, commits what completed (shielded, bounded by
    ``close_timeout``), leaves the group and closes.
    """
    problems: list[ParallelKafkaError] = []
    raised: list[BaseException] = []
    try:
        async with current_cluster.get().open_client(config, problems) as client, trio.open_nursery() as nursery:
            try:
                await client.connect()
                async with _controlled(config, client, nursery, problems) as consumer:
                    yield consumer
            except BaseException as error:
                raised.append(error)
                raise
    except BaseException as error:  # noqa: ASYNC103 - raised again below
        if not raised or not is_only(error, raised[0]):
            raise
    if raised and not (problems and is_cancellation(raised[0])):
        add_notes(raised[0], problems)
        raise raised[0]
    if problems:
        add_notes(problems[0], problems[1:])
        raise problems[0]


@asynccontextmanager
async def _controlled(
    config: ConsumerConfig, client: Client, nursery: trio.Nursery, problems: list[ParallelKafkaError]
) -> AsyncIterator[ParallelConsumer]:
    """Run the control plane for the length of a block; it outlives the cancellation of what is around it."""
    controller = Controller(config, client)
    consumer = ParallelConsumer(config, controller, client)
    scope = trio.CancelScope(shield=True)

    async def control() -> None:
        with scope:
            await controller.run()

    nursery.start_soon(control)
    try:
        await controller.join()
        yield consumer
    finally:
        try:
            await consumer._close(problems)  # noqa: ASYNC102, SLF001 - its other half; shields and bounds itself
        finally:
            scope.cancel()


def _partitions(given: Iterable[tuple[str, int]] | None) -> list[TopicPartition] | None:
    return None if given is None else [TopicPartition(topic, partition) for topic, partition in given]


def _stuck_error(lanes: Sequence[Lane[Record]]) -> HandlerStuckError:
    first = lanes[0].head
    more = f" (and {len(lanes) - 1} more)" if len(lanes) > 1 else ""
    return HandlerStuckError(
        f"the handler of {first!r}{more} didn't react to its cancellation; everything else was committed and let go, "
        "and its record will be handled again unless it was given up before",
        topic=first.topic,
        partition=first.partition,
        offset=first.offset,
    )


def _closed() -> ConsumerClosedError:
    return ConsumerClosedError("the consumer's block has ended; open another one with parallel_consumer()")
