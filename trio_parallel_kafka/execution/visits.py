"""What a worker does with the lanes in its hands."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import trio

from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.core.lanes import LaneScheduler
from trio_parallel_kafka.execution.attempts import GivenUp, goes_on_after
from trio_parallel_kafka.execution.clock import CoarseClock
from trio_parallel_kafka.execution.deadline import TimeLimit
from trio_parallel_kafka.execution.settling import Settler, is_decision
from trio_parallel_kafka.execution.tally import Tally
from trio_parallel_kafka.execution.verdicts import RetryLater, Stop
from trio_parallel_kafka.execution.worker import Worker
from trio_parallel_kafka.record import Record, next_attempt

Handler = Callable[[Record[Any, Any]], Awaitable[object]]

VISIT: Final = 32
"""Records of one lane after which other lanes have their turn."""

SLICE_CHECK: Final = 8
"""Records in a row, with handlers that never wait, after which a worker looks at the clock."""

BREAKER: Final = "circuit open"
"""What holds the scheduler while an open breaker stops dispatch; probes are let through."""


class Probing:
    """Lets single records through an open breaker, and tells how they got on.

    Args:
        on_begin: told when a record tries.
        on_end: told how it got on; see :meth:`ended`.

    Attributes:
        is_allowed: the next ready lane may be taken in spite of the breaker, for one record.
        lane: the lane of the record that tries, while it does.
    """

    def __init__(self, on_begin: Callable[[], None], on_end: Callable[[bool | None], None]) -> None:
        self._on_begin: Final = on_begin
        self._on_end: Final = on_end
        self.is_allowed: bool = False
        self.lane: Lane[Record] | None = None

    def take(self, scheduler: LaneScheduler[Record]) -> Lane[Record] | None:
        """A lane to try with, if one is ready and it is time."""
        lane = scheduler.take_despite(BREAKER) if self.is_allowed else None
        if lane is not None:
            self.is_allowed = False
            self.lane = lane
            self._on_begin()
        return lane

    def ended(self, lane: Lane[Record], *, well: bool | None) -> None:
        """A record of this lane is done (``well``), has failed, or no attempt has ended (``None``)."""
        if lane is self.lane:
            self.lane = None
            self._on_end(well)


class Visits(Protocol):
    """How lanes are taken and served."""

    def take(self) -> Sequence[Lane[Record]]:
        """Lanes to be visited next, now in the caller's hands; none if there is nothing to do."""

    async def visit(self, worker: Worker) -> None:
        """Serve the lanes in a worker's hands, and maybe others after them.

        It returns when the worker's scope was cancelled, and between two lanes also when there are watchers, or it may
        be somebody else's turn. Cancelled, it leaves to the caller what it hasn't completed.

        If it returns with an error in the worker, it is to be called again, in a scope that isn't cancelled: the head
        of the lane in hands has failed with that.
        """

    def abandon(self, worker: Worker) -> None:
        """The visit was cancelled: put the lanes where they belong. What wasn't completed stays incomplete."""

    def stop_lingering(self) -> None:
        """Wait no more for fuller batches."""

    def next_due(self) -> float | None:
        """When a batch that isn't full is to be taken all the same."""


