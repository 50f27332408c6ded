"""From a raw record to what a handler with deserialisers gets.

It is a decorator around a handler of raw records: lanes, retries and dead letters know raw records alone, and
without deserialisers nothing is put around the handler at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Final, ParamSpec

from confluent_kafka.serialization import MessageField, SerializationContext

from trio_parallel_kafka.config.model import Deserializer
from trio_parallel_kafka.errors import SerializationError
from trio_parallel_kafka.outcomes import Outcome
from trio_parallel_kafka.record import Record
from trio_parallel_kafka.serialization import Conversion, place_of

Rest = ParamSpec("Rest")
_Headers = list[tuple[str, str | bytes | None]]

_ID_LENGTHS: Final = {0: 5, 1: 17}
"""By its first byte, how long a registry's framing is: 0 and a number of 4 bytes, or 1 and a UUID."""


class Decoder:
    """Deserialises records.

    Args:
        deserialize_key: makes an object of a raw key; without it, keys stay raw.
        deserialize_value: the same of a value.
    """

    def __init__(self, deserialize_key: Deserializer | None, deserialize_value: Deserializer | None) -> None:
        self._deserialize_key: Final = deserialize_key
        self._deserialize_value: Final = deserialize_value
        self._decode: Final = Conversion(self._decode_here, place_of(deserialize_key, deserialize_value))

    async def __call__(self, record: Record) -> Record[Any, Any]:
        """Give the record with deserialised key and value.

        A deserialiser that may block is called in a thread. For what a cancellation does, see :class:`.Conversion`.

        Raises:
            SerializationError: the key or the value can't be deserialised.
            Outcome: a deserialiser decided so.
        """
        headers: _Headers = list(record.headers)
        kind = (
            record.topic,
            self._deserialize_key and schema_of(record.raw_key, "__key_schema_id", headers),
            self._deserialize_value and schema_of(record.raw_value, "__value_schema_id", headers),
        )
        return await self._decode(kind, record, headers)

    def _decode_here(self, record: Record, headers: _Headers) -> Record[Any, Any]:
        key, value = record.raw_key, record.raw_value
        # The key first: confluent-kafka's deserialisers of values look at what was done for the key.
        if self._deserialize_key is not None:
            key = _deserialize(self._deserialize_key, key, MessageField.KEY, record, headers)
        if self._deserialize_value is not None:
            value = _deserialize(self._deserialize_value, value, MessageField.VALUE, record, headers)
        return record.decoded(key, value)


def decoding(
    handler: Callable[Concatenate[Any, Rest], Awaitable[object]],
    deserialize_key: Deserializer | None,
    deserialize_value: Deserializer | None,
) -> Callable[Concatenate[Any, Rest], Awaitable[object]]:
    """Make what takes raw records of what takes deserialised ones; without deserialisers, they are the same."""
    if deserialize_key is None and deserialize_value is None:
        return handler
    decode = Decoder(deserialize_key, deserialize_value)

    async def decode_and_handle(record: Any, /, *rest: Rest.args, **named: Rest.kwargs) -> object:
        return await handler(await decode(record), *rest, **named)

    return decode_and_handle


def schema_of(data: bytes | None, header: str, headers: _Headers) -> bytes | None:
    """The schema that confluent-kafka's serialisers named in a header of this name, or in front of the data."""
    for name, value in headers:
        if name == header and isinstance(value, bytes):
            data = value
            break
    if not data:
        return None
    length = _ID_LENGTHS.get(data[0])
    return data[:length] if length is not None and len(data) >= length else None


def _deserialize(
    function: Deserializer, data: bytes | None, field: MessageField, record: Record, headers: _Headers
) -> Any:
    try:
        return function(data, SerializationContext(record.topic, field, headers))
    except Outcome:
        raise
    except Exception as error:
        raise SerializationError(
            f"the {field} of {record.topic}[{record.partition}]@{record.offset} can't be deserialised",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        ) from error
