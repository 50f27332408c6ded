"""A simulated broker whose one group does what the test says: nothing moves by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import KafkaError as ClientError

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.testing.history import History
from trio_parallel_kafka.testing.simulation.broker import SimulatedBroker
from trio_parallel_kafka.testing.simulation.group import Group, GroupMember, Membership, Results


class Taken(NamedTuple):
    """A commit that the broker took."""

    partition: TopicPartition
    offset: int
    metadata: str


class ScriptedGroup(Group):
    """Gives each member that joins ``share``; all else is the test's."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.share: list[TopicPartition] = []
        self.taken: list[Taken] = []

    def join(self, member: GroupMember) -> None:
        self.members[member] = Membership(member, generation=self.generation)
        member.call_back(assign=self.share, generation=self.generation)

    def next_generation(self) -> int:
        """The group moves on, and its members with it."""
        self.generation += 1
        for each in self.members.values():
            each.generation = self.generation
        return self.generation

    def commit(self, member_id: str, entries: Iterable[tuple[Any, int, Any]], error: ClientError | None) -> Results:
        entries = list(entries)
        results = super().commit(member_id, entries, error)
        self.taken += [Taken(*each) for each in entries if results[each[0]] is None]
        return results


class ScriptedBroker(SimulatedBroker):
    """The broker; made outside of a run, too."""

    def __init__(self, **topics: int) -> None:
        def start_soon(*_: object) -> None:
            raise AssertionError("nothing happens by itself here")

        super().__init__(start_soon, History(clock=lambda: 0.0))
        self.is_open = False  # nobody's session ends by itself
        self.one_group = ScriptedGroup(self.matching, self.network, self.history)
        for name, count in topics.items():
            self.create_topic(name, count)
        self.share = list(self.logs)

    def group(self, group_id: str) -> ScriptedGroup:
        return self.one_group

    @property
    def share(self) -> list[TopicPartition]:
        """What a member gets when it joins."""
        return self.one_group.share

    @share.setter
    def share(self, partitions: list[TopicPartition]) -> None:
        self.one_group.share = partitions

    def add(
        self, partition: TopicPartition, keys: Iterable[str | None], *, at: int | None = None, value: bytes = b"secret"
    ) -> None:
        """Append a record for each key, from the offset ``at`` on or without a gap."""
        while partition not in self.logs:
            self.create_topic(partition.topic, self.partition_counts[partition.topic] + 1)
        log = self.logs[partition]
        log.end = log.end if at is None else at
        for key in keys:
            self.produce(partition.topic, value, key=key, partition=partition.partition, timestamp=1.0)
        self._tell()
