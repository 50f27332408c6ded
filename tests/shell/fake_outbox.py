"""An outbox within the test's own memory, in place of the one with a producer of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import trio
from shell.kit import Place

from trio_parallel_kafka import ConsumerConfig, ProducerRecord, Record
from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.execution.outbox import Parcel


class FakeOutbox:
    """Has everything acknowledged after ``delay`` seconds, unless it is to fail.

    ``errors`` are used up one by one (``None``: this time there is none); ``down`` is what is raised as long as it is
    there. ``sent`` has what was acknowledged, each with the place of the record that it came from; ``tried`` counts.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.errors: deque[Exception | None] = deque()
        self.down: Exception | None = None
        self.sent: list[tuple[Place, ProducerRecord]] = []
        self.tried = 0

    def __call__(self, config: ConsumerConfig) -> FakeOutbox:
        """Stand in for the class."""
        return self

    async def run(self) -> None:
        await trio.sleep_forever()

    async def send(self, assignment: Assignment[Record], record: Record, outputs: Sequence[ProducerRecord]) -> None:
        (error,) = await self.send_all([Parcel(assignment, record, outputs)])
        if error is not None:
            raise error

    async def send_all(self, parcels: Sequence[Parcel]) -> Sequence[Exception | None]:
        self.tried += len(parcels)
        await trio.sleep(self.delay)
        return [self._take(each) for each in parcels]

    def _take(self, parcel: Parcel) -> Exception | None:
        error = self.errors.popleft() if self.errors else self.down
        if error is None:
            self.sent += [((parcel.record.partition, parcel.record.offset), each) for each in parcel.outputs]
        return error

    @property
    def places(self) -> list[Place]:
        """Which records something was sent for, in that order."""
        return [place for place, _ in self.sent]
