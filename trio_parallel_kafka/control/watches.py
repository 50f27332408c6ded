"""What is told about records that don't get on."""

from __future__ import annotations

import logging
from typing import Final

import trio

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.execution.attempts import UnderWay
from trio_parallel_kafka.execution.workers import WorkerPool
from trio_parallel_kafka.record import Record

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.control")

SETTLE: Final = 1.0
"""Seconds that a handler, and what it resulted in, get after ``handler_timeout`` before the record is named."""


class Watches:
    """Looks after records that hold their partition up, and handlers that don't end. Logs each once.

    Args:
        config: how long is too long.
        member: the core.
        pool: runs the handlers.
        under_way: knows those that wait for their turn.
    """

    def __init__(self, config: ConsumerConfig, member: Member[Record], pool: WorkerPool, under_way: UnderWay) -> None:
        self._config: Final = config
        self._member: Final = member
        self._pool: Final = pool
        self._under_way: Final = under_way
        self._stalls_logged: dict[TopicPartition, int] = {}
        self._stuck_logged: dict[Lane[Record], Record] = {}

    async def look(self) -> None:  # noqa: ASYNC910 - one of the duties, which may wait
        """Look once."""
        now = trio.current_time()
        self._look_for_stalls(now)
        if self._config.handler_timeout is not None:
            self._look_for_stuck(now - self._config.handler_timeout - SETTLE)

    def _look_for_stalls(self, now: float) -> None:
        for assignment in self._member.assignments:
            oldest = assignment.tracker.oldest
            if oldest is None or now - oldest.received_at < self._config.stall_warning:
                self._stalls_logged.pop(assignment.partition, None)
            elif self._stalls_logged.get(assignment.partition) != oldest.offset:
                self._stalls_logged[assignment.partition] = oldest.offset
                logger.warning(
                    "stall: %r has been incomplete for %.0f s; %d records of %s are buffered behind it or beside it",
                    oldest,
                    now - oldest.received_at,
                    len(assignment.tracker) - 1,
                    assignment.partition,
                )

    def _look_for_stuck(self, began_before: float) -> None:
        stuck = {
            lane: lane.head
            for lane in self._pool.running()
            if lane.since < began_before and not self._under_way.is_in_time(lane.head)
        }
        for lane, record in stuck.items():
            if self._stuck_logged.get(lane) is not record:
                logger.error(
                    "%r isn't done long after handler_timeout, and its lane waits: the handler doesn't react to its "
                    "cancellation, or what it resulted in isn't sent yet",
                    record,
                )
        self._stuck_logged = stuck
