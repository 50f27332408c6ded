"""What a measured program is told, what it answers, and how it checks itself."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import attrs
import pytest
from benchmarks.outcomes import JOB, LATENCIES, OUTCOME

from benchmarks.job import Checker, dump_job, dump_outcome, latencies_of, load_job, load_outcome, print_outcome


def _checker(awaited: int | None = None, **changes: Any) -> tuple[Checker, list[str]]:
    """One for a job that differs in this, and what it has told."""
    told: list[str] = []
    return Checker(attrs.evolve(JOB, **changes), lambda: told.append("finished"), awaited), told


def test_a_job_comes_through_the_command_line() -> None:
    """What is handed on as an argument is the same on the other side."""
    assert load_job(["program", dump_job(JOB)]) == JOB


@pytest.mark.parametrize("latencies", [None, LATENCIES])
def test_an_outcome_is_the_last_line_of_the_output(capsys: pytest.CaptureFixture[str], latencies: Any) -> None:
    """What is printed is read back, with latencies or without."""
    outcome = attrs.evolve(OUTCOME, latencies_ms=latencies)
    print_outcome(outcome)
    read = load_outcome(capsys.readouterr().out.splitlines()[-1])
    assert json.dumps(dump_outcome(read)) == json.dumps(dump_outcome(outcome))
    assert (read.latencies_ms is None) == (latencies is None)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_the_last_record_finishes(count: int) -> None:
    """It is told once, with the last record, that all is done."""
    checker, told = _checker(count=count)
    for offset in range(count):
        assert told == []
        checker.handled(b"1", 0, offset)
    checker.handled(b"1", 0, count)
    outcome = checker.outcome({}, {})
    assert told == ["finished"]
    assert (outcome.order_violations, outcome.missing) == (0, 0)
    assert outcome.seconds >= outcome.warm_seconds > 0 or count == 1


@pytest.mark.parametrize("ordering", ["key", "partition"])
def test_a_lane_has_to_rise(ordering: str) -> None:
    """A record that comes after a later one of its lane is a violation; those of another lane don't matter."""
    checker, _ = _checker(ordering=ordering)
    checker.handled(b"1", 0, 5)
    checker.handled(b"2", 1, 3)
    assert checker.outcome({}, {}).order_violations == 0
    checker.handled(b"1", 0, 5)
    checker.handled(b"1", 0, 4)
    assert checker.outcome({}, {}).order_violations == 2


def test_key_order_is_not_partition_order() -> None:
    """Keys of one partition pass one another in key order only."""
    for ordering, violations in (("key", 0), ("partition", 1)):
        checker, _ = _checker(ordering=ordering)
        checker.handled(b"1", 0, 1)
        checker.handled(b"2", 0, 0)
        assert checker.outcome({}, {}).order_violations == violations


def test_two_of_a_lane_at_once_are_a_violation() -> None:
    """The next record of a lane may start when the one before has ended, not sooner."""
    checker, _ = _checker()
    checker.started(b"1", 0, 0)
    checker.started(b"2", 0, 1)
    checker.ended(b"1", 0, 0)
    checker.started(b"1", 0, 2)
    assert checker.outcome({}, {}).order_violations == 0
    checker.started(b"1", 0, 3)
    outcome = checker.outcome({}, {})
    assert outcome.order_violations == 1
    assert outcome.peak_concurrency == 3


@pytest.mark.parametrize("changes", [{"ordering": "unordered"}, {"keys": 0}])
def test_without_lanes_each_record_comes_once(changes: dict[str, Any]) -> None:
    """Any order will do; a record that comes twice is a violation, and one is missing for it."""
    checker, _ = _checker(count=3, **changes)
    checker.handled(b"1", 0, 2)
    checker.handled(b"1", 0, 1)
    checker.handled(b"1", 0, 2)
    outcome = checker.outcome({}, {})
    assert (outcome.records, outcome.order_violations, outcome.missing) == (3, 1, 1)


@pytest.mark.parametrize("changes", [{}, {"ordering": "unordered"}])
def test_waiting_handlers_finish_with_the_last_end(changes: dict[str, Any]) -> None:
    """The last start doesn't finish, the last end does."""
    checker, told = _checker(count=2, **changes)
    checker.started(b"1", 0, 0)
    checker.started(b"2", 0, 1)
    checker.ended(b"1", 0, 0)
    assert (checker.done(), told) == (1, [])
    checker.ended(b"2", 0, 1)
    assert (checker.done(), told) == (2, ["finished"])
    outcome = checker.outcome({}, {})
    assert (outcome.order_violations, outcome.missing, outcome.peak_concurrency) == (0, 0, 2)


def test_what_is_never_handled_is_missing() -> None:
    """It is counted beside what was awaited."""
    checker, _ = _checker(awaited=9)
    checker.handled(b"1", 0, 0)
    assert checker.outcome({}, {}).missing == 8


def test_growth_is_that_of_the_middle_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken up at the start, or let go at the end, is no growth."""
    held = 0.0
    monkeypatch.setattr("benchmarks.job.memory_mb", lambda _name: held)
    checker, _ = _checker(count=8)
    for offset in range(8):
        held = [10.0, 20.0, 30.0, 40.0, 50.0, 55.0, 60.0, 5.0][offset]
        checker.handled(b"1", 0, offset)
    assert checker.outcome({}, {}).figures == {"grown_mb": 35.0}


def test_latencies_count_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes before isn't counted; the first record after the time finishes, once."""
    now = 10**12
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    checker, told = _checker(count=0, seconds=10.0, warm_up=5.0)
    for second, late in ((0, 900), (4, 800), (5, 2), (14, 4)):
        now = 10**12 + second * 10**9
        checker.timed((now - late * 10**6).to_bytes(8, "big") + b"rest")
        checker.handled(b"1", 0, second)
    assert told == []
    now = 10**12 + 15 * 10**9
    for _ in range(2):
        checker.timed(now.to_bytes(8, "big"))
    assert told == ["finished"]
    latencies = checker.outcome({}, {}).latencies_ms
    assert latencies is not None
    assert (latencies.p50, latencies.max) == (4.0, 4.0)
    assert sum(count for _, count in latencies.histogram) == 2


def test_percentiles() -> None:
    """Of a thousand latencies from 1 to 1,000 ms, each percentile is where it should be."""
    latencies = latencies_of([each * 1_000_000 for each in range(1, 1_001)])
    assert (latencies.p50, latencies.p90, latencies.p99, latencies.max) == (501.0, 901.0, 991.0, 1000.0)
    assert sum(count for _, count in latencies.histogram) == 1_000
    assert len(latencies.histogram) > 20
    assert all(earlier < later for (earlier, _), (later, _) in pairwise(latencies.histogram))