class RecordVisits:
    """One lane at a time, one record after another, for as long as a visit may last.

    Args:
        scheduler: the lanes.
        attempt: what is done with a record.
        settler: sees to what comes of it.
        tally: counted here.
        probing: lets records through an open breaker.
        on_progress: told of a lane visit in a partition that is paused.
        clock: when a lane was taken is read off it.
        given_up: waits for handlers that can't be stopped.
        limit: bounds attempts in time; ``None``: they aren't, or see to it themselves.
    """

    def __init__(
        self,
        scheduler: LaneScheduler[Record],
        attempt: Handler,
        *,
        settler: Settler,
        tally: Tally,
        probing: Probing,
        on_progress: Callable[[Assignment[Record]], None],
        clock: CoarseClock,
        given_up: GivenUp,
        limit: TimeLimit | None = None,
    ) -> None:
        scheduler.may_be_loose = True
        self._scheduler: Final = scheduler
        self._limit: Final = limit
        self._attempt: Final = attempt
        self._settler: Final = settler
        self._given_up: Final = given_up
        self._tally: Final = tally
        self._probing: Final = probing
        self._on_progress: Final = on_progress
        self._clock: Final = clock
        self._at_work: Worker | None = None

    def take(self) -> Sequence[Lane[Record]]:
        lane = self._scheduler.take() or self._probing.take(self._scheduler)
        return () if lane is None else (lane,)

    def stop_lingering(self) -> None:
        """Single records wait for nothing."""

    def next_due(self) -> float | None:
        return None

    def abandon(self, worker: Worker) -> None:
        for lane in worker.lanes:
            self._tally.abandoned += 1
            self._probing.ended(lane, well=None)
            self._scheduler.seal(lane)  # nothing overtakes what was cancelled

    async def visit(self, worker: Worker) -> None:  # noqa: C901, PLR0912, PLR0915 - what every record goes through, in one piece
        scheduler, tally, attempt, limit = self._scheduler, self._tally, self._attempt, self._limit
        (lane,) = worker.lanes
        error, worker.error = worker.error, None
        if limit is not None and worker.due == math.inf:
            limit.begin(worker)
        self._at_work = worker
        while True:
            assignment: Assignment[Record] = lane.group.owner
            left = VISIT
            while True:
                lane.since = self._clock.now
                record = lane.head
                if lane.detour is not None and error is None:
                    error = lane.error
                if error is None:
                    try:
                        result = await attempt(record)
                        if limit is not None:
                            now = limit.clock()
                            if now >= worker.due:
                                limit.fail()
                            worker.due = now + limit.timeout
                        if result is not None:
                            worker.due = math.inf
                            await self._settler.send(assignment, record, result)
                            if limit is not None:
                                limit.begin(worker)
                    except Exception as raised:
                        if worker.doomed:
                            raise
                        error = raised
                if self._at_work is worker:
                    worker.streak += 1
                else:  # another worker ran, so this handler has waited
                    self._at_work = worker
                    worker.streak = 0
                    lane.since = self._clock.now
                if error is not None:
                    if worker.late is not None:
                        worker.error, error = error, None
                        return
                    worker.due = math.inf
                    is_settled = await self._is_settled(lane, record, error)
                    # Or it would keep itself alive by its traceback, which has this frame.
                    error = error if goes_on_after(error) else None
                    if not is_settled:
                        if assignment.pause_reason is not None:
                            self._on_progress(assignment)
                        return
                    if limit is not None:
                        limit.begin(worker)
                if not assignment.complete(record):
                    tally.fenced += 1
                    self._probing.ended(lane, well=None)
                    await self._given_up.wait_after(error)
                    return
                tally.completed += 1
                left -= 1
                if scheduler.is_held:
                    self._probing.ended(lane, well=True)
                if error is not None:
                    await self._given_up.wait_after(error)
                    error = None
                # Handlers that wait leave the next to a worker whose turn it is, maybe of another partition.
                if not scheduler.advance(lane) and not (lane.key is None and worker.streak and scheduler.go_on(lane)):
                    break
                if not left or worker.streak >= SLICE_CHECK or scheduler.is_held or lane.group.is_held:
                    scheduler.put_back(lane)
                    break
            if assignment.pause_reason is not None:
                self._on_progress(assignment)
            if worker.streak >= SLICE_CHECK or worker.doomed or worker.watchers:
                return
            following = scheduler.take()
            if following is None:
                return
            lane = following
            worker.lanes = (lane,)

    async def _is_settled(self, lane: Lane[Record], record: Record, error: Exception) -> bool:
        """Deal with a failure; say whether the record may be completed. Else the lane is parked or sealed."""
        self._probing.ended(lane, well=is_decision(error) if lane.error is None else None)
        verdict: RetryLater | Stop | None = Stop()
        try:
            verdict = await self._settler.settle(lane, record, error)
        finally:
            if verdict is not None:  # else it is waited for once the record is completed
                await self._given_up.wait_after(error)  # noqa: ASYNC102 - it can't be stopped
        match verdict:
            case RetryLater(delay):
                if lane.error is None:
                    lane.head = next_attempt(record)
                    lane.group.owner.replace(lane.head)
                self._scheduler.park(lane, trio.current_time() + delay)
                return False
            case Stop():
                self._scheduler.seal(lane)
                return False
        lane.error = None
        return True
