"""What counts of what was measured."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from benchmarks.outcomes import LATENCIES, OUTCOME, results

from benchmarks.results import Measured, cpu, problem_of, rate, warm_rate
from benchmarks.scenarios import Load, Run

RUN = Run(name="a", system="a", load=Load(10, 1, 1_000))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"order_violations": 2}, "2 records out of order, or twice"),
        ({"missing": 1_500}, "1,500 records missing"),
        ({"records": 999}, "999 records handled, not 1,000"),
    ],
)
def test_an_outcome_counts_if_order_and_completeness_were_kept(changes: dict[str, Any], problem: str) -> None:
    """Anything else is said, and doesn't count."""
    assert problem_of(RUN, attrs.evolve(OUTCOME, **changes)) == problem


def test_a_run_for_latencies_needs_some() -> None:
    """How many records there were doesn't matter then."""
    run = attrs.evolve(RUN, load=Load(10, 1, 0), rate=100)
    assert problem_of(run, OUTCOME) == "no latencies"
    assert not problem_of(run, attrs.evolve(OUTCOME, latencies_ms=LATENCIES))


def test_what_failed_is_told_once() -> None:
    """Its outcomes are left out; its reasons are named."""
    found = results({("s", "a"): [OUTCOME, None, None], ("s", "b"): [None, OUTCOME, OUTCOME]})
    assert found.outcomes("s", "a") == [OUTCOME]
    assert found.problems("s", "a") == ["it broke"]
    assert found.together("s", "a", "b") == []


def test_an_outcome_with_a_problem_is_kept_but_does_not_count() -> None:
    """The raw data hold it all the same."""
    measured = Measured(scenario="s", run="a", round=1, outcome=OUTCOME, problem="1 records missing")
    found = results({})
    found.measured.append(measured)
    assert found.outcomes("s", "a") == []
    assert measured.as_mapping()["outcome"]["records"] == 1_000


def test_measures() -> None:
    """Rates are by the second, CPU time is in microseconds for a record."""
    assert (rate(OUTCOME), warm_rate(OUTCOME), cpu(OUTCOME)) == pytest.approx((500.0, 1_000.0, 100.0))
