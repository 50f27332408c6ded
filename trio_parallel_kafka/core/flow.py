"""When a partition pauses and when it resumes.

A partition is paused as long as one more batch could take it over its bound. It resumes when what can run
has fallen to half of the bound: *what can run*, because records behind a stuck one would otherwise keep the
rest of their partition waiting for ever. And it has to be an eighth of the bound away from its next pause, so
that a buffer full of stuck records doesn't flap (each pause throws away what the client has fetched ahead).
"""

from __future__ import annotations

import attrs

MAX_BATCH = 500
"""Records taken from the client at once: building them holds the GIL, 0.4 ms at 500."""


@attrs.frozen
class FlowLimits:
    """The bounds of one partition, in records and in bytes of key and value."""

    max_records: int
    max_bytes: int

    @property
    def batch_size(self) -> int:
        """How many records may be fetched at once, so that the bound in records is never passed."""
        return max(1, min(MAX_BATCH, self.max_records // 4))

    def is_full(self, records: int, size: int) -> bool:
        """Whether fetching has to pause, with so much buffered."""
        return records + self.batch_size > self.max_records or size >= self.max_bytes

    def may_resume(self, records: int, size: int, runnable: int) -> bool:
        """Whether a paused partition may fetch again; ``runnable`` of the buffered ``records`` aren't stuck."""
        if self.is_full(records + self.max_records // 8, size + self.max_bytes // 8):
            return False
        runnable_size = size * runnable // records if records else 0
        return runnable * 2 <= self.max_records and runnable_size * 2 <= self.max_bytes
