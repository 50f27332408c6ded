"""What happens when the group gives partitions and takes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final

import trio

from trio_parallel_kafka.control.client import Assigned, Client, Lost, Revoked, StartAt
from trio_parallel_kafka.control.committer import Committer
from trio_parallel_kafka.control.positions import Positions, Start
from trio_parallel_kafka.control.totals import ControlTotals
from trio_parallel_kafka.core.assignments import Assignment, Phase, TopicPartition
from trio_parallel_kafka.core.member import POSITION_UNKNOWN, Member
from trio_parallel_kafka.errors import KafkaError
from trio_parallel_kafka.execution.workers import WorkerPool
from trio_parallel_kafka.failures import FINAL
from trio_parallel_kafka.record import Record

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.rebalance")

SETTLE: Final = 1.0
"""Seconds that cancelled handlers get to end, before they are named and left behind."""


class Rebalancer:
    """Opens and ends assignments.

    Args:
        client: answers, and is told.
        member: the core.
        pool: runs the handlers.
        committer: makes the last commit.
        positions: says where partitions start.
        totals: counted here.
        revoke_grace: seconds that handlers of a revoked partition get to finish.
        on_started: told when a partition has started.
    """

    def __init__(
        self,
        *,
        client: Client,
        member: Member[Record],
        pool: WorkerPool,
        committer: Committer,
        positions: Positions,
        totals: ControlTotals,
        revoke_grace: float,
        on_started: Callable[[], None],
    ) -> None:
        self._client: Final = client
        self._member: Final = member
        self._pool: Final = pool
        self._committer: Final = committer
        self._positions: Final = positions
        self._totals: Final = totals
        self._revoke_grace: Final = revoke_grace
        self._on_started: Final = on_started
        self._known_starts: dict[Assignment[Record], Start] = {}
        self._unanswered: Collection[Assignment[Record]] = ()
        self._is_leaving = False
        self._has_cancelled_all = False

    async def assigned(self, event: Assigned) -> None:
        """Open assignments, and start those whose position is to be had."""
        logger.info("assigned: %s", _names(event.partitions))
        for partition in event.partitions:
            self._drop(self._current([partition]))
            self._member.assign(partition)
        self._unanswered = self._current(event.partitions)
        starts: dict[TopicPartition, StartAt] = {}
        try:
            for assignment, start in (await self._resolve(event.partitions)).items():
                self._open(assignment, start)
                starts[assignment.partition] = StartAt(start.position, assignment.assignment_epoch)
        finally:
            self._unanswered = ()
            event.reply(starts)
        if starts:
            self._on_started()

    async def retry(self) -> None:
        """Start what couldn't be started when it was assigned, and read on where reading was given up."""
        waiting = [each for each in self._member.assignments if each.phase is Phase.STARTING]
        retried = [each.partition for each in waiting if each not in self._unanswered]
        if retried:
            await self._start_waiting(retried)
        for assignment in self._member.assignments:
            if assignment.phase is Phase.ACTIVE and assignment.pause_reason == POSITION_UNKNOWN:
                await self.reset(assignment)

    async def revoked(self, event: Revoked) -> None:
        """Stop starting, give handlers their grace, cancel them, commit, let go."""
        logger.info("revoked: %s", _names(event.partitions))
        assignments = [each for each in self._current(event.partitions) if each.phase is Phase.ACTIVE]
        try:
            for assignment in assignments:
                self._member.begin_revoke(assignment)
            with trio.move_on_after(self._revoke_grace):
                await self._pool.wait_until(lambda: self._is_leaving or not self._pool.running_on(assignments))
            if self._is_leaving:
                await self._pool.wait_until(lambda: self._has_cancelled_all or not self._pool.running_on(assignments))
            else:
                await self.cancel(assignments)
            await self._committer.commit_revoked(assignments)
        except KafkaError as error:
            logger.warning("the last commit of %s failed, it will be replayed: %s", _names(event.partitions), error)
        finally:
            self._drop(self._current(event.partitions))
            event.reply()

    async def cancel_all(self) -> None:
        """The consumer is leaving: cut every grace, and cancel all handlers."""
        self._is_leaving = True
        try:
            await self.cancel({lane.group.owner for lane in self._pool.running()})
        finally:
            self._has_cancelled_all = True
            self._pool.notify()

    def lost(self, event: Lost) -> None:
        """Cancel at once, commit nothing."""
        logger.warning("lost: %s; what was in flight or not committed is replayed", _names(event.partitions))
        self._drop(self._current(event.partitions))

    async def cancel(self, assignments: Collection[Assignment[Record]]) -> None:
        """Cancel the handlers of these, wait for them within a bound, and name those that don't end."""
        self._pool.cancel(assignments)
        with trio.move_on_after(SETTLE):
            await self._pool.wait_until(lambda: not self._pool.running_on(assignments))
        for lane in self._pool.running_on(assignments):
            logger.error("the handler of %r doesn't react to its cancellation; what it completes is ignored", lane.head)

    async def reset(self, assignment: Assignment[Record]) -> None:
        """The log doesn't hold the offset that was to be read next, or it isn't known whether it does."""
        tracker = assignment.tracker
        try:
            start = await self._positions.reset(
                assignment.partition,
                tracker.next_offset,
                incomplete_from=tracker.position,
                topic_id=assignment.topic_id,
            )
        except FINAL:
            raise
        except KafkaError as error:
            self._give_up_reading(assignment, error)
            return
        if not self._is_in(assignment, Phase.ACTIVE):
            return
        if start.goes_on:
            tracker.skip_to(start.position)
            self._totals.lost_to_retention += start.lost
            await self._read_from(assignment, start.position)
        else:
            await self._restart(assignment, start)

    async def check_topics(self) -> None:
        """Find topics that were deleted and made again under the same name, and read those from their start."""
        assignments = [each for each in self._member.assignments if each.phase is Phase.ACTIVE]
        topics = {assignment.partition.topic for assignment in assignments}
        ids = await self._client.topic_ids(topics) if topics else {}
        for assignment in assignments:
            topic_id = ids.get(assignment.partition.topic)
            if assignment.topic_id is None:
                assignment.topic_id = topic_id
            elif topic_id is not None and topic_id != assignment.topic_id:
                first, _ = await self._client.offset_range(assignment.partition)
                if self._is_in(assignment, Phase.ACTIVE):
                    logger.error("%s was deleted and made again; it is read from its start", assignment.partition)
                    await self._restart(assignment, Start(first, topic_id=topic_id))

    async def restart(self, assignment: Assignment[Record], offset: int) -> None:
        """The partition's offsets start again at ``offset``."""
        logger.error(
            "%s: offset %d came after offset %d; the log isn't the one it was",
            assignment.partition,
            offset,
            assignment.tracker.next_offset - 1,
        )
        start = min(offset, assignment.tracker.position)  # what is incomplete below is still to be handled
        await self._restart(assignment, Start(start, topic_id=assignment.topic_id))

    async def _restart(self, assignment: Assignment[Record], start: Start) -> None:
        """End the assignment as if it were lost; begin another of the same partition once its handlers have ended."""
        partition = assignment.partition
        self._drop([assignment])
        self._known_starts[self._member.assign(partition)] = start
        self._client.pause([partition])
        await self._start_waiting([partition])

    async def _start_waiting(self, partitions: Sequence[TopicPartition]) -> None:
        for assignment, start in (await self._resolve(partitions)).items():
            if self._is_in(assignment, Phase.STARTING):
                self._open(assignment, start)
                await self._read_from(assignment, start.position)
                self._on_started()

    async def _read_from(self, assignment: Assignment[Record], position: int) -> None:
        if assignment.pause_reason == POSITION_UNKNOWN:
            assignment.pause_reason = None
            self._member.pause_if_full(assignment)
        start = StartAt(position, assignment.assignment_epoch, is_paused=assignment.pause_reason is not None)
        try:
            await self._client.start(assignment.partition, start)
        except KafkaError as error:
            self._give_up_reading(assignment, error)

    @staticmethod
    def _give_up_reading(assignment: Assignment[Record], error: KafkaError) -> None:
        """Until :meth:`retry`, and visibly."""
        logger.warning("where to go on in %s isn't to be had yet: %s", assignment.partition, error)
        assignment.pause_reason = POSITION_UNKNOWN

    async def _resolve(self, partitions: Sequence[TopicPartition]) -> dict[Assignment[Record], Start]:
        """The starts that are to be had, of assignments that wait for one."""
        waiting = self._current(partitions)
        with trio.move_on_after(SETTLE):
            await self._pool.wait_until(lambda: not self._running_in(partitions))
        busy = self._running_in(partitions)
        for partition in busy:
            logger.warning("%s waits for a handler of an earlier assignment to end", partition)
        free = [each for each in waiting if each.partition not in busy]
        unknown = [each.partition for each in free if each not in self._known_starts]
        starts = await self._positions.resolve(unknown) if unknown else {}
        return {
            each: start
            for each in free
            if (start := self._known_starts.get(each, starts.get(each.partition))) is not None
        }

    def _running_in(self, partitions: Collection[TopicPartition]) -> set[TopicPartition]:
        """Those of the partitions that a handler runs in, of whichever assignment."""
        return {lane.group.owner.partition for lane in self._pool.running()}.intersection(partitions)

    @staticmethod
    def _is_in(assignment: Assignment[Record], phase: Phase) -> bool:
        """Whether nothing has happened to an assignment while something was waited for."""
        return assignment.phase is phase

    def _open(self, assignment: Assignment[Record], start: Start) -> None:
        self._known_starts.pop(assignment, None)
        self._member.start(assignment, start.position, start.completed, start.topic_id)
        if start.committed is not None:
            self._member.ledger.inherit(assignment, *start.committed)
        logger.info(
            "%s starts at offset %d, %d ranges above it are completed",
            assignment.partition,
            start.position,
            len(start.completed),
        )

    def _current(self, partitions: Collection[TopicPartition]) -> list[Assignment[Record]]:
        found = (self._member.assignments.get(partition) for partition in partitions)
        return [assignment for assignment in found if assignment is not None]

    def _drop(self, assignments: Collection[Assignment[Record]]) -> None:
        self._pool.cancel(assignments)
        for assignment in assignments:
            self._known_starts.pop(assignment, None)
            self._member.end(assignment)


def _names(partitions: Collection[TopicPartition]) -> str:
    return ", ".join(map(str, sorted(partitions))) or "nothing"
