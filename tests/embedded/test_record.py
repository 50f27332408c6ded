"""The record as a handler gets it from a real client, beside one made by hand."""

from __future__ import annotations

from types import NoneType
from typing import Any, get_args, get_origin

import pytest
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message, Producer
from embedded.kit import Handled, configured, handle_all

from trio_parallel_kafka import Record
from trio_parallel_kafka.record import next_attempt, wrap
from trio_parallel_kafka.testing import EmbeddedBroker
from trio_parallel_kafka.untyped_record import _TO_BE_FILLED

PUBLIC = (
    *("topic", "partition", "offset", "key", "value", "raw_key", "raw_value", "headers", "timestamp"),
    *("attempt", "assignment_epoch", "size", "received_at"),
)
SECRET = b"4111 1111 1111 1111"

PRODUCED: list[dict[str, Any]] = [
    {"key": b"k", "value": b"v", "headers": [("a", b"1"), ("b", None), ("a", b""), ("ä", b"\xff\0")]},
    {"key": None, "value": b"no key"},
    {"key": b"tombstone", "value": None},
    {"key": b"", "value": b""},
    {"key": None, "value": None},
    {"key": b"\xff\xfe\0", "value": b"\0" * 1000, "timestamp": 1_700_000_000_123},
]

MADE_BY_HAND = [
    Record("orders", 1, 0, key=b"k", value=b"v", headers=(("a", b"1"), ("b", None), ("a", b""), ("ä", b"\xff\0"))),
    Record("orders", 1, 1, value=b"no key"),
    Record("orders", 1, 2, key=b"tombstone"),
    Record("orders", 1, 3, key=b"", value=b""),
    Record("orders", 1, 4),
    Record("orders", 1, 5, key=b"\xff\xfe\0", value=b"\0" * 1000, timestamp=1_700_000_000.123),
]


async def fetched(broker: EmbeddedBroker, *produced: dict[str, Any]) -> list[Record]:
    """Send messages to a partition; give the records that the handler got of them, in order."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 0})
    for message in produced:
        producer.produce("orders", partition=1, **message)
    assert producer.flush(30) == 0
    handled: Handled = await handle_all(configured(broker, ordering="partition"), len(produced))
    return handled.records


async def test_every_field_arrives(embedded_broker: EmbeddedBroker) -> None:
    """A fetched record is, field by field, what one made by hand of the same parts is."""
    records = await fetched(embedded_broker, *PRODUCED)
    for record, by_hand in zip(records, MADE_BY_HAND, strict=True):
        for field in {*PUBLIC} - {"timestamp", "assignment_epoch", "received_at"}:
            got, expected = getattr(record, field), getattr(by_hand, field)
            assert (type(got), got) == (type(expected), expected), field
    assert records[5].timestamp == MADE_BY_HAND[5].timestamp == 1_700_000_000.123
    assert all(record.timestamp is not None and record.timestamp > 1_700_000_000 for record in records)
    assert {record.attempt for record in records} == {1}
    assert {record.assignment_epoch for record in records} <= {1, 2}
    assert all(record.received_at > 0 for record in records)


def test_defaults_of_one_made_by_hand() -> None:
    """A record made by hand has nothing that isn't given, and is a first attempt."""
    record = Record("orders", 2, 7)
    expected = ["orders", 2, 7, None, None, None, None, (), None, 1, 0, 0, 0.0]
    assert [getattr(record, field) for field in PUBLIC] == expected
    record = Record("orders", 2, 7, attempt=3, assignment_epoch=9)
    assert (record.attempt, record.assignment_epoch) == (3, 9)


def test_without_a_timestamp() -> None:
    """A message without a timestamp makes a record without one; the year 1970 is a timestamp."""
    message = Message(topic="orders", partition=0, offset=0, timestamp=(TIMESTAMP_NOT_AVAILABLE, 5))
    assert wrap(message, 1, 0.0).timestamp is None
    assert Record("orders", 0, 0, timestamp=0.0).timestamp == 0.0
    assert Record("orders", 0, 0, timestamp=-1.5).timestamp == -1.5


@pytest.mark.parametrize("key", [b"abc", b"", None])
@pytest.mark.parametrize("value", [b"12345", b"", None])
def test_size(key: bytes | None, value: bytes | None) -> None:
    """The size is that of key and value together, in bytes."""
    assert Record("orders", 0, 0, key=key, value=value).size == len(key or b"") + len(value or b"")


