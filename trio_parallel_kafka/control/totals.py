"""What the control plane counts."""

from __future__ import annotations

import attrs


@attrs.define
class ControlTotals:
    """Counts since the consumer was opened; see :class:`~trio_parallel_kafka.Totals`."""

    received: int = 0
    not_replayed: int = 0
    commits: int = 0
    failed_commits: int = 0
    lost_to_retention: int = 0
