"""What a record is when it runs.

It is no generic class: compiled, what derives from ``Generic`` has room for a ``__dict__``, and can't do without the
garbage collector, which looks at every record that waits. For type checkers :mod:`trio_parallel_kafka.record` says what
:attr:`Record.key` and :attr:`Record.value` are.
"""

from __future__ import annotations

import gc
import operator
from collections.abc import Callable, Sequence
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, Message

from trio_parallel_kafka.compiling import mypyc_attr

if TYPE_CHECKING:
    from trio_parallel_kafka.record import Record as Typed

Headers = tuple[tuple[str, bytes | None], ...]

Copied = TypeVar("Copied", bound="Record")

_TO_BE_FILLED: Final = str(object())
"""The string with which a record is made whose fields are set afterwards: compiled, ``__new__`` calls ``__init__``."""


class _Fetched(Protocol):
    """A client's message that isn't an error, and so always has a place."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...
    def set_headers(self, headers: list[tuple[str, bytes | None]]) -> None: ...
    def timestamp(self) -> tuple[int, int]: ...
    def __len__(self) -> int: ...


@mypyc_attr(acyclic=True)  # nothing that the client hands out can refer to it
class Record:
    """One Kafka record, read-only.

    ``Record`` alone, or ``Record[bytes | None, bytes | None]``, is a raw one. With deserialisers configured, a handler
    gets ``Record[K, V]``: :attr:`key` and :attr:`value` are what they made. The raw bytes are there all the same.

    It reads the client's message on demand: building one costs a fraction of copying nine fields, and
    headers cost only those who look at them. Build one by hand to call a handler in a test.

    Args:
        topic: the topic's name.
        partition: the partition's number.
        offset: the offset in the partition.
        key: raw bytes, or ``None``.
        value: raw bytes, or ``None`` (a tombstone).
        headers: pairs of name and raw bytes or ``None``.
        timestamp: seconds since 1970, or ``None``.
        attempt: which attempt this is, from 1.
        assignment_epoch: in which assignment of the partition the record was read.
    """

    __slots__ = ("_assignment_epoch", "_attempt", "_message", "_offset", "_received_at", "_size")

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        key: bytes | None = None,
        value: bytes | None = None,
        headers: Headers = (),
        timestamp: float | None = None,
        attempt: int = 1,
        assignment_epoch: int = 0,
    ) -> None:
        if topic is _TO_BE_FILLED:
            return
        stamp = (TIMESTAMP_NOT_AVAILABLE, 0)
        if timestamp is not None:
            stamp = (TIMESTAMP_CREATE_TIME, round(timestamp * 1000))
        message = Message(
            topic=topic,
            partition=partition,
            offset=offset,
            key=key,
            value=value,
            headers=list(headers),
            timestamp=stamp,
        )
        self._message = cast("_Fetched", message)
        self._offset = offset
        self._size = len(key or b"") + len(value or b"")
        self._assignment_epoch = assignment_epoch
        self._attempt = attempt
        self._received_at = 0.0

    def __class_getitem__(cls, types: Any) -> GenericAlias:
        parts = types if isinstance(types, tuple) else (types,)
        given = tuple([type(None) if each is None else each for each in parts])
        if len(given) > len(_RAW):
            message = f"a record has two types, of key and value, not {len(given)}"
            raise TypeError(message)
        return GenericAlias(cls, given + _RAW[len(given) :])

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._message.topic()

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self._message.partition()

    @property
    def offset(self) -> int:
        """The offset in the partition."""
        return self._offset

    @property
    def key(self) -> Any:
        """The key, deserialised if that is configured; a raw ``None``: the record has none, and no order."""
        return self._message.key()

    @property
    def value(self) -> Any:
        """The value, deserialised if that is configured; a raw ``None``: a tombstone."""
        return self._message.value()

    @property
    def raw_key(self) -> bytes | None:
        """The key's bytes, whatever :attr:`key` is; they decide about order."""
        return self._message.key()

    @property
    def raw_value(self) -> bytes | None:
        """The value's bytes, whatever :attr:`value` is."""
        return self._message.value()

    @property
    def headers(self) -> Headers:
        """Pairs of name and raw bytes or ``None``, in the order produced; names may repeat.

        A name that isn't UTF-8 is one character, U+FFFD: the client doesn't tell more of it.
        """
        try:
            headers = _checked_headers(self._message)
        except SystemError:
            headers = _mended(self._message)
        return tuple(headers or ())

    @property
    def timestamp(self) -> float | None:
        """Seconds since 1970 as the producer or the broker stamped it, or ``None``."""
        kind, milliseconds = self._message.timestamp()
        return None if kind == TIMESTAMP_NOT_AVAILABLE or milliseconds == _NO_TIMESTAMP else milliseconds / 1000

    @property
    def attempt(self) -> int:
        """Which attempt at handling it this is in this assignment, from 1."""
        return self._attempt

    @property
    def assignment_epoch(self) -> int:
        """In which assignment of its partition the record was read; rises over the life of a consumer."""
        return self._assignment_epoch

    @property
    def size(self) -> int:
        """Bytes of the raw key and value: what counts towards ``max_buffered_bytes``."""
        return self._size

    @property
    def received_at(self) -> float:
        """When its batch came from the client, in :func:`trio.current_time` of the consumer's run."""
        return self._received_at

    def decoded(self, key: Any, value: Any) -> Record:
        """Give the same record with other objects for :attr:`key` and :attr:`value`.

        For tests of handlers: this is what a handler gets if deserialisers made ``key`` and ``value``.
        """
        record: _Decoded = _copied(self, _Decoded)
        record._key = key
        record._value = value
        return record

    def __reduce__(self) -> tuple[Callable[..., Record], tuple[Any, ...]]:
        message = self._message
        place = (message.topic(), message.partition(), self._offset)
        content = (message.key(), message.value(), list(self.headers) or None, message.timestamp())
        return _rebuilt, (place, content, self._attempt, self._assignment_epoch, self._received_at)

    def __repr__(self) -> str:
        return (
            f"<Record {self.topic}[{self.partition}]@{self.offset} key={shown_key(self.raw_key)} "
            f"attempt={self._attempt} assignment_epoch={self._assignment_epoch}>"
        )


