"""From a raw record to the arguments of the client's ``produce()``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from trio_parallel_kafka.config.librdkafka import is_c_text
from trio_parallel_kafka.produced import ProducerRecord

_UNASSIGNED: Final = -1
_NOW: Final = 0
"""What the client takes for a timestamp that isn't given."""

_MAX_PARTITION: Final = 2**31 - 1

_MAX_TIMESTAMP: Final = 2.0**53
"""Seconds; in milliseconds they still fit into the 64 bits that a record has for them."""


def produce_arguments(record: ProducerRecord) -> dict[str, Any]:
    """The arguments, all but the callback.

    Raises:
        ValueError: topic, partition, timestamp, or a header's name isn't one.
    """
    _check(record.topic, record.partition, record.headers)
    return {
        "topic": record.topic,
        "value": record.value,
        "key": record.key,
        "partition": _UNASSIGNED if record.partition is None else record.partition,
        "timestamp": _NOW if record.timestamp is None else _milliseconds(record.timestamp),
        "headers": list(record.headers),
    }


def _check(topic: Any, partition: Any, headers: Iterable[tuple[Any, ...]]) -> None:
    """Refuse what isn't of its type, and what the client would cut or crash at."""
    if not isinstance(topic, str):
        message = f"a topic must be text, is {topic!r}"
        raise ValueError(message)  # noqa: TRY004 - what a record can't have, whatever is wrong with it
    if partition is not None and (not isinstance(partition, int) or not -1 <= partition <= _MAX_PARTITION):
        message = f"a partition must be a number from 0 to {_MAX_PARTITION}, or None, is {partition!r}"
        raise ValueError(message)
    for name, *_ in headers:
        # The client makes text of anything, cuts that at a NUL, and crashes if it can't be encoded.
        if not isinstance(name, str) or not is_c_text(name):
            message = f"a header's name must be text that UTF-8 can encode, without NUL, is {name!r}"
            raise ValueError(message)


def is_timestamp(timestamp: float | None) -> bool:
    """Whether these seconds can be sent; brokers may hold others."""
    return timestamp is None or 0 <= timestamp < _MAX_TIMESTAMP


def _milliseconds(timestamp: float) -> int:
    if not is_timestamp(timestamp):
        message = f"timestamp must be seconds since 1970, is {timestamp!r}"
        raise ValueError(message)
    return max(1, round(timestamp * 1000))  # the client takes 0 for "now"
