"""Bounded worker tasks that run the handler on one lane after another.

Theory of operation
-------------------

A worker takes the next ready lane and handles its records until the lane is dry or its visit is used up. Workers
come into being when lanes are ready and none is idle, up to the bound; idle ones are parked. A worker that was woken
and finds more than one lane ready wakes two others, once, so that a burst of blocking handlers spreads in a few rounds
of the loop, while handlers that never block are run by few workers without a task switch per record. So as long as a
lane is ready and a worker is idle, some worker is on its way: lanes become ready by a batch, which wakes one, or by a
worker that puts one back, which goes on itself.

A Trio cancel scope is entered once. So each worker has a scope of its own, which belongs to the assignment of the
lane in the worker's hands; ending an assignment cancels the scopes of the workers that serve it at that moment,
and such a worker enters a new one. A lane visit therefore costs no scope.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import trio

from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.lanes import Lane, LaneScheduler
from trio_parallel_kafka.record import Record

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.workers")

Handler = Callable[[Record], Awaitable[object]]

VISIT: Final = 32
"""Records of one lane after which other lanes have their turn."""

SLICE_CHECK: Final = 8
"""Records in a row, with handlers that never wait, after which a worker looks at the clock."""

SLICE: Final = 0.001
"""Seconds for which a worker keeps the loop then."""


class Worker:
    """One task's state: the lane in its hands, and the scope that ends the handler."""

    __slots__ = ("lane", "scope", "streak")

    def __init__(self) -> None:
        self.lane: Lane[Record] | None = None
        self.scope: trio.CancelScope = trio.CancelScope()
        self.streak: int = 0
        """Records handled in a row while no other worker ran."""


