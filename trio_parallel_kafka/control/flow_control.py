"""Pauses partitions of which enough is read, and has them fetched again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

import trio

from trio_parallel_kafka.control.client import Client
from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.core.member import FULL, Member
from trio_parallel_kafka.execution.clock import CoarseClock
from trio_parallel_kafka.execution.workers import WorkerPool
from trio_parallel_kafka.record import Record

TICK: Final = 0.1
"""Seconds between two looks at partitions that are full, and at the time, while handlers run."""

IDLE_TICK: Final = 1.0
"""The same while none does."""

STUCK_AFTER: Final = 1.0
"""Seconds after which the records behind a running one don't count as runnable."""


class FlowControl:
    """See the module.

    Args:
        client: told what to pause and to resume.
        member: knows what is buffered, and decides.
        pool: knows what runs.
        clock: set here.
    """

    def __init__(self, client: Client, member: Member[Record], pool: WorkerPool, clock: CoarseClock) -> None:
        self._client: Final = client
        self._member: Final = member
        self._pool: Final = pool
        self._clock: Final = clock
        self._paused: Final = trio.lowlevel.ParkingLot()

    def fetched(self, assignments: Iterable[Assignment[Record]]) -> None:
        """These got records: pause those that have enough."""
        full = [each.partition for each in assignments if self._has_to_pause(each)]
        if full:
            self._client.pause(full)
            self._paused.unpark_all()

    def progressed(self, assignment: Assignment[Record]) -> None:
        """Something of a paused partition was handled, or put aside."""
        if self._member.resume_if_low(assignment):
            self._fetch_again(assignment)

    @trio.lowlevel.enable_ki_protection
    async def watch(self) -> None:
        """Look now and then at what is paused; Ctrl-C is for the main task."""
        while True:
            if self._is_at_work():
                await trio.sleep(TICK)
            else:
                with trio.move_on_after(IDLE_TICK):
                    await self._paused.park()
            self._clock.now = now = trio.current_time()
            self._look(now)

    def _look(self, now: float) -> None:
        stuck: dict[Assignment[Record], list[Lane[Record]]] = defaultdict(list)
        in_hands: Counter[Assignment[Record]] = Counter()
        for lane in self._pool.running():
            if now - lane.since > STUCK_AFTER:
                stuck[lane.group.owner].append(lane)
            else:
                in_hands[lane.group.owner] += lane.taken
        for each in self._member.assignments:
            is_low = self._member.resume_if_low(each, stuck[each])
            if is_low or self._member.resume_if_dry(each, in_hands[each], stuck[each]):
                self._fetch_again(each)

    def _is_at_work(self) -> bool:
        is_full = any(assignment.pause_reason in FULL for assignment in self._member.assignments)
        return is_full or bool(self._pool.running())

    def _has_to_pause(self, assignment: Assignment[Record]) -> bool:
        in_hands = self._pool.in_flight_of
        return self._member.pause_if_full(assignment) or self._member.pause_if_enough(assignment, in_hands)

    def _fetch_again(self, assignment: Assignment[Record]) -> None:
        self._client.resume({assignment.partition: assignment.tracker.next_offset})
