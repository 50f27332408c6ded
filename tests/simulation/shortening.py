"""Finds a shorter schedule that fails in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from simulation.promises import Verdict, examine
from simulation.schedule import Schedule, simpler

TRIES: Final = 3
"""Orders of tasks that a shorter schedule is tried with: what it leaves out has taken draws, too."""


def shortened(schedule: Schedule, *, run: Callable[[Schedule], Verdict] = examine) -> tuple[Schedule, Verdict]:
    """Leave out what can be left out while the same promise is broken; return what is left, and its verdict."""
    verdict = run(schedule)
    kind = _kind(verdict)
    is_shorter = True
    while is_shorter:
        is_shorter = False
        for candidate in simpler(schedule):
            found = _failing(candidate, kind, run)
            if found is not None:
                schedule, verdict = found.schedule, found
                is_shorter = True
                break
    return schedule, verdict


def _failing(schedule: Schedule, kind: str, run: Callable[[Schedule], Verdict]) -> Verdict | None:
    for number in range(TRIES):
        verdict = run(attrs.evolve(schedule, seed=schedule.seed + number))
        if verdict.problems and _kind(verdict) == kind:
            return verdict
    return None


def _kind(verdict: Verdict) -> str:
    """The promise that was broken first, without its particulars."""
    return verdict.problems[0].partition(":")[0][:20]
