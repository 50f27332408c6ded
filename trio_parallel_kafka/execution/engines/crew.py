"""One worker process, as its consumer sees it: fed with chunks, watched, killed and replaced."""

from __future__ import annotations

import functools
import logging
import math
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

import trio

from trio_parallel_kafka.errors import WorkerDiedError, WorkerStartError
from trio_parallel_kafka.execution.engines import worker_process
from trio_parallel_kafka.execution.engines.board import (
    ANSWERED,
    DONE,
    RUNNING,
    SETTLED,
    SKIPPED,
    WAITING,
    Board,
    open_board,
)
from trio_parallel_kafka.execution.engines.calls import Call, CallQueue
from trio_parallel_kafka.execution.engines.worker_process import Orders, Report

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.workers")

CHUNK_TIME: Final = 0.1
"""Seconds that a chunk is to take. Between two chunks a process has nothing to do for a millisecond or so."""

CHUNK_LIMIT: Final = 256
"""Calls in a chunk at most."""

OVERDUE: Final = 0.2
"""Seconds after which the calls of a chunk that haven't begun are taken back; at once if another process is idle."""

UNSEEN: Final = 1.0
"""Seconds by which the next look is sure to have come: until it has, no attempt is ended for want of time."""

FIRST_TRIES: Final = 3
TRIES: Final = 10
"""Processes in a row that may fail before they handle anything: at the start, and later, when others may kill them."""

DEATHS: Final = 2
"""Processes that have to die as they are given a call, alone, before that is what they died of."""

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
"""Seconds between two such tries: twice as many each time."""

GRACE: Final = 5.0
"""Seconds for a process without work to end by itself."""

KILL_PATIENCE: Final = 10.0
"""Seconds for a killed process to be gone."""


