"""One consumer with its handler."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

import attrs
import trio

from trio_parallel_kafka.cli.fleet.report import MemberReport
from trio_parallel_kafka.config import ConsumerConfig, ExecutionMode
from trio_parallel_kafka.consumer import ParallelConsumer, parallel_consumer
from trio_parallel_kafka.execution.engines.handlers import imported

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Member:
    """A member of the consumer group, to be run once.

    Args:
        config: its own, see :meth:`.ConsumerConfig.for_member`.
        handler: names what handles the records: ``"module:function"``.
    """

    def __init__(self, config: ConsumerConfig, handler: str) -> None:
        self.config: Final = config
        self._handler: Final = handler
        self._scope: Final = trio.CancelScope()
        self._consumer: ParallelConsumer | None = None
        self._running_since: float | None = None
        self._start: Final = _Start()

    async def run(self) -> None:
        """Consume until :meth:`drain` was called and is done.

        Raises:
            ExceptionGroup: the handler failed for good.
            ParallelKafkaError: see :meth:`.ParallelConsumer.run`.
            BaseException: the handler's module can't be imported. It wasn't a member then: the group has no rebalance.
        """
        with self._scope:
            handler = self._handler if self.config.execution_mode is ExecutionMode.PROCESS else imported(self._handler)
            async with parallel_consumer(self.config) as self._consumer:
                self._running_since = trio.current_time()
                await self._consumer.run(handler, task_status=self._start)
        await trio.lowlevel.checkpoint()

    def drain(self) -> None:
        """Stop in good order; at once if it doesn't consume yet. May be called again."""
        if self._consumer is None:
            self._scope.cancel()
        else:
            self._consumer.stop()

    def report(self) -> MemberReport:
        """What it can say of itself at this moment."""
        if self._consumer is None or self._running_since is None:
            return MemberReport()
        return MemberReport(
            statistics=self._consumer.statistics(),
            running_for=trio.current_time() - self._running_since,
            has_begun=self._start.has_come,
        )


@attrs.define
class _Start(trio.TaskStatus[None]):
    """Notes that a consumer is ready."""

    has_come: bool = False

    def started(self, _value: None = None) -> None:
        self.has_come = True


async def drain_on_signal(
    drain: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:  # noqa: ASYNC910 - a task of its own
    """Drain on the first signal; leave the second to the operating system, which ends the process even if it hangs."""
    asked = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def obey(_number: int, _frame: FrameType | None) -> None:
        # Not in a task, which a handler that blocks the loop would keep from running.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        token.run_sync_soon(asked.set)

    before = {number: signal.signal(number, obey) for number in STOP_SIGNALS}
    try:
        task_status.started()
        await asked.wait()
        drain()
        await trio.sleep_forever()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
