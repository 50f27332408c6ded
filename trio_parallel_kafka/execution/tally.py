"""What the execution plane counts."""

from __future__ import annotations

import attrs


@attrs.define
class Tally:
    """Counts since the consumer was opened; see :class:`~trio_parallel_kafka.Totals`."""

    completed: int = 0
    failed: int = 0
    retried: int = 0
    skipped: int = 0
    dead_lettered: int = 0
    sent: int = 0
    fenced: int = 0
    abandoned: int = 0
