"""Handlers in worker processes.

Theory of operation
-------------------

Calls wait in one queue. Each worker process has a :class:`.WorkerCrew` in the consumer, which takes a chunk off the
queue, has it run, and answers its calls; so the cost of crossing is shared by a chunk. How many calls a chunk has
follows from how long the last ones took, and from how many there are for all crews.

A call that is cancelled before its process has come to it is taken back. If the process is on it, the process is
killed. A process that dies takes the call that it was on along (its attempt has failed); what else was in its chunk and
isn't known to be done goes back to the head of the queue, and no attempt is counted. Calls that a long one keeps
waiting in its chunk are taken back, too, so that they don't wait while another process is free.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import trio

from trio_parallel_kafka.errors import ConfigError, InvalidHandlerError, WorkerStartError
from trio_parallel_kafka.execution.engine import AnyHandler, Attempt, Execute, ExecutionEngine
from trio_parallel_kafka.execution.engines.calls import Call, CallQueue
from trio_parallel_kafka.execution.engines.crew import WorkerCrew
from trio_parallel_kafka.execution.engines.worker_process import Orders
from trio_parallel_kafka.statistics import EngineStatistics

LOOK: Final = 0.02
"""Seconds between two looks at how far the processes are."""


class ProcessEngine(ExecutionEngine):
    """Calls handlers, async or not, in worker processes, one at a time in each. Needs the extra ``process``.

    Handlers, records and results are pickled. A handler that is cancelled is ended by killing its process. For the
    parameters see the fields of :class:`ConsumerConfig`.
    """

    mode: str = "process"

    def __init__(
        self,
        workers: int | None = None,
        *,
        initializer: Callable[[], object] | None = None,
        max_tasks: int | None = None,
        max_memory: int | None = None,
        start_method: str = "spawn",
    ) -> None:
        self._workers: Final = workers or _usable_cores()
        self._initializer: Final = initializer
        self._max_tasks: Final = max_tasks
        self._max_memory: Final = max_memory
        self._start_method: Final = start_method
        self._queue: Final = CallQueue(self._workers)
        self._crews: Sequence[WorkerCrew] = ()

    def open(self, handler: AnyHandler | str) -> AbstractAsyncContextManager[Execute]:
        try:
            import trio_parallel  # noqa: F401, PLC0415 - only this engine needs it
        except ImportError as error:
            message = "execution_mode='process' needs trio-parallel: pip install 'trio-parallel-kafka[process]'"
            raise ConfigError([message]) from error
        if not isinstance(handler, str) and not callable(handler):
            raise InvalidHandlerError(f"the handler has to be a function, or 'module:function', not {handler!r}")
        functions = (_pickled(handler, "the handler"), _pickled(self._initializer, "worker_initializer"))
        return self._opened(Orders(*functions, self._max_tasks, self._max_memory))

    @asynccontextmanager
    async def _opened(self, orders: Orders) -> AsyncIterator[Execute]:
        failures: list[WorkerStartError] = []

        async def work(crew: WorkerCrew) -> None:
            try:
                await crew.work()
            except WorkerStartError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        self._crews = [WorkerCrew(self._queue, orders, self._start_method) for _ in range(self._workers)]
        try:
            async with trio.open_nursery() as nursery:
                for crew in self._crews:
                    nursery.start_soon(work, crew)
                for crew in self._crews:
                    await crew.ready.wait()
                nursery.start_soon(self._look)
                try:
                    yield self._execute
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            self._queue.close()
            multiprocessing.active_children()  # lets go of the descriptors of those that have ended
        if failures:
            raise failures[0]

    async def _execute(self, given: Any, attempt: Attempt) -> object:
        call = Call(given, attempt)
        self._queue.put(call)
        try:
            return await call.answer()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._queue.take_back(call)  # noqa: ASYNC102 - a kill, which is bounded
            raise

    async def _look(self) -> None:
        while True:
            await trio.sleep(LOOK)
            for crew in self._crews:
                crew.look()

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            mode=self.mode,
            busy=sum(crew.is_busy for crew in self._crews),
            waiting=len(self._queue),
            died=sum(crew.died for crew in self._crews),
            killed=sum(crew.killed for crew in self._crews),
            retired=sum(crew.retired for crew in self._crews),
        )


def _pickled(function: object, what: str) -> bytes:
    try:
        return pickle.dumps(function, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise InvalidHandlerError(
            f"{what} can't be sent to a worker process: {error}; define it at the top level of a module, or name it by "
            "'module:function'"
        ) from error


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
