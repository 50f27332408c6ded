"""How far the demonstration is."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import attrs


@attrs.frozen
class Progress:
    """The handling of the orders at one moment.

    Attributes:
        elapsed: seconds since the first of them started.
        completed: orders handled.
        completed_by_partition: the same, for each partition.
        in_flight: orders being handled now.
        rate: orders handled a second, of late.
    """

    elapsed: float
    completed: int
    completed_by_partition: Mapping[int, int]
    in_flight: int
    rate: float


class RateMeter:
    """Tells how fast a count rises, over the last ``window`` seconds."""

    def __init__(self, window: float) -> None:
        self._window: Final = window
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, now: float, count: int) -> float:
        """Note the count; return by how much it rises a second."""
        self._samples.append((now, count))
        while self._samples[0][0] < now - self._window:
            self._samples.popleft()
        since, before = self._samples[0]
        return (count - before) / (now - since) if now > since else 0.0
