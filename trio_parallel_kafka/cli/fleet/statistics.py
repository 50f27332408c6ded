"""What can be said about a fleet at one moment."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import attrs
from cattrs.preconf.json import make_converter

from trio_parallel_kafka.statistics import EngineStatistics, OldestRecord, PartitionStatistics, Totals

CONVERTER: Final = make_converter()
"""From statistics to JSON and back."""

CONVERTER.register_unstructure_hook(bytes, lambda key: key.decode(errors="backslashreplace"))
CONVERTER.register_structure_hook(bytes, lambda key, _type: str(key).encode())


@attrs.frozen(kw_only=True)
class OldestInFleet:
    """The record that has been incomplete for longest.

    Attributes:
        member: the index of the member that has it.
        topic: its topic.
        partition: its partition.
        record: all else about it.
    """

    member: int
    topic: str
    partition: int
    record: OldestRecord


@attrs.frozen(kw_only=True)
class MemberStatistics:
    """One member of a fleet.

    Attributes:
        index: its number, the same over restarts.
        pid: its process, or ``None`` while there is none.
        state: ``"starting"``, then that of its consumer (``"open"``, ``"running"``, ``"draining"``, ``"stopped"``,
            ``"closed"``), ``"restarting"`` while a restart is waited for, ``"ended"``.
        running_for: seconds since its consumer began to run.
        report_age: seconds since it last said anything, or began.
        restarts: how often its process was started again.
        failures_in_a_row: how often it has ended without having run well in between.
        in_flight: records that a handler of it has now.
        max_concurrency: how many that may be, or ``None`` before it has said so.
        buffered_records: records fetched and not completed.
        buffered_bytes: their keys and values, in bytes.
        poll_hop_p99: seconds that a busy loop costs its polling, 99th percentile.
        held: why it starts no handler at all.
        partitions: its partitions.
        engine: what runs its handlers, or ``None`` before it has said so.
        totals: counts since the fleet was started, over restarts.
        last_error: what ended it last, or the last trouble that its client reported, or ``None``.
    """

    index: int
    pid: int | None
    state: str
    running_for: float
    report_age: float
    restarts: int
    failures_in_a_row: int
    in_flight: int
    max_concurrency: int | None
    buffered_records: int
    buffered_bytes: int
    poll_hop_p99: float
    held: tuple[str, ...]
    partitions: tuple[PartitionStatistics, ...]
    engine: EngineStatistics | None
    totals: Totals
    last_error: str | None


@attrs.frozen(kw_only=True)
class FleetStatistics:
    """A fleet at one moment.

    Attributes:
        at: that moment, in seconds since 1970.
        state: ``"running"``, ``"draining"`` or ``"stopped"``.
        in_flight: records that handlers have now.
        buffered_records: records fetched and not completed.
        buffered_bytes: their keys and values, in bytes.
        totals: counts since the fleet was started.
        oldest_incomplete: the record that has been incomplete for longest, or ``None``.
        restarts: how often a member was started again.
        last_error: the last error of any member, or ``None``.
        members: each member.
    """

    at: float
    state: str
    in_flight: int
    buffered_records: int
    buffered_bytes: int
    totals: Totals
    oldest_incomplete: OldestInFleet | None
    restarts: int
    last_error: str | None
    members: tuple[MemberStatistics, ...]

    def as_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(CONVERTER.unstructure(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> FleetStatistics:
        """Read it back.

        Raises:
            Exception: it isn't such an object; of various kinds.
        """
        return CONVERTER.loads(text, cls)

    def as_line(self, records_per_second: float) -> str:
        """What people want to know first, on one line."""
        running = sum(member.state == "running" for member in self.members)
        partitions = sum(len(member.partitions) for member in self.members)
        state = "" if self.state == "running" else f"{self.state}: "
        parts = [
            f"{state}{running} of {_counted(len(self.members), 'member')} running, {_counted(partitions, 'partition')}",
            f"{records_per_second:,.0f} records/s",
            f"{self.totals.completed:,} completed",
            f"{self.in_flight:,} in flight",
            f"{self.buffered_records:,} buffered",
            *self._troubles(),
        ]
        return ", ".join(parts)

    def _troubles(self) -> Iterable[str]:
        """What is only worth a word if there is any."""
        totals = self.totals
        if totals.failed:
            yield f"{totals.failed:,} failed ({totals.retried:,} retried, {totals.dead_lettered:,} dead-lettered)"
        if self.oldest_incomplete is not None:
            oldest = self.oldest_incomplete
            place = f"{oldest.topic}[{oldest.partition}] offset {oldest.record.offset}, member {oldest.member}"
            yield f"oldest {oldest.record.age:.1f} s ({place})"
        if self.restarts:
            yield _counted(self.restarts, "restart")
        if self.last_error is not None:
            yield f"last error: {self.last_error}"


def sum_of(totals: Iterable[Totals]) -> Totals:
    """All counts together."""
    counted = list(totals)
    sums: dict[str, Any] = {name: sum(getattr(each, name) for each in counted) for name in attrs.fields_dict(Totals)}
    return Totals(**sums)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
