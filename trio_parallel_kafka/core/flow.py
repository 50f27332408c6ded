"""When a partition pauses and when it resumes.

A partition is paused as long as what is on its way could take it over its bound. It resumes when what can run
has fallen to half of the bound: *what can run*, because records behind a stuck one would otherwise keep the
rest of their partition waiting for ever. And it has to be an eighth of the bound away from its next pause, so
that a buffer full of stuck records doesn't flap (each pause throws away what the client has fetched ahead).

Long before that it is paused when enough is read: so many records beside those in the workers' hands, so many of all
partitions together, and lanes that wait for a worker. To read on then is of no use to anybody, and each record that
waits costs time for as long as it does: the garbage collector looks at it again and again. It resumes when a third of
them is handled, for it takes 30 ms at best, and far longer behind other partitions, until more of it comes.
"""

from __future__ import annotations

import attrs

MAX_BATCH = 1000
"""Records taken from the client at once: building them holds the GIL, 0.8 ms at 1,000."""

PAUSED_BATCH = 250
"""The same while a partition is paused, for records come faster then than they are handled."""

READ_AHEAD = 750
"""Records of a partition that are enough, beside those in the workers' hands, ..."""

READ_IN_ALL = 12_000
"""... if there are more than these in memory, of all partitions."""


@attrs.frozen
class FlowLimits:
    """The bounds of one partition.

    Attributes:
        max_records: it may have in memory.
        max_bytes: of key and value it may have in memory, but for what is on its way.
        read_ahead: records that are enough, if there are more than ``read_in_all`` of all partitions.
    """

    max_records: int
    max_bytes: int
    read_ahead: int = READ_AHEAD
    read_in_all: int = READ_IN_ALL

    @property
    def on_the_way(self) -> int:
        """How many records may be on their way to the loop, so that the bound in records is never passed."""
        return max(1, min(2 * MAX_BATCH, self.max_records // 4))

    @property
    def batch_size(self) -> int:
        """How many records may be fetched at once."""
        return min(MAX_BATCH, self.on_the_way)

    @property
    def batches_out(self) -> int:
        """How many batches may be on their way to the loop; if two, the next is fetched while it works on one."""
        return max(1, self.on_the_way // MAX_BATCH)

    def for_batches(self, size: int) -> FlowLimits:
        """The same for workers that take so many records of a partition at once."""
        return attrs.evolve(self, read_ahead=max(self.read_ahead, 2 * size))

    def is_full(self, records: int, size: int) -> bool:
        """Whether fetching has to pause, with so much buffered."""
        return records + self.on_the_way > self.max_records or size >= self.max_bytes

    def is_enough(self, waiting: int) -> bool:
        """Whether fetching has to pause, with so many records for which workers are still to come."""
        return waiting > self.read_ahead

    def may_resume(self, records: int, size: int, runnable: int) -> bool:
        """Whether a full partition may fetch again; ``runnable`` of the buffered ``records`` aren't stuck."""
        if self.is_full(records + self.max_records // 8, size + self.max_bytes // 8):
            return False
        runnable_size = size * runnable // records if records else 0
        return runnable * 2 <= self.max_records and runnable_size * 2 <= self.max_bytes

    def is_short(self, records: int, size: int, waiting: int) -> bool:
        """Whether fetching may go on because no lane waits for a worker: what was enough is behind running records."""
        return not self.is_full(records, size) and waiting * 2 <= self.max_records
