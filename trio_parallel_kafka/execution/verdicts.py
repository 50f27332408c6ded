"""What becomes of a record whose attempt failed."""

from __future__ import annotations

from typing import Protocol

import attrs

from trio_parallel_kafka.record import Record


@attrs.frozen
class RetryLater:
    """Park its lane, and try again after ``delay`` seconds."""

    delay: float


@attrs.frozen
class Stop:
    """Seal its lane, and stop the consumer with the error; ``note`` is to be added to that."""

    note: str | None = None


@attrs.frozen
class PassOver:
    """Complete it all the same."""

    reason: str


@attrs.frozen
class Bury:
    """Send it to the dead letters, and complete it once they have it."""

    reason: str


Verdict = RetryLater | Stop | PassOver | Bury


class Judge(Protocol):
    """Decides about failed attempts; says nothing to anybody and changes nothing."""

    def __call__(self, record: Record, error: Exception, *, may_retry: bool = True) -> Verdict:
        """Decide; ``may_retry=False``: another attempt would fail just so (its key can't be determined)."""
