"""Records cross to worker processes, and come back, as they are."""

from __future__ import annotations

import pickle

import pytest
from confluent_kafka import Message

from trio_parallel_kafka import Record
from trio_parallel_kafka.record import next_attempt, wrap

FIELDS = [
    *("topic", "partition", "offset", "key", "value", "raw_key", "raw_value", "headers", "timestamp"),
    *("attempt", "assignment_epoch", "size", "received_at"),
]


def fetched(*, key: bytes | None, value: bytes | None, headers: list[tuple[str, str | bytes | None]] | None) -> Record:
    """A record as it comes from a client."""
    message = Message("orders", 3, 7, key, value, headers, timestamp=(1, 1_700_000_000_123))
    return wrap(message, assignment_epoch=4, received_at=2.5)


@pytest.mark.parametrize(
    "record",
    [
        fetched(key=b"a", value=b"secret", headers=[("trace", b"1"), ("trace", b"2")]),
        fetched(key=None, value=None, headers=None),
        next_attempt(fetched(key=b"a", value=b"", headers=[])),
        Record("orders", 0, 0),
        Record("orders", 1, 2, key=b"k", value=b"v", headers=(("h", None),), timestamp=1.5, attempt=3),
        fetched(key=b"a", value=b"1", headers=None).decoded({"id": 1}, [1, None]),
    ],
    ids=["whole", "empty", "second attempt", "by hand", "by hand in full", "decoded"],
)
def test_record_survives(record: Record) -> None:
    """Every field is the same on the other side, deserialised key and value included."""
    copy = pickle.loads(pickle.dumps(record, pickle.HIGHEST_PROTOCOL))
    assert {name: getattr(copy, name) for name in FIELDS} == {name: getattr(record, name) for name in FIELDS}
    assert type(copy) is type(record)
    assert repr(copy) == repr(record)


def test_copy_is_complete() -> None:
    """A record that has crossed can be tried again and decoded like any other."""
    copy = pickle.loads(pickle.dumps(fetched(key=b"a", value=b"1", headers=None)))
    assert next_attempt(copy).attempt == 2
    assert copy.decoded(None, 1).value == 1
    assert copy.decoded(None, 1).raw_value == b"1"
