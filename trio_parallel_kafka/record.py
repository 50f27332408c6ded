"""The record that a handler gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeAlias

from typing_extensions import TypeVar

from trio_parallel_kafka import untyped_record
from trio_parallel_kafka.untyped_record import (
    Headers as Headers,
    next_attempt as next_attempt,
    shown_key as shown_key,
    wrap as wrap,
    wrap_all as wrap_all,
)

Raw: TypeAlias = bytes | None

K_co = TypeVar("K_co", covariant=True, default=Raw)
V_co = TypeVar("V_co", covariant=True, default=Raw)
Key = TypeVar("Key")
Value = TypeVar("Value")

if TYPE_CHECKING:

    class Record(untyped_record.Record, Generic[K_co, V_co]):
        """As type checkers see it."""

        # One that is built is raw: without this, type checkers would believe whatever types somebody expects.
        def __init__(
            self: Record[Raw, Raw],
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
        ) -> None: ...

        @property
        def key(self) -> K_co:
            """The key, deserialised if that is configured; a raw ``None``: the record has none, and no order."""

        @property
        def value(self) -> V_co:
            """The value, deserialised if that is configured; a raw ``None``: a tombstone."""

        def decoded(self, key: Key, value: Value) -> Record[Key, Value]:
            """Give the same record with other objects for :attr:`key` and :attr:`value`."""

else:
    Record = untyped_record.Record
    Record.__module__ = __name__
