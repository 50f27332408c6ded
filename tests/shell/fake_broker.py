"""A broker in the test's own memory: topics, and what one group has committed."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
from confluent_kafka import KafkaError as ClientError, Message

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry

Results = dict[TopicPartition, ClientError | None]


@attrs.define
class Log:
    """One partition: the first offset that is there, the next to be written, and the records, perhaps with gaps."""

    first: int = 0
    end: int = 0
    records: dict[int, Message] = attrs.field(factory=dict)


class FakeBroker:
    """Holds logs and committed offsets.

    ``delays`` (seconds) and ``errors`` (used up one by one; ``None``: this time there is none) are scripted by the
    name of the client's call. ``share`` is what a member gets when it joins.
    """

    def __init__(self, **topics: int) -> None:
        self.logs = {TopicPartition(name, n): Log() for name, count in topics.items() for n in range(count)}
        self.topic_ids = {name: bytes([number]) * 16 for number, name in enumerate(topics, 1)}
        self.group: dict[TopicPartition, tuple[int, str | None]] = {}
        self.commits: list[CommitEntry] = []
        self.share: list[TopicPartition] = list(self.logs)
        self.delays: dict[str, float] = defaultdict(float)
        self.errors: dict[str, deque[ClientError | None]] = defaultdict(deque)
        self.max_metadata = 4095
        self.generation = 1
        self.on_change: list[Callable[[], None]] = []
        self._ids = itertools.count(len(topics) + 1)

    @property
    def partition_counts(self) -> Mapping[str, int]:
        return Counter(partition.topic for partition in self.logs)

    def produce(
        self, partition: TopicPartition, keys: Iterable[str | None], *, at: int | None = None, value: bytes = b"secret"
    ) -> None:
        """Append a record for each key, from the offset ``at`` on or without a gap."""
        log = self.logs.setdefault(partition, Log())
        log.end = log.end if at is None else at
        for key in keys:
            raw = None if key is None else key.encode()
            log.records[log.end] = Message(*partition, log.end, raw, value, timestamp=(1, 1000))
            log.end += 1
        self._tell()

    def truncate(self, partition: TopicPartition, *, first: int | None = None, end: int | None = None) -> None:
        """Delete what is below ``first`` (retention), and from ``end`` on (an unclean leader election)."""
        log = self.logs[partition]
        log.first = log.first if first is None else first
        log.end = log.end if end is None else end
        log.records = {offset: each for offset, each in log.records.items() if log.first <= offset < log.end}
        self._tell()

    def recreate(self, topic: str) -> None:
        """Delete a topic and make it anew, empty."""
        self.topic_ids[topic] = bytes([next(self._ids)]) * 16
        for partition in self.logs:
            if partition.topic == topic:
                self.logs[partition] = Log()

    def take(self, entries: Sequence[CommitEntry]) -> Results:
        """A commit arrives; say what becomes of each entry."""
        error = self.next_error("commit")
        results: Results = {}
        for entry in entries:
            fits = len(entry.metadata) <= self.max_metadata
            results[entry.partition] = error if fits else ClientError(ClientError.OFFSET_METADATA_TOO_LARGE)
            if results[entry.partition] is None:
                self.group[entry.partition] = (entry.offset, entry.metadata)
                self.commits.append(entry)
        return results

    def next_error(self, call: str) -> ClientError | None:
        return self.errors[call].popleft() if self.errors[call] else None

    def _tell(self) -> None:
        for look in self.on_change:
            look()
