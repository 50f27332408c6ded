"""A partition of the simulated broker."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.record import Headers


@attrs.define
class Log:
    """The first offset that is there, the next to be written, and the records between, perhaps with gaps."""

    partition: TopicPartition
    first: int = 0
    end: int = 0
    records: dict[int, Message] = attrs.field(factory=dict)

    def append(self, key: bytes | None, value: bytes | None, headers: Headers = (), timestamp: float = 0.0) -> int:
        """Write a record; return its offset."""
        offset = self.end
        self.records[offset] = Message(
            *self.partition,
            offset,
            key,
            value,
            headers=list(headers) or None,
            timestamp=(TIMESTAMP_CREATE_TIME, round(timestamp * 1000)),
        )
        self.end += 1
        return offset

    def skip(self, count: int) -> None:
        """Use up offsets without a record that anybody reads: markers of transactions, and what was aborted."""
        self.end += count

    def read(self, position: int, count: int) -> Sequence[Message]:
        """The next records from an offset on."""
        offsets = (offset for offset in range(position, self.end) if offset in self.records)
        return [self.records[offset] for offset in itertools.islice(offsets, count)]

    def cut(self, first: int, end: int) -> None:
        """Keep only what is between these."""
        self.first, self.end = first, end
        self.records = {offset: each for offset, each in self.records.items() if first <= offset < end}