def test_nothing_can_be_added_to_a_record() -> None:
    """What somebody notes in one would be gone with its next attempt."""
    with pytest.raises(AttributeError):
        MADE_BY_HAND[0].note = "x"  # type: ignore[attr-defined]


def test_record_to_be_filled() -> None:
    """Compiled, ``__new__`` calls ``__init__``, which then leaves everything to whoever made the record."""
    blank: Record = Record.__new__(Record, _TO_BE_FILLED, 0, 0)  # type: ignore[call-arg]
    blank.__init__(_TO_BE_FILLED, 0, 0)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        _ = blank.offset


async def test_records_are_read_only(embedded_broker: EmbeddedBroker) -> None:
    """No public field of a record can be set or deleted."""
    for record in (*await fetched(embedded_broker, PRODUCED[0]), MADE_BY_HAND[0], MADE_BY_HAND[0].decoded(1, "a")):
        before = [getattr(record, field) for field in PUBLIC]
        for field in PUBLIC:
            with pytest.raises(AttributeError):
                setattr(record, field, getattr(record, field))
            with pytest.raises(AttributeError):
                delattr(record, field)
        record.headers + (("more", b""),)  # noqa: RUF005 - another tuple
        assert [getattr(record, field) for field in PUBLIC] == before


async def test_the_value_is_never_shown(embedded_broker: EmbeddedBroker) -> None:
    """The repr names the place and the key, but neither value nor headers."""
    (record,) = await fetched(embedded_broker, {"key": b"k1", "value": SECRET, "headers": [("token", SECRET)]})
    by_hand = Record("orders", 1, 0, key=b"k1", value=SECRET, headers=(("token", SECRET),))
    assert repr(by_hand) == str(by_hand) == "<Record orders[1]@0 key=b'k1' attempt=1 assignment_epoch=0>"
    assert repr(record).startswith("<Record orders[1]@0 key=b'k1' attempt=1 assignment_epoch=")
    assert SECRET.decode() not in repr(record) + str(record)


async def test_a_decoded_record(embedded_broker: EmbeddedBroker) -> None:
    """A decoded record has other objects for key and value, and else all that the raw one has."""
    (fetched_one,) = await fetched(embedded_broker, PRODUCED[0])
    for raw in (fetched_one, Record("orders", 1, 0, key=b"k", value=b"v", attempt=3, assignment_epoch=9)):
        decoded: Record[int, list[str]] = raw.decoded(5, ["tea"])
        assert (decoded.key, decoded.value) == (5, ["tea"])
        assert (decoded.raw_key, decoded.raw_value) == (raw.key, raw.value) == (b"k", b"v")
        for field in {*PUBLIC} - {"key", "value"}:
            assert getattr(decoded, field) == getattr(raw, field), field
        again = decoded.decoded(None, raw)
        assert (again.key, again.value, again.raw_key) == (None, raw, b"k")


def test_the_repr_of_a_decoded_record() -> None:
    """It shows the raw key, and nothing that a deserialiser made."""
    decoded = Record("orders", 1, 0, key=b"k1", value=SECRET).decoded(SECRET, SECRET)
    assert repr(decoded) == "<Record orders[1]@0 key=b'k1' attempt=1 assignment_epoch=0>"


def test_a_long_key_is_cut_where_it_is_shown() -> None:
    """Messages name a record by its key, and have to stay readable when that is a megabyte."""
    assert f"key={bytes(100)!r} attempt" in repr(Record("orders", 1, 0, key=bytes(100)))
    assert f"key={bytes(100)!r}... (1000000 bytes) attempt" in repr(Record("orders", 1, 0, key=bytes(1_000_000)))
    assert "key=None" in repr(Record("orders", 1, 0))


def test_the_next_attempt() -> None:
    """The record of the next attempt counts one more, and is the same otherwise; the given one stays as it is."""
    record = Record("orders", 1, 0, key=b"k", value=b"v", attempt=3, assignment_epoch=9)
    again = next_attempt(record)
    assert (record.attempt, again.attempt, next_attempt(again).attempt) == (3, 4, 5)
    for field in {*PUBLIC} - {"attempt"}:
        assert getattr(again, field) == getattr(record, field), field


def test_a_generic_class() -> None:
    """A record's type takes those of key and value; one left out is that of raw bytes."""
    assert Record[int] == Record[int, bytes | None]
    assert get_origin(Record[int, str]) is Record
    assert get_args(Record[None, int]) == (NoneType, int)
    assert f"{Record[int, str]}" == "trio_parallel_kafka.record.Record[int, str]"
    with pytest.raises(TypeError, match="two types"):
        Record[int, str, float]  # type: ignore[misc]
