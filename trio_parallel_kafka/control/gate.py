"""Whether records may be dispatched: paused by hand, or by a breaker because too much fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final

import trio

from trio_parallel_kafka.config import BreakerPolicy
from trio_parallel_kafka.core.assignments import Assignment, TopicPartition
from trio_parallel_kafka.core.breaker import BUCKETS, Breaker, BreakerState
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.execution.tally import Tally
from trio_parallel_kafka.execution.visits import BREAKER, Probing
from trio_parallel_kafka.record import Record

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.gate")

PAUSED: Final = "paused"
"""What holds the scheduler, or a partition, while the application has paused it."""


class Gate:
    """Stops dispatch, and lets it go on. What handlers have goes on in any case.

    Args:
        member: the core.
        tally: says how many records were completed.
        policy: when the breaker opens; ``None``: never.
        on_changed: told when more may be dispatched, or when :meth:`next_due` is nearer.
    """

    def __init__(
        self,
        member: Member[Record],
        tally: Tally,
        policy: BreakerPolicy | None,
        on_changed: Callable[[], None],
    ) -> None:
        self._member: Final = member
        self._tally: Final = tally
        self._policy: Final = policy
        self._on_changed: Final = on_changed
        self._breaker: Final = None if policy is None else _breaker(policy)
        self._paused: set[TopicPartition] = set()
        self.probing: Final = Probing(self._probe_begins, self._probe_ended)

    # By hand

    def pause(self, partitions: Collection[TopicPartition] | None) -> None:
        """Dispatch nothing, or nothing of these partitions, whether they are assigned or will be."""
        if partitions is None:
            self._member.lanes.hold(PAUSED)
            return
        self._paused.update(partitions)
        for assignment in self._member.assignments:
            self.began(assignment)

    def resume(self, partitions: Collection[TopicPartition] | None) -> None:
        """Dispatch these again, or everything."""
        if partitions is None:
            self._member.lanes.release(PAUSED)
            self._paused.clear()
        else:
            self._paused.difference_update(partitions)
        for assignment in self._member.assignments:
            if assignment.partition not in self._paused:
                self._member.lanes.release_group(assignment.lanes)
        self._on_changed()

    def began(self, assignment: Assignment[Record]) -> None:
        """An assignment may be of a partition that is paused."""
        if assignment.partition in self._paused:
            self._member.lanes.hold_group(assignment.lanes)

    # By the breaker

    def attempt_failed(self) -> None:
        """An attempt raised, or took too long."""
        if self._breaker is not None and self._breaker.failed(trio.current_time(), self._succeeded):
            logger.error(
                "the circuit is open: %d of the last %d attempts failed; nothing is dispatched, and in %.1f s a single "
                "record tries again",
                self._breaker.failures,
                self._breaker.attempts,
                self._policy.probe_interval,  # type: ignore[union-attr]  # there is one for each breaker
            )
            self._member.lanes.hold(BREAKER)
            self._on_changed()

    def next_due(self) -> float | None:
        """When :meth:`look` has to be called next."""
        if self._breaker is None or self.probing.is_allowed:
            return None
        return self._breaker.next_due

    def look(self, now: float) -> None:
        """Let a record through if it is time; the caller has a worker look for it."""
        if self._breaker is not None and self._breaker.may_probe(now):
            self.probing.is_allowed = True

    @property
    def look_every(self) -> float | None:
        """Seconds between two calls of :meth:`observe`; ``None``: there is nothing to observe."""
        return None if self._policy is None else self._policy.window / BUCKETS

    async def observe(self) -> None:  # noqa: ASYNC910 - one of the duties, which may wait
        """Take what was completed into account."""
        if self._breaker is not None and self._breaker.state is BreakerState.CLOSED:
            self._breaker.observe(trio.current_time(), self._succeeded)

    @property
    def _succeeded(self) -> int:
        """How many records were completed because a handler did its work."""
        return self._tally.completed - self._tally.skipped - self._tally.dead_lettered

    def _probe_begins(self) -> None:
        assert self._breaker is not None  # noqa: S101 - it has let the probe through
        self._breaker.begin_probe()

    def _probe_ended(self, well: bool | None) -> None:  # noqa: FBT001 - three ways to end
        assert self._breaker is not None  # noqa: S101 - it has let the probe through
        now = trio.current_time()
        if well is None:
            self._breaker.probe_dropped(now)
        elif well:
            logger.info("the circuit is closed again")
            self._breaker.probe_succeeded(now, self._succeeded)
            self._member.lanes.release(BREAKER)
        else:
            logger.warning("the circuit stays open: the record that tried has failed")
            self._breaker.probe_failed(now)
        self._on_changed()


def _breaker(policy: BreakerPolicy) -> Breaker:
    return Breaker(
        failure_rate=policy.failure_rate,
        min_attempts=policy.min_attempts,
        window=policy.window,
        probe_interval=policy.probe_interval,
        now=trio.current_time(),
    )
