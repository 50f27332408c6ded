"""Records of every extreme that Kafka knows, and a handler that copies them, which worker processes can import."""

from __future__ import annotations

import random
from typing import Any, Final, NamedTuple

import attrs
from broker.cluster import NewRecord
from confluent_kafka import Message

from trio_parallel_kafka import ProducerRecord, Record

LARGE: Final = 10_000_000
"""Bytes of a large value."""

LONG_KEY: Final = random.Random(0).randbytes(1024 * 1024)
"""By itself it is as large as brokers let a record be, unless they are told otherwise."""

LIMIT: Final = LARGE + len(LONG_KEY) + 50_000
"""Bytes that a topic has to allow for the largest of them, headers of a dead letter included."""

MANY_HEADERS: Final = tuple(
    ("the same" if n % 2 else f"h\u00e9ader-{n}", (b"", None, b"%d" % n, b"\xff\x00" * n)[n % 4]) for n in range(1_000)
)


class Content(NamedTuple):
    """What has to arrive as it was produced."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def __repr__(self) -> str:
        """Short, where an assertion fails."""
        sizes = [None if each is None else f"{each[:10]!r}.. ({len(each)})" for each in (self.key, self.value)]
        return f"<key {sizes[0]}, value {sizes[1]}, {len(self.headers)} headers>"


def extremes() -> list[NewRecord]:
    """Large ones, long and empty keys and values, none at all, many headers; small ones between."""
    records: list[NewRecord] = []
    for turn in range(2):
        odd = [
            NewRecord(LONG_KEY, b"a long key"),
            NewRecord(b"", b"an empty key"),
            NewRecord(b"large", random.Random(1).randbytes(LARGE if turn == 0 else 10)),
            NewRecord(None, b"no key"),
            NewRecord(b"", None),
            NewRecord(b"tombstone", None),
            NewRecord(b"nothing", b""),
            NewRecord(None, None),
            NewRecord(b"headers", b"many", 0, MANY_HEADERS),
            NewRecord(None, None, 0, MANY_HEADERS),
        ]
        for each in odd:
            records += [each, *(NewRecord(b"small-%d" % n, b"%d" % len(records)) for n in range(5))]
    return [*records, NewRecord(LONG_KEY, random.Random(2).randbytes(LARGE))]


def produced(record: NewRecord | ProducerRecord) -> Content:
    """What is produced."""
    return Content(record.key, record.value, tuple(record.headers))


def arrived(record: Record) -> Content:
    """What has arrived."""
    return Content(record.key, record.value, record.headers)


def written(message: Message, *, without: str = "kafka_") -> Content:
    """What stands in a topic, but for headers whose names begin so."""
    headers: list[tuple[str, Any]] = message.headers() or []  # type: ignore[assignment]  # of bytes, for a consumer
    return Content(message.key(), message.value(), tuple(each for each in headers if not each[0].startswith(without)))


@attrs.frozen
class Copy:
    """A handler whose result is its record as it is.

    Attributes:
        output: the topic that it goes to.
    """

    output: str

    def __call__(self, record: Record) -> ProducerRecord:
        return ProducerRecord(self.output, record.value, key=record.key, headers=record.headers)
