"""From a raw record to the arguments of the client's ``produce()``."""

from __future__ import annotations

from typing import Any, Final

from trio_parallel_kafka.produced import ProducerRecord

_UNASSIGNED: Final = -1
_NOW: Final = 0
"""What the client takes for a timestamp that isn't given."""

_MAX_TIMESTAMP: Final = 2.0**53
"""Seconds; in milliseconds they still fit into the 64 bits that a record has for them."""


def produce_arguments(record: ProducerRecord) -> dict[str, Any]:
    """The arguments, all but the callback.

    Raises:
        ValueError: the timestamp isn't one.
    """
    return {
        "topic": record.topic,
        "value": record.value,
        "key": record.key,
        "partition": _UNASSIGNED if record.partition is None else record.partition,
        "timestamp": _NOW if record.timestamp is None else _milliseconds(record.timestamp),
        "headers": list(record.headers),
    }


def _milliseconds(timestamp: float) -> int:
    if not 0 <= timestamp < _MAX_TIMESTAMP:
        message = f"timestamp must be seconds since 1970, is {timestamp!r}"
        raise ValueError(message)
    return max(1, round(timestamp * 1000))  # the client takes 0 for "now"