class _Decoded(Record):
    """A record whose key and value were deserialised; these can be anything."""

    __slots__ = ("_key", "_value")

    _key: Any
    _value: Any

    @property
    def key(self) -> Any:
        return self._key

    @property
    def value(self) -> Any:
        return self._value

    def __reduce__(self) -> tuple[Callable[..., Record], tuple[Any, ...]]:
        _, raw = super().__reduce__()
        return _rebuilt_decoded, (self._key, self._value, *raw)


# ruff: noqa: SLF001 - its second constructor
def wrap(message: Message, assignment_epoch: int, received_at: float) -> Typed:
    """Make a record of a client's message that isn't an error."""
    ((record,), _, _) = wrap_all((message,), assignment_epoch, received_at)
    return record


def wrap_all(
    messages: Sequence[Message], assignment_epoch: int, received_at: float
) -> tuple[list[Typed], list[bytes | None], list[int]]:
    """Make records of a client's messages, none of which is an error; give their raw keys and offsets beside them."""
    records: list[Record] = []
    keys: list[bytes | None] = []
    offsets: list[int] = []
    fetched: _Fetched
    for fetched in messages:  # type: ignore[assignment]  # no errors, so they have places
        record = _new(Record, _TO_BE_FILLED, 0, 0)
        key = fetched.key()
        offset = fetched.offset()
        record._message = fetched
        record._assignment_epoch = assignment_epoch
        record._attempt = 1
        record._offset = offset
        record._size = len(fetched) if key is None else len(fetched) + len(key)
        record._received_at = received_at
        records.append(record)
        keys.append(key)
        offsets.append(offset)
    return cast("list[Typed]", records), keys, offsets


def next_attempt(record: Record) -> Typed:
    """Make the record of the attempt after this one's."""
    again: Record = _copied(record, Record)
    again._attempt = record._attempt + 1
    return cast("Typed", again)


def _rebuilt(
    place: tuple[str, int, int], content: Any, attempt: int, assignment_epoch: int, received_at: float
) -> Record:
    """What a pickle of a record calls."""
    topic, partition, offset = place
    key, value, headers, timestamp = content
    message = Message(
        topic=topic, partition=partition, offset=offset, key=key, value=value, headers=headers, timestamp=timestamp
    )
    record: Record = wrap(message, assignment_epoch, received_at)
    record._attempt = attempt
    return record


def _rebuilt_decoded(key: Any, value: Any, *raw: Any) -> Record:
    return _rebuilt(*raw).decoded(key, value)


def _mended(message: _Fetched) -> list[tuple[str, bytes | None]]:
    """The headers of a message with names that aren't UTF-8, which from now on can be read.

    Having failed once, the client hands out pairs without a name, and whoever touches that brings the process down.
    What else is in a pair can be asked of the garbage collector.
    """
    headers: list[tuple[str, bytes | None]] = []
    pairs: Any = message.headers()  # compiled code would touch the names of pairs
    for pair in pairs or ():
        parts = gc.get_referents(pair)
        name = next((part for part in parts if isinstance(part, str)), "\ufffd")
        headers.append((name, next((part for part in parts if isinstance(part, bytes)), None)))
    message.set_headers(headers)
    return headers


def _copied(record: Record, kind: type[Copied]) -> Copied:
    copied: Copied = kind.__new__(kind, _TO_BE_FILLED, 0, 0)  # type: ignore[call-arg]  # compiled, it takes those
    copied._message = record._message
    copied._assignment_epoch = record._assignment_epoch
    copied._attempt = record._attempt
    copied._offset = record._offset
    copied._size = record._size
    copied._received_at = record._received_at
    return copied


def shown_key(key: bytes | None) -> str:
    """A raw key as messages show it: short, whatever it is."""
    if key is None or len(key) <= _SHOWN:
        return repr(key)
    return f"{key[:_SHOWN]!r}... ({len(key)} bytes)"


_SHOWN: Final = 100
_checked_headers: Final[Callable[[_Fetched], list[tuple[str, bytes | None]] | None]] = operator.methodcaller("headers")
"""The client's own, but for names that aren't UTF-8: there it returns headers and sets an exception at the same time,
which a plain call notices or not. Called like this, it always is a :exc:`SystemError`."""

_RAW: Final[tuple[Any, ...]] = (bytes | None, bytes | None)
"""The types of key and value that aren't deserialised."""

_NO_TIMESTAMP: Final = -1
"""What a record holds whose producer gave it none; the client hands it on as if it were one."""

_new: Final[Callable[..., Record]] = Record.__new__
