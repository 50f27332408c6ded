"""What was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from benchmarks.job import Outcome, dump_outcome
from benchmarks.scenarios import COMPILED, OWN, Run

Measure = Callable[[Outcome], float]


@attrs.frozen(kw_only=True)
class Measured:
    """One run in one round.

    Attributes:
        scenario: its scenario's name.
        run: its name.
        round: which, from 1.
        outcome: what it said, if it said anything.
        problem: why it doesn't count; empty: it does.
    """

    scenario: str
    run: str
    round: int
    outcome: Outcome | None
    problem: str = ""

    def as_mapping(self) -> dict[str, Any]:
        """Plain data."""
        plain = {"scenario": self.scenario, "run": self.run, "round": self.round, "problem": self.problem}
        return plain | {"outcome": None if self.outcome is None else dump_outcome(self.outcome)}


class Results:
    """All that was measured so far."""

    def __init__(self, measured: Sequence[Measured] = ()) -> None:
        self.measured = list(measured)

    def by_round(self, scenario: str, run: str) -> dict[int, Outcome]:
        """The outcomes that count."""
        return {
            each.round: each.outcome
            for each in self.measured
            if (each.scenario, each.run) == (scenario, run) and each.outcome is not None and not each.problem
        }

    def outcomes(self, scenario: str, run: str) -> list[Outcome]:
        """The same without the rounds."""
        return list(self.by_round(scenario, run).values())

    def problems(self, scenario: str, run: str) -> list[str]:
        """Why rounds don't count: each reason once."""
        found = (each.problem for each in self.measured if (each.scenario, each.run) == (scenario, run))
        return list(dict.fromkeys(filter(None, found)))

    def together(self, scenario: str, *runs: str) -> list[tuple[Outcome, ...]]:
        """The outcomes of these runs in each round in which all of them count."""
        found = [self.by_round(scenario, run) for run in runs]
        rounds = sorted(set.intersection(*map(set, found)))
        return [tuple(each[number] for each in found) for number in rounds]


def of_compiled(results: Results) -> Results:
    """What the compiled wheel did, as if it were this library's one wheel, beside what others did."""
    others = [each for each in results.measured if not each.run.startswith(OWN)]
    compiled = [each for each in results.measured if each.run.startswith(COMPILED)]
    return Results([*others, *(attrs.evolve(each, run=each.run.replace(COMPILED, OWN, 1)) for each in compiled)])


def problem_of(run: Run, outcome: Outcome) -> str:
    """Why an outcome doesn't count; empty if it does."""
    if outcome.order_violations:
        return f"{outcome.order_violations:,} records out of order, or twice"
    if outcome.missing:
        return f"{outcome.missing:,} records missing"
    if run.load.count and outcome.records != run.load.count:
        return f"{outcome.records:,} records handled, not {run.load.count:,}"
    if run.rate and outcome.latencies_ms is None:
        return "no latencies"
    return ""


def rate(outcome: Outcome) -> float:
    """Records a second."""
    return outcome.records / outcome.seconds


def warm_rate(outcome: Outcome) -> float:
    """Records a second in the second half."""
    return outcome.warm_records / outcome.warm_seconds


def cpu(outcome: Outcome) -> float:
    """CPU time for a record, in microseconds: the same number in seconds is that of a million."""
    return outcome.cpu_seconds / outcome.records * 1e6
