"""Records and handlers to be watched, and what a history says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trio_parallel_kafka import Record
from trio_parallel_kafka.testing.events import Event, Joined


def record(offset: int = 5, *, attempt: int = 1) -> Record:
    """A record of ``orders[1]``."""
    return Record("orders", 1, offset, key=b"a", attempt=attempt, assignment_epoch=3)


def raises(error: BaseException) -> Callable[[Record], None]:
    """A plain handler that fails."""

    def handle(_record: Record) -> None:
        raise error

    return handle


def names(events: Sequence[Event]) -> list[str]:
    """What happened, without the beginning of the handler's life."""
    return [type(event).__name__ for event in events if not isinstance(event, Joined)]
