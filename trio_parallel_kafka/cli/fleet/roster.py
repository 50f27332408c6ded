"""What is known of each member, and of all together."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Final

import attrs
import trio

from trio_parallel_kafka.cli.fleet.report import MemberReport
from trio_parallel_kafka.cli.fleet.statistics import (
    FleetStatistics,
    MemberStatistics,
    OldestInFleet,
    sum_of,
)
from trio_parallel_kafka.statistics import Totals

STARTING: Final = "starting"
RESTARTING: Final = "restarting"
RUNNING: Final = "running"
DRAINING: Final = "draining"
STOPPED: Final = "stopped"
ENDED: Final = "ended"

NOTHING_YET: Final = MemberReport()


class MemberEntry:
    """What is known of one member.

    Attributes:
        index: its number.
        pid: its process, or ``None`` while there is none.
        failures_in_a_row: how often it has ended without having run well in between.
        has_begun: it could handle records once, perhaps before a restart.
        failure: what ended it, as it said itself, or ``None``.
        last_error: the last error that was heard of, or ``None``.
        last_error_at: when that was, on Trio's clock.
    """

    def __init__(self, index: int) -> None:
        self.index: Final = index
        self.pid: int | None = None
        self.failures_in_a_row: int = 0
        self.has_begun: bool = False
        self.failure: str | None = None
        self.last_error: str | None = None
        self.last_error_at: float = -math.inf
        self._phase = STARTING
        self._report = NOTHING_YET
        self._reported_at = trio.current_time()
        self._starts = 0
        self._past = Totals()

    def started(self, pid: int) -> None:
        """Its process has been started."""
        self._starts += 1
        self.pid = pid
        self._phase = STARTING
        self._report = NOTHING_YET
        self._reported_at = trio.current_time()
        self.failure = None

    def take(self, report: MemberReport) -> None:
        """It has said something. With its last words it doesn't repeat the rest."""
        self._reported_at = trio.current_time()
        if report.failure is not None:
            self.fails(report.failure)
            return
        self._report = report
        self.has_begun = self.has_begun or report.has_begun
        if report.statistics is not None:
            self._phase = report.statistics.state
            self._note_error(report.statistics.last_error)

    def fails(self, why: str) -> None:
        """This ends it."""
        self.failure = why
        self._note_error(why)

    def ended_so(self, how: str) -> None:
        """It couldn't say itself how it ended."""
        self._note_error(how)

    def ended(self) -> None:
        """Its process is gone."""
        self._past = self._totals
        self._report = attrs.evolve(self._report, statistics=None)
        self.pid = None
        self._phase = ENDED

    def waits_for_restart(self, well_after: float) -> None:
        """It ended before its time, and will be started again.

        Args:
            well_after: seconds that it had to run for this to count as the first failure in a row.
        """
        ran_well = self._report.running_for >= well_after
        self.failures_in_a_row = 1 if ran_well else self.failures_in_a_row + 1
        self._phase = RESTARTING

    def stays_ended(self) -> None:
        """It won't be started again after all."""
        self._phase = ENDED

    def _note_error(self, error: str | None) -> None:
        if error is not None and error != self.last_error:
            self.last_error = error
            self.last_error_at = trio.current_time()

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self._starts - 1)

    @property
    def _totals(self) -> Totals:
        now = self._report.statistics
        return self._past if now is None else sum_of([self._past, now.totals])

    def statistics(self) -> MemberStatistics:
        """All that as it is now."""
        now = self._report.statistics
        return MemberStatistics(
            index=self.index,
            pid=self.pid,
            state=self._phase,
            running_for=self._report.running_for,
            report_age=trio.current_time() - self._reported_at,
            restarts=self.restarts,
            failures_in_a_row=self.failures_in_a_row,
            in_flight=now.in_flight if now else 0,
            max_concurrency=now.max_concurrency if now else None,
            buffered_records=now.buffered_records if now else 0,
            buffered_bytes=now.buffered_bytes if now else 0,
            poll_hop_p99=now.poll.hop_p99 if now else 0.0,
            held=now.held if now else (),
            partitions=now.partitions if now else (),
            engine=now.engine if now else None,
            totals=self._totals,
            last_error=self.last_error,
        )


@attrs.define
class Roster:
    """All members.

    Attributes:
        entries: what is known of each.
        state: that of the fleet as a whole.
    """

    entries: tuple[MemberEntry, ...]
    state: str = RUNNING

    def snapshot(self) -> FleetStatistics:
        """Everything at this moment."""
        members = tuple(entry.statistics() for entry in self.entries)
        return FleetStatistics(
            at=time.time(),
            state=self.state,
            in_flight=sum(member.in_flight for member in members),
            buffered_records=sum(member.buffered_records for member in members),
            buffered_bytes=sum(member.buffered_bytes for member in members),
            totals=sum_of(member.totals for member in members),
            oldest_incomplete=max(_oldest(members), key=lambda oldest: oldest.record.age, default=None),
            restarts=sum(member.restarts for member in members),
            last_error=max(self.entries, key=lambda entry: entry.last_error_at).last_error,
            members=members,
        )


def _oldest(members: Iterable[MemberStatistics]) -> Iterator[OldestInFleet]:
    for member in members:
        for each in member.partitions:
            if each.oldest_incomplete is not None:
                yield OldestInFleet(
                    member=member.index, topic=each.topic, partition=each.partition, record=each.oldest_incomplete
                )
