"""What random schedules have found, each as the schedule that found it."""

from __future__ import annotations

from typing import Final

import pytest
from simulation.promises import examine
from simulation.schedule import Attempt, Life, NewRecord, Schedule

A_COMMIT_OVERTAKES_ANOTHER: Final = Schedule(
    seed=9989,
    protocol="range",
    partitions=3,
    ordering="partition",
    max_concurrency=2,
    max_buffered_records=8,
    commit_interval=0.1,
    outputs=1,
    batch_scope="partition",
    latency=0.09375,
    records=(
        NewRecord(0.375, 0, 0, (Attempt("raise", 0.0625), Attempt("raise", 0.0))),
        NewRecord(0.0, 0, 3),
        NewRecord(0.0, 2, 4),
        NewRecord(0.0625, 1, 1, (Attempt("swallow", 0.0),)),
        NewRecord(0.0, 1, None, (Attempt("return", 0.125),)),
        NewRecord(0.0, 2, 2),
        NewRecord(2.0625, 0, 1),
        NewRecord(0.0, 2, 4),
        NewRecord(0.0, 1, 1, (Attempt("raise", 0.0), Attempt("skip", 0.0625))),
        NewRecord(2.125, 2, 0),
        NewRecord(0.0625, 2, 1),
        NewRecord(0.0, 0, 3),
        NewRecord(1.4375, 1, 1),
        NewRecord(0.9375, 2, 0),
        NewRecord(0.6875, 1, 0),
    ),
    members=(Life(0.0), Life(0.3125, 1.25, "cancel"), Life(0.0625)),
)
"""The last commit before a partition was let go got to the broker before one of the interval, which then undid it."""

FOUND: Final = {
    "a commit overtakes another of its member": A_COMMIT_OVERTAKES_ANOTHER,
    "a member is asked twice at once to let go": Schedule.of(800),
    "the same, with another order of tasks": Schedule.of(875),
    "a batch is cut short while its outputs are being sent": Schedule.of(1290),
    "a transaction of an expelled member is committed": Schedule.of(13234),
    "the same, while its handlers go on": Schedule.of(13971),
    "a member is expelled while its transaction is being committed": Schedule.of(21812),
    "an unknown outcome of a transaction decides what is replayed": Schedule.of(460),
}


@pytest.mark.parametrize("schedule", FOUND.values(), ids=FOUND.keys())
def test_found_once(schedule: Schedule) -> None:
    """What broke a promise of the consumer, or of the simulated broker, doesn't any more."""
    assert examine(schedule).problems == ()