class WorkerPool:
    """Runs handlers on what the scheduler hands out.

    Args:
        scheduler: the lanes.
        max_concurrency: how many handlers may run at once.
        on_failure: told of a handler's exception, after its lane has been sealed.
        on_progress: told of a completion in a partition that is paused.
    """

    def __init__(
        self,
        scheduler: LaneScheduler[Record],
        max_concurrency: int,
        on_failure: Callable[[Record, Exception], None],
        on_progress: Callable[[Assignment[Record]], None],
    ) -> None:
        self._scheduler: Final = scheduler
        self._max_concurrency: Final = max_concurrency
        self._on_failure: Final = on_failure
        self._on_progress: Final = on_progress
        self._workers: set[Worker] = set()
        self._idle = trio.lowlevel.ParkingLot()
        self._watchers = trio.lowlevel.ParkingLot()
        self._spawn: Callable[[Worker], None] | None = None
        self._at_work: Worker | None = None
        self._may_start = True
        self.now: float = 0.0
        """A coarse clock, set by the control plane: when a lane was taken is read off it."""
        self.completed: int = 0
        self.failed: int = 0
        self.fenced: int = 0
        self.abandoned: int = 0

    @property
    def in_flight(self) -> int:
        """How many handlers run now."""
        return len(self.running())

    def running(self) -> list[Lane[Record]]:
        """The lanes that handlers run on now."""
        return [worker.lane for worker in self._workers if worker.lane is not None]

    def running_on(self, assignments: Collection[Assignment[Record]]) -> list[Lane[Record]]:
        """The same, of these assignments only."""
        return [lane for lane in self.running() if lane.group.owner in assignments]

    async def run(self, handler: Handler) -> None:
        """Serve until :meth:`finish`, then until the handlers that run have returned.

        What handlers raise beyond ``Exception`` leaves as it is, in the groups of the nursery.
        """
        async with trio.open_nursery() as nursery:
            self._spawn = lambda worker: nursery.start_soon(self._work, worker, handler)
            self.wake()
            try:
                await self.wait_until(lambda: self._spawn is None)
            finally:
                self.finish()

    def wake(self, count: int = 1) -> None:
        """Lanes are ready: have up to ``count`` more workers look."""
        if self._spawn is None:
            return
        for _ in range(count):
            if self._idle:
                self._idle.unpark()
            elif len(self._workers) < self._max_concurrency:
                worker = Worker()
                self._workers.add(worker)
                self._spawn(worker)

    def halt(self) -> None:
        """Start nothing any more; what runs goes on."""
        self._may_start = False

    def finish(self) -> None:
        """End :meth:`run` once the handlers that run now have returned."""
        self.halt()
        self._spawn = None
        self._idle.unpark_all()
        self._watchers.unpark_all()

    def cancel(self, assignments: Collection[Assignment[Record]]) -> None:
        """Cancel the handlers that run on these assignments now."""
        for worker in self._workers:
            if worker.lane is not None and worker.lane.group.owner in assignments:
                worker.scope.cancel()

    def notify(self) -> None:
        """Have the conditions of :meth:`wait_until` looked at again."""
        self._watchers.unpark_all()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on what the workers do."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not condition():
            await self._watchers.park()

    def is_dry(self) -> bool:
        """Whether nothing runs, and nothing that may be started is ready."""
        return not self.in_flight and not (self._may_start and self._scheduler)

    async def _work(self, worker: Worker, handler: Handler) -> None:
        try:
            while self._spawn is not None:
                try:
                    with trio.CancelScope() as worker.scope:
                        await self._serve(worker, handler)
                except Exception as error:
                    if worker.lane is None or not worker.scope.cancel_called:
                        raise
                    logger.warning("the handler of %r raised while it was cancelled", worker.lane.head, exc_info=error)
                if worker.lane is not None:
                    self._abandon(worker.lane)
                    worker.lane = None
                    self._watchers.unpark_all()
        finally:
            self._workers.discard(worker)
            self._watchers.unpark_all()

    async def _serve(self, worker: Worker, handler: Handler) -> None:
        """Handle one lane after another, until the worker's scope is cancelled or the pool finishes."""
        scheduler = self._scheduler
        slice_end = time.perf_counter() + SLICE
        is_fresh = True
        while self._spawn is not None:
            lane = scheduler.take() if self._may_start else None
            if lane is None:
                await self._idle.park()
                is_fresh = True
                continue
            worker.lane = lane
            if is_fresh and scheduler:
                self.wake(2)
            is_fresh = False
            await self._visit(worker, lane, handler)
            worker.lane = None
            if self._watchers:
                self._watchers.unpark_all()
            if worker.scope.cancel_called:
                return
            if worker.streak >= SLICE_CHECK:
                worker.streak = 0
                if time.perf_counter() >= slice_end:
                    await trio.lowlevel.checkpoint()
                    slice_end = time.perf_counter() + SLICE

    async def _visit(self, worker: Worker, lane: Lane[Record], handler: Handler) -> None:
        """Handle a lane's records, one after another, for as long as a visit may last."""
        assignment: Assignment[Record] = lane.group.owner
        left = VISIT
        while True:
            lane.since = self.now
            record = lane.head
            self._at_work = worker
            try:
                await handler(record)
            except Exception as error:
                if worker.scope.cancel_called:
                    raise
                self.failed += 1
                self._scheduler.seal(lane)
                self._on_failure(record, error)
                return
            worker.streak = worker.streak + 1 if self._at_work is worker else 0
            if not assignment.complete(record):
                self.fenced += 1
                return
            self.completed += 1
            left -= 1
            if assignment.pause_reason is not None:
                self._on_progress(assignment)
            if not self._scheduler.advance(lane):
                return
            if not left or worker.streak >= SLICE_CHECK or not self._may_start:
                self._scheduler.put_back(lane)
                return

    def _abandon(self, lane: Lane[Record]) -> None:
        """The handler was cancelled with its assignment: the record stays incomplete, and nothing overtakes it."""
        self.abandoned += 1
        self._scheduler.seal(lane)
