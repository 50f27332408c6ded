"""From what a user sends to the bytes that the client sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from confluent_kafka.serialization import MessageField, SerializationContext

from trio_parallel_kafka.errors import SerializationError
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.record import Headers
from trio_parallel_kafka.serialization import Conversion, place_of

_Headers = list[tuple[str, str | bytes | None]]


class Encoder:
    """Serialises records to be sent.

    Args:
        serialize_key: makes bytes of a key; without it, keys are bytes, ``str`` (sent as UTF-8) or ``None``.
        serialize_value: the same of a value.
    """

    def __init__(
        self,
        serialize_key: Callable[[Any, SerializationContext], bytes | None] | None,
        serialize_value: Callable[[Any, SerializationContext], bytes | None] | None,
    ) -> None:
        self._serialize_key: Final = serialize_key or _as_bytes
        self._serialize_value: Final = serialize_value or _as_bytes
        self._encode: Final = Conversion(self.encode_here, place_of(serialize_key, serialize_value))

    async def __call__(self, record: ProducerRecord) -> ProducerRecord:
        """Give the record with raw key, value and headers (which a serialiser may add to).

        A serialiser that may block is called in a thread. For what a cancellation does, see :class:`.Conversion`.

        Raises:
            SerializationError: the key or the value can't be serialised.
        """
        return await self._encode((record.topic, type(record.key), type(record.value)), record)

    def encode_here(self, record: ProducerRecord) -> ProducerRecord:
        """Do the same at once, however long the serialisers take.

        Raises:
            SerializationError: the key or the value can't be serialised.
        """
        headers: _Headers = list(record.headers)
        # The key first: confluent-kafka's serialisers of values look at what was done for the key.
        key = _serialize(self._serialize_key, record.key, MessageField.KEY, record.topic, headers)
        value = _serialize(self._serialize_value, record.value, MessageField.VALUE, record.topic, headers)
        return ProducerRecord(
            record.topic,
            value,
            key=key,
            headers=cast("Headers", headers),
            partition=record.partition,
            timestamp=record.timestamp,
        )


def _serialize(
    function: Callable[[Any, SerializationContext], bytes | None],
    data: object,
    field: MessageField,
    topic: str,
    headers: _Headers,
) -> bytes | None:
    try:
        made = function(data, SerializationContext(topic, field, headers))
    except Exception as error:
        message = f"the {field} of a record for {topic} can't be serialised"
        raise SerializationError(message, topic=topic) from error
    if made is None or isinstance(made, bytes):
        return made
    raise SerializationError(
        f"the {field}'s serialiser made {type(made).__name__} of a record for {topic}, not bytes or None", topic=topic
    )


def _as_bytes(data: bytes | str | None, context: SerializationContext) -> bytes | None:
    if isinstance(data, str):
        return data.encode()
    if data is None or isinstance(data, bytes):
        return data
    raise TypeError(f"is {type(data).__name__}; without serialize_{context.field} it has to be bytes, str or None")
