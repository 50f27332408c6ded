"""What serialisers get, and what becomes of what they make and of their errors."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from confluent_kafka.serialization import IntegerSerializer, MessageField, SerializationContext, StringSerializer
from shell.timed_function import Clock, Function

from trio_parallel_kafka import serialization
from trio_parallel_kafka.errors import SerializationError
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producing.encoding import Encoder

RECORD = ProducerRecord("orders", "v", key=5, headers=[("h", b"1")], partition=2, timestamp=1.5)


async def test_encoding() -> None:
    """A record to be sent gets the bytes that the serialisers made, and keeps all else."""
    encode = Encoder(IntegerSerializer(), StringSerializer())
    raw = ProducerRecord("orders", b"v", key=b"\0\0\0\5", headers=[("h", b"1")], partition=2, timestamp=1.5)
    assert await encode(RECORD) == encode.encode_here(RECORD) == raw


@pytest.mark.parametrize(("given", "raw"), [(b"b", b"b"), ("ä", b"\xc3\xa4"), (None, None), ("", b"")])
async def test_encoding_without_serialisers(given: bytes | str | None, raw: bytes | None) -> None:
    """Without serialisers, bytes and None are sent as they are, and text as UTF-8."""
    record = await Encoder(None, None)(ProducerRecord("orders", given, key=given))
    assert (record.key, record.value) == (raw, raw)


async def test_encoding_without_serialisers_is_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without serialisers, no thread is ever asked for."""
    monkeypatch.setattr(trio.to_thread, "run_sync", lambda *_, **__: pytest.fail("was called"))
    await Encoder(None, None)(ProducerRecord("orders"))


@pytest.mark.parametrize("given", [5, {"a": 1}, bytearray(b"x")])
async def test_what_needs_a_serialiser(given: Any) -> None:
    """Anything else without a serialiser is an error that names the type and what is missing."""
    with pytest.raises(SerializationError, match=r"^the value of a record for orders can't be serialised$") as caught:
        await Encoder(IntegerSerializer(), None)(ProducerRecord("orders", given, key=1))
    assert str(caught.value.__cause__) == (
        f"is {type(given).__name__}; without serialize_value it has to be bytes, str or None"
    )


async def test_what_cannot_be_serialised() -> None:
    """A serialiser's error becomes one that names field and topic, with the cause chained."""
    with pytest.raises(SerializationError, match=r"^the key of a record for orders can't be serialised$") as caught:
        await Encoder(IntegerSerializer(), None)(ProducerRecord("orders", key="x"))
    assert caught.value.__cause__ is not None
    assert caught.value.topic == "orders"


async def test_what_makes_no_bytes() -> None:
    """A serialiser that makes something else than bytes or None is an error that names its type."""
    with pytest.raises(SerializationError, match=r"^the value's serialiser made str of a record for orders, not bytes"):
        await Encoder(None, lambda data, _: data)(ProducerRecord("orders", "text"))


async def test_what_serialisers_get() -> None:
    """A serialiser gets the object, topic and field, the key's first; headers that it adds are sent."""
    got: list[tuple[Any, ...]] = []

    def serialize(data: object, context: SerializationContext) -> bytes:
        got.append((data, context.topic, context.field))
        assert isinstance(context.headers, list)
        context.headers.append((f"{context.field} schema", b"7"))
        return b"raw"

    record = await Encoder(serialize, serialize)(RECORD)
    assert got == [(5, "orders", MessageField.KEY), ("v", "orders", MessageField.VALUE)]
    assert record.headers == (("h", b"1"), ("key schema", b"7"), ("value schema", b"7"))
    assert RECORD.headers == (("h", b"1"),)


async def test_kinds_of_records_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new topic or type is looked at in a thread; another record of known ones isn't."""
    clock = Clock()
    monkeypatch.setattr(serialization, "time", clock)
    function = Function(clock)
    encode = Encoder(None, lambda data, _: function(str(data)).encode())
    for topic, value in (("orders", 1), ("orders", 2), ("orders", 2.5), ("returns", 1)):
        await encode(ProducerRecord(topic, value))
    assert function.were_inline == [False, True, False, False]
