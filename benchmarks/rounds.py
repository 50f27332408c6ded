"""The order of all runs, and how long they still take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import attrs

from benchmarks.scenarios import Run, Scenario

_Each = TypeVar("_Each")


@attrs.frozen
class Step:
    """One run in one round; what is done in round 0 doesn't count."""

    scenario: Scenario
    run: Run
    round: int


def steps(scenarios: Sequence[Scenario]) -> list[Step]:
    """All of them. In each round of a scenario each of its runs comes once, one later than in the last round.

    The first one is rehearsed before, once: a broker has to warm up to each kind of load.
    """
    return [each for scenario in scenarios for each in _steps(scenario)]


def _steps(scenario: Scenario) -> Iterator[Step]:
    yield Step(scenario, scenario.runs[0], 0)
    for number in range(1, scenario.rounds + 1):
        for run in rotated(scenario.runs, number - 1):
            yield Step(scenario, run, number)


def rotated(runs: Sequence[_Each], places: int) -> Iterator[_Each]:
    """The same, beginning so many places later."""
    first = places % len(runs)
    yield from runs[first:]
    yield from runs[:first]


class Forecast:
    """Tells how long runs will take: as long as they did before, or as long as was guessed."""

    def __init__(self) -> None:
        self._taken: Final[dict[tuple[str, str], float]] = {}

    def note(self, step: Step, seconds: float) -> None:
        """Learn from what a run took."""
        self._taken[step.scenario.name, step.run.name] = seconds

    def seconds(self, ahead: Sequence[Step]) -> float:
        """What is ahead takes about so long."""
        return sum(self._taken.get((each.scenario.name, each.run.name), each.run.guess) for each in ahead)