class WorkerCrew:
    """Has chunks of calls run in a worker process, and in others after it.

    Args:
        queue: where calls come from.
        orders: what each process is to do.
        start_method: how a process is started.

    Attributes:
        ready: set once the first process can handle.
        died: processes that have ended without having been told to.
        killed: processes killed here.
        retired: processes that ended because they had done enough.
    """

    def __init__(self, queue: CallQueue, orders: Orders, start_method: str) -> None:
        self._queue: Final = queue
        self._orders: Final = orders
        self._start_method: Final = start_method
        self.ready: Final = trio.Event()
        self.died: int = 0
        self.killed: int = 0
        self.retired: int = 0
        self._chunk: Sequence[Call] = ()
        self._began = 0.0
        self._seen: Call | None = None
        self._is_recalled = False
        self._seconds_per_call = CHUNK_TIME
        self._pid: int | None = None
        self._tasks = 0
        self._process = trio.CancelScope()
        self._board: Board
        self._run_sync: Callable[..., Awaitable[Any]]

    @property
    def is_busy(self) -> bool:
        """Whether its process has a chunk."""
        return bool(self._chunk)

    async def work(self) -> None:
        """Serve until cancelled.

        Raises:
            WorkerStartError: no process can begin.
        """
        from trio_parallel import BrokenWorkerError, WorkerType, open_worker_context  # noqa: PLC0415 - an extra

        problem: WorkerStartError | None = None
        # A process that was killed while it had no work, or lingers, is told of when the context is left.
        with open_board() as (self._board, path), suppress(BrokenWorkerError):
            async with open_worker_context(
                idle_timeout=math.inf,
                init=functools.partial(worker_process.prepare, self._orders),
                retire=worker_process.wants_to_retire,
                grace_period=GRACE,
                worker_type=WorkerType(self._start_method),
            ) as context:
                one = trio.CapacityLimiter(1)
                self._run_sync = functools.partial(context.run_sync, kill_on_cancel=True, limiter=one)
                try:
                    await self._serve(path)
                except WorkerStartError as error:
                    problem = error
                finally:
                    del self._run_sync  # it holds the pipes of the last process
        if problem is not None:
            raise problem

    def look(self) -> None:
        """See how far the process is: end an attempt that takes too long, take back what waits too long."""
        if not self._chunk:
            return
        if self._seen is not None and self._seen.crew is self:
            self._seen.attempt.waits()
        self._seen = None
        if (running := self._board.running()) is not None:
            index, seconds = running
            self._time(self._chunk[index], seconds)
        if self._is_recalled:
            self._end_done()
            self._queue.put_back(self._not_begun())
        elif self._queue.is_starving or trio.current_time() - self._began > OVERDUE:
            self._is_recalled = True
            for each in self._not_begun():
                self._board.mark(each.index)

    async def take_back(self, call: Call) -> None:
        """Have a call of its chunk not run; if it runs already, kill the process and wait until it is gone."""
        self._board.mark(call.index)
        await trio.sleep(SETTLED)
        if call.is_over:
            return
        if self._board.state(call.index) == RUNNING:
            self._process.cancel()
            with trio.move_on_after(KILL_PATIENCE) as bound:
                await call.wait_until_over()
            if bound.cancelled_caught:
                logger.error("worker process %s was killed, but doesn't end", self._pid)
        else:
            call.end()

    # One chunk

    async def _serve(self, path: str) -> NoReturn:
        while True:
            if self._pid is None:
                await self._start()
                self.ready.set()
            self._take_up(await self._queue.take(self._limit()))
            try:
                await self._run_chunk(path)
            finally:
                self._lay_down()

    def _limit(self) -> int:
        """How many calls the next chunk may have."""
        limit = min(CHUNK_LIMIT, int(CHUNK_TIME / self._seconds_per_call))
        if self._orders.max_tasks is not None:
            limit = min(limit, self._orders.max_tasks - self._tasks)
        return max(1, limit)

    def _take_up(self, chunk: Sequence[Call]) -> None:
        self._chunk = chunk
        self._began = trio.current_time()
        self._seen = None
        self._is_recalled = False
        self._board.clear()
        for index, call in enumerate(chunk):
            call.crew, call.index = self, index

    def _lay_down(self) -> None:
        self._queue.put_back(self._own())
        self._chunk = ()

    def _own(self) -> list[Call]:
        """The calls of the chunk that are in its hands still."""
        return [call for call in self._chunk if call.crew is self]

    def _time(self, running: Call, seconds: float) -> None:
        """Have the time of this call run; it is over only when a look has seen so: the handler may end before that."""
        timeout = running.attempt.timeout
        if running.crew is not self or timeout is None:
            return
        self._seen = running
        running.attempt.started(seconds if seconds >= timeout else min(seconds, timeout - UNSEEN))

    def _end_done(self) -> None:
        for call in self._own():
            if self._board.state(call.index) == DONE:
                call.end()

    def _not_begun(self) -> list[Call]:
        return [call for call in self._own() if self._board.state(call.index) in {WAITING, SKIPPED}]

    async def _run_chunk(self, path: str) -> None:
        try:
            report = await self._in_process(worker_process.run, path, [call.payload for call in self._chunk])
        except _ProcessEndedError as end:
            self._end_done()
            if end.how is not None:
                self._blame(f"worker process {end.pid} died: {end.how}", end.how)
        except WorkerStartError as error:  # of one that took the place of one that had died without work
            logger.warning("%s", error)
        else:
            self._seconds_per_call = max(1e-6, (trio.current_time() - self._began) / len(self._chunk))
            for call in self._own():
                if self._board.state(call.index) != SKIPPED:
                    call.end_with(report.answers[call.index])

    def _blame(self, death: str, how: str) -> None:
        """Say what the process died on, as far as that is known; what isn't may be put to the test alone."""
        begun = [call for call in self._own() if self._board.state(call.index) in {RUNNING, ANSWERED}]
        suspects = begun or self._own()
        culprit = next((call for call in begun if self._board.state(call.index) == RUNNING), None)
        if culprit is None and len(self._chunk) == len(suspects) == 1:
            (alone,) = suspects
            alone.deaths += 1
            culprit = alone if begun or alone.deaths >= DEATHS else None
        if culprit is not None:
            logger.warning("%s; it was on %r", death, culprit.given)
            culprit.end(error=WorkerDiedError(f"the worker process that handled the record died: {how}"))
            return
        logger.warning("%s; it was between two records", death)
        for call in suspects:
            call.is_alone = True

    # The process

    async def _start(self) -> None:
        """Have a process that can handle.

        Raises:
            WorkerStartError: none is to be had.
        """
        vain = 0
        while True:
            try:
                await self._in_process(worker_process.set_up)
            except _ProcessEndedError as end:
                problem = WorkerStartError(
                    f"worker processes die before they handle anything: {end.how}; their stderr may say more. Is the "
                    "start of the program guarded by `if __name__ == '__main__':`?"
                )
                tries = FIRST_TRIES
            except WorkerStartError as error:
                problem, tries = error, 1
            else:
                return
            vain += 1
            if vain >= (TRIES if self.ready.is_set() else tries):
                raise problem
            logger.warning("%s; trying again", problem)
            await trio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**vain))

    async def _in_process(self, function: Callable[..., Report], *args: object) -> Report:
        """Have the process do something.

        Raises:
            _ProcessEndedError: it died, or was killed, meanwhile.
            WorkerStartError: it can't begin.
        """
        from trio_parallel import BrokenWorkerError  # noqa: PLC0415 - an extra

        how = None
        with trio.CancelScope() as self._process:
            try:
                report: Report = await self._run_sync(function, *args)
            except trio.Cancelled:
                self.killed += self._process.cancel_called or self._board.running() is not None
                raise
            except WorkerStartError:
                self._pid = None
                raise
            except BrokenWorkerError as error:
                how = _ending(error.args[-1].exitcode)
            except Exception as error:  # noqa: BLE001 - no process is to be had, for one
                how = f"{type(error).__name__}: {error}"
            else:
                self._note_process(report)
                return report
            self.died += 1
        pid, self._pid, self._tasks = self._pid, None, 0
        raise _ProcessEndedError(pid, how)

    def _note_process(self, report: Report) -> None:
        if self._pid not in {None, report.pid}:
            self.died += 1
            logger.warning("worker process %d died while it had no work; it is replaced", self._pid)
        self._pid, self._tasks = report.pid, report.tasks
        if report.is_retiring:
            self.retired += 1
            self._pid, self._tasks = None, 0


class _ProcessEndedError(Exception):
    """The process is gone.

    Attributes:
        pid: which it was, if that is known.
        how: in words; ``None``: it was killed here.
    """

    def __init__(self, pid: int | None, how: str | None) -> None:
        super().__init__(pid, how)
        self.pid: Final = pid
        self.how: Final = how


def _ending(exit_code: int | None) -> str:
    """How a process ended, in words."""
    if exit_code is None or exit_code >= 0:
        return f"it exited with status {exit_code}"
    name = next((each.name for each in signal.Signals if each == -exit_code), f"signal {-exit_code}")
    return f"killed by {name}{', perhaps for want of memory' if name == 'SIGKILL' else ''}"
