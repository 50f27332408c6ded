"""What the demonstration found."""

from __future__ import annotations

import json
from typing import Self

import attrs

from trio_parallel_kafka.cli.orders import Workload
from trio_parallel_kafka.cli.verification import Verifier
from trio_parallel_kafka.config import Ordering


@attrs.frozen
class Check:
    """A number that has to be 0, or, where ``is_promised`` is false, is only told."""

    name: str
    count: int
    is_promised: bool = True

    @property
    def has_failed(self) -> bool:
        """Whether a promise was broken."""
        return self.is_promised and self.count > 0


@attrs.frozen(kw_only=True)
class Summary:
    """The figures of a run.

    Attributes:
        records: orders produced.
        keys: customers.
        partitions: partitions of the topic.
        ordering: which orders were to be handled one after another.
        concurrency: the most handlers that might run at once.
        seconds: from the first start of a handler to the last end.
        one_at_a_time_seconds: the sum of the work: what no consumer of one record at a time can beat.
        peak_in_flight: the most orders that were being handled at once.
        order_violations: see :class:`Verifier`.
        missing: likewise.
        duplicates: likewise.
    """

    records: int
    keys: int
    partitions: int
    ordering: Ordering
    concurrency: int
    seconds: float
    one_at_a_time_seconds: float
    peak_in_flight: int
    order_violations: int
    missing: int
    duplicates: int

    @classmethod
    def of(
        cls, workload: Workload, verifier: Verifier, *, ordering: Ordering, concurrency: int, seconds: float
    ) -> Self:
        """Sum up a run."""
        return cls(
            records=len(workload.orders),
            keys=workload.customers,
            partitions=workload.partitions,
            ordering=ordering,
            concurrency=concurrency,
            seconds=seconds,
            one_at_a_time_seconds=workload.total_work,
            peak_in_flight=verifier.peak_in_flight,
            order_violations=verifier.order_violations,
            missing=verifier.missing,
            duplicates=verifier.duplicates,
        )

    @property
    def handled(self) -> int:
        """Different orders handled to the end."""
        return self.records - self.missing

    @property
    def records_per_second(self) -> float:
        """The throughput; 0 when nothing was handled."""
        return self.handled / self.seconds if self.seconds else 0.0

    @property
    def one_at_a_time_records_per_second(self) -> float:
        """The throughput of a consumer that takes one record at a time, at best."""
        return self.records / self.one_at_a_time_seconds

    @property
    def speed_up(self) -> float:
        """How many times faster it went than one at a time."""
        return self.records_per_second / self.one_at_a_time_records_per_second

    @property
    def checks(self) -> tuple[Check, ...]:
        """What was verified. Without an ordering, key order violations are counted all the same."""
        lane = "partition" if self.ordering is Ordering.PARTITION else "key"
        return (
            Check(f"{lane} order violations", self.order_violations, self.ordering is not Ordering.UNORDERED),
            Check("missing", self.missing),
            Check("duplicates", self.duplicates),
        )

    @property
    def has_passed(self) -> bool:
        """Whether no check failed."""
        return not any(check.has_failed for check in self.checks)

    def as_json(self) -> str:
        """All figures as one JSON object on one line, times in seconds."""
        figures = {
            "records": self.records,
            "keys": self.keys,
            "partitions": self.partitions,
            "ordering": self.ordering,
            "concurrency": self.concurrency,
            "seconds": round(self.seconds, 3),
            "records_per_second": round(self.records_per_second, 1),
            "one_at_a_time_seconds": round(self.one_at_a_time_seconds, 3),
            "one_at_a_time_records_per_second": round(self.one_at_a_time_records_per_second, 1),
            "speed_up": round(self.speed_up, 2),
            "peak_in_flight": self.peak_in_flight,
            **{check.name.replace(" ", "_"): check.count for check in self.checks},
            "passed": self.has_passed,
        }
        return json.dumps(figures)
