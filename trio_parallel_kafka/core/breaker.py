"""The circuit breaker: when too much fails, dispatch stops, and single records try whether it is over.

Theory of operation
-------------------

Failures are told one by one; completions come as a running total that is looked at now and then, so that a success
costs nothing. Both are counted in :data:`BUCKETS` buckets that together span the window, the oldest falling out as time
goes on. What was completed since the last look counts in the newest bucket: who looks too seldom sees too many
completions, never too few, and so may open late, but not without need.

Rules
-----

- ``CLOSED -> OPEN`` when at least ``min_attempts`` attempts ended in the window, and ``failure_rate`` of them failed.
- ``OPEN -> PROBING`` when ``probe_interval`` has passed: one record is let through.
- ``PROBING -> CLOSED`` when that record didn't fail, with an empty window.
- ``PROBING -> OPEN`` for another interval when it did. If its attempt was cut short, it says nothing, and the next
  probe may be made at once.
- Attempts that began before it opened change nothing when they end.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

import attrs

BUCKETS: Final = 10
"""Parts of the window: what happened counts for as long as the window, or up to a tenth less."""


class BreakerState(enum.Enum):
    """Where a breaker stands."""

    CLOSED = "closed"
    """Everything is dispatched."""

    OPEN = "open"
    """Nothing is."""

    PROBING = "probing"
    """One record is, and decides."""


@attrs.define
class _Bucket:
    failures: int = 0
    completions: int = 0


class Breaker:
    """Decides whether records may be dispatched. Times are in seconds of one clock that doesn't go back.

    Args:
        failure_rate: the part of all attempts, above 0 and up to 1, that has to fail.
        min_attempts: how many attempts have to have ended in the window, from 1.
        window: over how many seconds attempts are counted.
        probe_interval: seconds for which nothing is dispatched before a record may try.
        now: the time.
    """

    def __init__(
        self, *, failure_rate: float, min_attempts: int, window: float, probe_interval: float, now: float
    ) -> None:
        self._failure_rate: Final = failure_rate
        self._min_attempts: Final = min_attempts
        self._probe_interval: Final = probe_interval
        self._width: Final = window / BUCKETS
        self._buckets: Final[deque[_Bucket]] = deque([_Bucket()], maxlen=BUCKETS)
        self._slot = now // self._width
        self._completed_total = 0
        self._probe_at: float | None = None
        self._state = BreakerState.CLOSED

    @property
    def state(self) -> BreakerState:
        return self._state

    @property
    def failures(self) -> int:
        """Failed attempts in the window, as of the last look."""
        return sum(bucket.failures for bucket in self._buckets)

    @property
    def attempts(self) -> int:
        """All attempts in the window, as of the last look."""
        return sum(bucket.failures + bucket.completions for bucket in self._buckets)

    @property
    def next_due(self) -> float | None:
        """When the next probe may be made, or ``None`` while that isn't a matter of time."""
        return self._probe_at

    def observe(self, now: float, completed_total: int) -> None:
        """Look at the total of completions, every tenth of the window or so."""
        slot = now // self._width
        fresh = min(slot - self._slot, BUCKETS)
        self._buckets.extend(_Bucket() for _ in range(int(fresh)))
        self._slot = slot
        self._buckets[-1].completions += completed_total - self._completed_total
        self._completed_total = completed_total

    def failed(self, now: float, completed_total: int) -> bool:
        """Count an attempt that failed and was no probe; say whether this opened the breaker."""
        self.observe(now, completed_total)
        if self._state is not BreakerState.CLOSED:
            return False
        self._buckets[-1].failures += 1
        attempts = self.attempts
        if attempts < self._min_attempts or self.failures < self._failure_rate * attempts:
            return False
        self._open(now + self._probe_interval)
        return True

    def may_probe(self, now: float) -> bool:
        """Whether one record may be dispatched now, although the breaker is open."""
        return self._probe_at is not None and now >= self._probe_at

    def begin_probe(self) -> None:
        """One record is dispatched to see how it gets on; only where :meth:`may_probe` allows it."""
        assert self._state is BreakerState.OPEN  # noqa: S101 - the caller asked
        self._state = BreakerState.PROBING
        self._probe_at = None

    def probe_succeeded(self, now: float, completed_total: int) -> None:
        """The probe's attempt ended without a failure: close."""
        self._end_probe()
        self.observe(now, completed_total)
        self._buckets.clear()
        self._buckets.append(_Bucket())
        self._state = BreakerState.CLOSED

    def probe_failed(self, now: float) -> None:
        """The probe's attempt failed: stay open for another interval."""
        self._end_probe()
        self._open(now + self._probe_interval)

    def probe_dropped(self, now: float) -> None:
        """The probe's attempt was cut short, as when its partition is taken away: the next may be made at once."""
        self._end_probe()
        self._open(now)

    def _end_probe(self) -> None:
        assert self._state is BreakerState.PROBING  # noqa: S101 - there is one, and it ends once

    def _open(self, probe_at: float) -> None:
        self._state = BreakerState.OPEN
        self._probe_at = probe_at
