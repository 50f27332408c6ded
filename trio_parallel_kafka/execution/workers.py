"""Bounded worker tasks that serve one lane, or batch, after another.

Theory of operation
-------------------

A worker takes the next ready lane and handles its records until the lane is dry or its visit is used up. Workers
come into being when lanes are ready and none is idle, up to the bound; idle ones are parked. A worker that was woken
and finds more lanes ready than workers are on their way wakes two others, once, so that a burst of blocking handlers
spreads in a few rounds of the loop, while handlers that never block are run by few workers without a task switch per
record. So as long as a lane is ready and a worker is idle, some worker is on its way: lanes become ready by a batch,
which wakes one, by time, which wakes one, or by a worker that puts one back, which goes on itself, or wakes one.

A Trio cancel scope is entered once. So each worker has a scope of its own, which belongs to the assignments of the
lanes in the worker's hands; ending an assignment cancels the scopes of the workers that serve it at that moment,
and such a worker enters a new one. A lane visit therefore costs no scope.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection
from typing import Final

import trio

from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.core.lanes import LaneScheduler
from trio_parallel_kafka.execution.visits import SLICE_CHECK, Visits
from trio_parallel_kafka.execution.worker import Worker
from trio_parallel_kafka.record import Record

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.workers")

SLICE: Final = 0.001
"""Seconds for which a worker keeps the loop when no handler waits."""

HALTED: Final = "stopping"
"""What holds the scheduler for good once nothing is to be started any more."""


class WorkerPool:
    """Serves what the scheduler hands out.

    Args:
        scheduler: the lanes.
        max_concurrency: how many workers there may be.
    """

    def __init__(self, scheduler: LaneScheduler[Record], max_concurrency: int) -> None:
        self._scheduler: Final = scheduler
        self._max_concurrency: Final = max_concurrency
        self._workers: set[Worker] = set()
        self._idle = trio.lowlevel.ParkingLot()
        self._watchers: Final[list[trio.Event]] = []
        self._visits: Visits | None = None
        self._lingers = True
        self._spawn: Callable[[Worker], None] | None = None
        self._on_their_way = 0

    @property
    def in_flight(self) -> int:
        """How many records handlers have now."""
        return sum(lane.taken for lane in self.running())

    def in_flight_of(self, assignment: Assignment[Record]) -> int:
        """The same, of one assignment."""
        return sum(lane.taken for lane in self.running_on((assignment,)))

    def running(self) -> list[Lane[Record]]:
        """The lanes that handlers run on now."""
        return [lane for worker in self._workers for lane in worker.lanes]

    def running_on(self, assignments: Collection[Assignment[Record]]) -> list[Lane[Record]]:
        """The same, of these assignments only."""
        return [lane for lane in self.running() if lane.group.owner in assignments]

    async def run(self, visits: Visits) -> None:
        """Serve until :meth:`finish`, then until the handlers that run have returned.

        What handlers raise beyond ``Exception`` leaves as it is, in the groups of the nursery.
        """
        self._visits = visits
        if not self._lingers:
            visits.stop_lingering()
        async with trio.open_nursery() as nursery:
            self._spawn = lambda worker: nursery.start_soon(self._work, worker, visits)
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
                worker = Worker(self._watchers)
                self._workers.add(worker)
                self._spawn(worker)
            else:
                return
            self._on_their_way += 1

    def lanes_left(self) -> None:
        """A worker that goes on with others has put lanes back."""
        self.wake()
        self.notify()

    def next_due(self) -> float | None:
        """When :meth:`wake` is called for next, for the sake of a batch that isn't full.

        While no worker is free this is ``None``: the next that is looks by itself.
        """
        is_anyone_free = bool(self._idle) or len(self._workers) < self._max_concurrency
        return self._visits.next_due() if self._visits is not None and is_anyone_free else None

    def stop_lingering(self) -> None:
        """Wait no more for fuller batches, nor in a run to come."""
        self._lingers = False
        if self._visits is not None:
            self._visits.stop_lingering()
            self.wake()

    def halt(self) -> None:
        """Start nothing any more; what runs goes on."""
        self._scheduler.hold(HALTED)

    def finish(self) -> None:
        """End :meth:`run` once the handlers that run now have returned."""
        self.halt()
        self._spawn = None
        self._idle.unpark_all()
        self.notify()

    def cancel(self, assignments: Collection[Assignment[Record]]) -> None:
        """Cancel the handlers that run on these assignments now."""
        for worker in self._workers:
            doomed = {lane.group.owner for lane in worker.lanes}.intersection(assignments)
            if doomed:
                worker.doomed |= doomed
                worker.scope.cancel()

    def notify(self) -> None:
        """Have the conditions of :meth:`wait_until` looked at again."""
        while self._watchers:
            self._watchers[-1].set()  # before it is forgotten, for Ctrl-C may strike in between
            self._watchers.pop()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on what the workers do."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not condition():
            changed = trio.Event()
            self._watchers.append(changed)
            try:
                await changed.wait()
            finally:
                if changed in self._watchers:
                    self._watchers.remove(changed)

    def is_dry(self) -> bool:
        """Whether nothing runs, and nothing that may be started is ready."""
        return not self.in_flight and not self._scheduler

    def _spread(self) -> None:
        """Have two more workers look, if so many lanes are ready that nobody is on the way to."""
        missing = self._scheduler.ready - self._on_their_way
        if missing > 0:
            self.wake(min(2, missing))

    async def _work(self, worker: Worker, visits: Visits) -> None:
        self._on_their_way -= 1
        try:
            while self._spawn is not None or worker.lanes:
                try:
                    with trio.CancelScope() as worker.scope:
                        await self._serve(worker, visits)
                except Exception as error:
                    if worker.lanes and worker.doomed:
                        logger.warning(
                            "the handler of %r raised while it was cancelled", worker.lanes[0].head, exc_info=error
                        )
                    elif worker.lanes and worker.late is not None:
                        worker.error = error
                    else:
                        raise
                except trio.Cancelled as error:
                    if trio.current_effective_deadline() > -math.inf:
                        # It is an old one, kept and raised again; the nursery would swallow it, and all would stand.
                        message = f"the handler of {worker.lanes[0].head!r} raised Cancelled, but nothing cancelled it"
                        raise RuntimeError(message) from error  # noqa: ASYNC104 - it cancels nothing
                    raise
                if worker.late is not None and not worker.doomed:
                    worker.error = worker.error or worker.late
                elif worker.lanes:
                    visits.abandon(worker)
                    worker.lanes = ()
                    self.notify()
                worker.doomed, worker.late, worker.due = frozenset(), None, math.inf
        finally:
            self._workers.discard(worker)
            self.notify()

    async def _serve(self, worker: Worker, visits: Visits) -> None:
        """Visit one lane after another, until the worker's scope is cancelled or the pool finishes."""
        slice_end = time.perf_counter() + SLICE
        is_fresh = True
        while self._spawn is not None or worker.lanes:
            lanes = worker.lanes or visits.take()
            if not lanes:
                worker.due = math.inf
                await self._idle.park()
                self._on_their_way -= 1
                is_fresh = True
                continue
            worker.lanes = lanes
            if is_fresh:
                self._spread()
            is_fresh = False
            await visits.visit(worker)
            if worker.error is not None:
                return
            worker.lanes = ()
            self.notify()
            if worker.doomed:
                return
            if worker.streak >= SLICE_CHECK:
                worker.streak = 0
                if time.perf_counter() >= slice_end:
                    worker.due = math.inf
                    await trio.lowlevel.checkpoint()
                    slice_end = time.perf_counter() + SLICE
