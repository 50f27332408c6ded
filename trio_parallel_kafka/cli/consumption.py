"""Handles the orders with the parallel consumer, and has that verified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Final

import trio

from trio_parallel_kafka.cli.orders import Order, Workload
from trio_parallel_kafka.cli.progress import Progress, RateMeter
from trio_parallel_kafka.cli.verification import Verifier
from trio_parallel_kafka.config import ConsumerConfig, Ordering
from trio_parallel_kafka.consumer import parallel_consumer
from trio_parallel_kafka.record import Record

PATIENCE: Final = 15.0
"""Seconds without any progress after which orders count as missing."""

_REPORT_INTERVAL: Final = 0.1
_RATE_WINDOW: Final = 1.0


class OrderConsumption:
    """One run over a workload.

    Args:
        workload: the orders that the topic holds.
        ordering: which of them are handled one after another.
        on_progress: told ten times a second how far it is.
    """

    def __init__(self, workload: Workload, ordering: Ordering, on_progress: Callable[[Progress], None]) -> None:
        self._workload: Final = workload
        self._ordering: Final = ordering
        self._on_progress: Final = on_progress
        self._completed: Final[Counter[int]] = Counter()
        self._rate: Final = RateMeter(_RATE_WINDOW)
        self._started_at: float | None = None
        self._ended_at = 0.0
        self.verifier: Final = Verifier(len(workload.orders))

    @property
    def seconds(self) -> float:
        """From the first start of a handler to the last end."""
        return 0.0 if self._started_at is None else self._ended_at - self._started_at

    async def run(self, config: ConsumerConfig) -> None:
        """Consume until every order is handled, or nothing has happened for too long."""
        async with parallel_consumer(config) as consumer, trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, consumer.stop)
            await consumer.run(self._handle)
            nursery.cancel_scope.cancel()

    async def _handle(self, record: Record) -> None:
        order = Order.from_record(record)
        lane = self._lane_of(order)
        if self._started_at is None:
            self._started_at = trio.current_time()
        self.verifier.started(lane, order.number)
        is_done = False
        try:
            await trio.sleep(order.work)
            is_done = True
        finally:
            self.verifier.ended(lane, order.number, completed=is_done)
        self._completed[order.partition] += 1
        self._ended_at = trio.current_time()

    def _lane_of(self, order: Order) -> Hashable:
        return order.partition if self._ordering is Ordering.PARTITION else order.customer

    async def _watch(self, stop: Callable[[], None]) -> None:  # noqa: ASYNC910 - a task of its own
        """Report, and end the run once it is over."""
        quiet_since = trio.current_time()
        completed = 0
        while self.verifier.missing and trio.current_time() - quiet_since < PATIENCE + self._workload.work_time.longest:
            await trio.sleep(_REPORT_INTERVAL)
            self._report()
            if self.verifier.completed > completed:
                completed = self.verifier.completed
                quiet_since = trio.current_time()
        stop()

    def _report(self) -> None:
        now = trio.current_time()
        completed = self.verifier.completed
        self._on_progress(
            Progress(
                elapsed=0.0 if self._started_at is None else now - self._started_at,
                completed=completed,
                completed_by_partition=self._completed,
                in_flight=self.verifier.in_flight,
                rate=self._rate.update(now, completed),
            )
        )
