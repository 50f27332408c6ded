"""What is sent, and what the broker says of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from trio_parallel_kafka.record import Headers


def _headers(given: Iterable[tuple[str, bytes | None]]) -> Headers:
    return tuple(given)


@attrs.frozen
class ProducerRecord:
    """A record to be sent.

    Attributes:
        topic: where to.
        value: what the producer's ``serialize_value`` takes; bytes, ``str`` (UTF-8) or ``None`` (a tombstone) if it
            has none.
        key: the same with ``serialize_key``. Records of one key go to one partition.
        headers: pairs of name and raw bytes or ``None``.
        partition: the partition, or ``None``: the client's partitioner chooses by key.
        timestamp: seconds since 1970, or ``None``: now.
    """

    topic: str
    value: Any = None
    key: Any = attrs.field(default=None, kw_only=True)
    headers: Headers = attrs.field(default=(), kw_only=True, converter=_headers)
    partition: int | None = attrs.field(default=None, kw_only=True)
    timestamp: float | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class RawRecord(ProducerRecord):
    """One whose key and value are bytes or ``None`` already, and go out as they are: no serialiser sees them."""


@attrs.frozen
class RecordMetadata:
    """Where the broker put a record.

    Attributes:
        topic: its topic.
        partition: its partition.
        offset: its offset there.
        timestamp: seconds since 1970 as stamped by the producer or the broker, or ``None``.
    """

    topic: str
    partition: int
    offset: int
    timestamp: float | None
