"""Makes jobs, outcomes and results to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from benchmarks.job import Job, Latencies, Outcome
from benchmarks.results import Measured, Results

JOB = Job(
    bootstrap_servers="localhost:9092",
    topic="records",
    group_id="readers",
    count=10,
    keys=5,
    partitions=2,
    ordering="key",
    concurrency=4,
    delay=0.0,
    ask="",
    seconds=0.0,
    warm_up=0.0,
    options={},
)

OUTCOME = Outcome(
    records=1_000,
    seconds=2.0,
    warm_records=500,
    warm_seconds=0.5,
    cpu_seconds=0.1,
    peak_rss_mb=50.0,
    order_violations=0,
    missing=0,
    peak_concurrency=1,
)

LATENCIES = Latencies(p50=1.0, p90=2.0, p99=3.0, p999=4.0, max=5.0, histogram=[(1.0, 500), (5.0, 500)])


def at_rate(records_per_second: float, **changes: Any) -> Outcome:
    """An outcome with this rate."""
    return attrs.evolve(OUTCOME, seconds=OUTCOME.records / records_per_second, **changes)


def results(found: Mapping[tuple[str, str], Sequence[Outcome | None]]) -> Results:
    """Results from outcomes by scenario and run, one for each round; ``None``: it failed."""
    return Results(
        [
            Measured(scenario=scenario, run=run, round=number, outcome=outcome, problem="" if outcome else "it broke")
            for (scenario, run), outcomes in found.items()
            for number, outcome in enumerate(outcomes, start=1)
        ]
    )
