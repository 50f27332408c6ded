"""What is looked at while a run goes on, whenever a handler begins or ends: bounds, pauses, deadlines, graces."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import trio
from simulation.schedule import Schedule

from trio_parallel_kafka import ConsumerStatistics, ParallelConsumer, PartitionStatistics, Record, Retry, Skip
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.testing.simulation import SimulatedBroker
from trio_parallel_kafka.testing.simulation.client import SimulatedClient

SHUTDOWN_TIMEOUT: Final = 0.5
"""Seconds that a member that is to stop gives its handlers."""

STUBBORN: Final = 0.2
"""Seconds for which some handlers go on after they were cancelled."""

ENDS_MEMBERS: Final = {
    "commit fails for good",
    "produce fails",
    "transaction fails",
    "transaction is silent",
    "broker is down",
}
"""Troubles that may end a member at once, without its handlers' doing."""

EPSILON: Final = 1e-4
"""Seconds by which sums of floats may differ, and a timeout may be late."""


class Looks:
    """Looks at members from within their handlers.

    Args:
        schedule: what is being run.
        consumers: the members' consumers, by name.
        problems: what is found goes here.
        group_id: the group that they are in.

    Attributes:
        broker: the broker that they are at.
        stopped_at: when each was told to stop.
        cut_short: those that were killed or cancelled.
        swallowed: the places of records whose handler returned though it was cancelled.
    """

    def __init__(
        self, schedule: Schedule, consumers: Mapping[str, ParallelConsumer], problems: list[str], group_id: str
    ) -> None:
        self.broker: SimulatedBroker
        self.stopped_at: Final[dict[str, float]] = {}
        self.cut_short: Final[set[str]] = set()
        self.swallowed: Final[set[tuple[int, int]]] = set()
        self.last_begun_at = 0.0
        self._schedule: Final = schedule
        self._consumers: Final = consumers
        self._problems: Final = problems
        self._group_id: Final = group_id
        self._running: Final[Counter[str]] = Counter()
        self._paused: Final[defaultdict[str, set[int | None]]] = defaultdict(set)
        self._failed: Final[set[str]] = set()
        self._may_have_failed: Final[set[str]] = set()
        self._lost_since: Final[defaultdict[str, dict[int, float]]] = defaultdict(dict)

    def life_begins(self, name: str) -> None:
        """A consumer of this name is opened; what an earlier one did doesn't count."""
        self._running[name] = 0
        self._paused.pop(name, None)
        self._failed.discard(name)
        self._may_have_failed.discard(name)
        self.stopped_at.pop(name, None)
        self.cut_short.discard(name)
        self._lost_since.pop(name, None)

    @property
    def is_anything_running(self) -> bool:
        """Whether a handler is."""
        return any(self._running.values())

    # Pauses

    def paused(self, name: str, partition: int | None) -> None:
        """A member was told to pause a partition, or everything."""
        self._paused[name].add(partition)

    def resumed(self, name: str, partition: int | None) -> None:
        """The same, to resume."""
        if partition is None:
            self._paused[name].clear()
        else:
            self._paused[name].discard(partition)

    # Handlers

    @contextmanager
    def handling(self, name: str, records: Sequence[Record]) -> Iterator[None]:
        """Look when a handler begins, and when it ends."""
        began = self.last_begun_at = trio.current_time()
        self._running[name] += 1
        self._begins(name, records)
        try:
            yield
        except trio.Cancelled:
            self._is_cancelled(name, records, began)
            raise
        except Exception as error:
            self._raises(name, records, error)
            raise
        finally:
            self._running[name] -= 1
            self._ends(name, records, began)

    def look(self) -> None:
        """Look at what is buffered."""
        for name in self._consumers:
            self._look_at(name, self._consumers[name].statistics())

    def _begins(self, name: str, records: Sequence[Record]) -> None:
        if self._running[name] > self._schedule.max_concurrency:
            self._problems.append(f"{name} runs {self._running[name]} handlers at once")
        if name in self._failed:
            self._problems.append(f"{name} starts {records[0]} although a handler of it has failed for good")
        if self._paused[name] & {None, *(each.partition for each in records)}:
            self._problems.append(f"{name} starts {records[0]} although it is paused")
        self._is_owned(name, records)
        statistics = self._consumers[name].statistics()
        self._look_at(name, statistics)
        for each in _partitions_of(statistics, records):
            if each.phase != "active":
                self._problems.append(f"{name} starts {records[0]} although its partition is {each.phase}")

    def _is_owned(self, name: str, records: Sequence[Record]) -> None:
        """What is lost is dropped at once; but in which order tasks run at that moment isn't said."""
        now, client = trio.current_time(), self._client_of(name)
        for each in records:
            if client is not None and TopicPartition(each.topic, each.partition) not in client.owned:
                lost_at = self._lost_since[name].setdefault(each.assignment_epoch, now)
                if lost_at < now:
                    self._problems.append(f"{name} starts {each} although its partition is lost")

    def _look_at(self, name: str, statistics: ConsumerStatistics) -> None:
        """See to it that the bounds are kept."""
        for each in statistics.partitions:
            if each.buffered_records > self._schedule.max_buffered_records:
                self._problems.append(f"{name} has {each.buffered_records} of partition {each.partition} buffered")

    def _ends(self, name: str, records: Sequence[Record], began: float) -> None:
        timeout, took = self._schedule.handler_timeout, trio.current_time() - began
        if timeout is not None and took > timeout + STUBBORN * len(records) + EPSILON:
            self._problems.append(f"{name} lets the handler of {records[0]} run for {took:.3f} s")

    def may_end(self, name: str) -> None:
        """A record has failed, or its handler has decided: that may be the end of its member."""
        self._may_have_failed.add(name)

    def _raises(self, name: str, records: Sequence[Record], error: Exception) -> None:
        self.may_end(name)
        schedule = self._schedule
        is_judged_at_once = schedule.max_attempts is None and schedule.batch_scope is None
        if schedule.on_failure == "raise" and is_judged_at_once and not isinstance(error, Retry | Skip):
            phases = {each.phase for each in _partitions_of(self._consumers[name].statistics(), records)}
            if phases == {"active"}:  # else it may have been cancelled, and says nothing of its record
                self._failed.add(name)

    def _is_cancelled(self, name: str, records: Sequence[Record], began: float) -> None:
        """A handler of a member that goes on, or is to stop, gets the time that was promised."""
        now = trio.current_time()
        timeout = self._schedule.handler_timeout
        if timeout is not None and now - began >= timeout - EPSILON:
            self.may_end(name)
            return
        if name not in self._consumers or name in self.cut_short:
            return
        statistics = self._consumers[name].statistics()
        phases = {each.phase for each in _partitions_of(statistics, records)}
        asked_at = self._asked_to_let_go_at(name)
        left = 0.0
        if statistics.state == "running" and phases == {"revoking"} and asked_at is not None:
            left = asked_at + self._schedule.revoke_grace - now
        elif statistics.state == "draining" and phases == {"active"} and self._is_only_stopping(name):
            left = self.stopped_at[name] + SHUTDOWN_TIMEOUT - now
        if left > EPSILON:
            self._problems.append(f"{name} cancels the handler of {records[0]} {left:.3f} s too early")

    def _is_only_stopping(self, name: str) -> bool:
        is_in_trouble = any(trouble.kind in ENDS_MEMBERS for trouble in self._schedule.troubles)
        return name in self.stopped_at and name not in self._may_have_failed and not is_in_trouble

    def _asked_to_let_go_at(self, name: str) -> float | None:
        client = self._client_of(name)
        letting_go = None if client is None else client.group.members[client].letting_go
        if client is None or letting_go is None:
            return None
        return letting_go.deadline - client.settings.max_poll_interval

    def _client_of(self, name: str) -> SimulatedClient | None:
        """What a member is a member with, while it is one."""
        members = self.broker.members(self._group_id)
        return next((each for each in members if each.settings.member_id == name), None)


def _partitions_of(statistics: ConsumerStatistics, records: Sequence[Record]) -> list[PartitionStatistics]:
    """What is said of the assignments of these records; nothing of those that have ended."""
    epochs = {each.assignment_epoch for each in records}
    return [each for each in statistics.partitions if each.assignment_epoch in epochs]
