"""The order of runs, what is chosen of them, and how long they take."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest

from benchmarks.rounds import Forecast, steps
from benchmarks.scenarios import NO_OP, SCENARIOS, THREE_PARTITIONS, Load, Run, Scenario, chosen

RUNS = tuple(Run(name=name, system=name, load=Load(1, 1, 10_000), guess=10.0) for name in "abc")
SCENARIO = Scenario(name="s", title="", runs=RUNS, rounds=4, quick_rounds=1)


def test_the_order_rotates() -> None:
    """Each round has each run once, and begins one later. The first run is rehearsed."""
    order = [(each.round, each.run.name) for each in steps([SCENARIO])]
    assert "".join(name for _, name in order) == "aabcbcacababc"
    assert [number for number, _ in order] == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_the_forecast_learns() -> None:
    """A run takes as long as it was guessed to, and then as long as it did."""
    forecast = Forecast()
    ahead = steps([SCENARIO])
    assert forecast.seconds(ahead) == 130.0
    forecast.note(ahead[0], 1.0)
    assert forecast.seconds(ahead) == 85.0


def test_all_is_chosen_by_default() -> None:
    """Nothing is left out but for a quick run, which leaves out what has no quick rounds."""
    assert chosen([], quick=False, rounds=None) == list(SCENARIOS)
    assert {each.name for each in chosen([], quick=True, rounds=None)} == {
        each.name for each in SCENARIOS if each.quick_rounds
    }


def test_a_choice_by_name() -> None:
    """Named scenarios are run, quick or not, in so many rounds as asked for."""
    (found,) = chosen(["3-partitions"], quick=False, rounds=2)
    assert found == attrs.evolve(THREE_PARTITIONS, rounds=2)
    (growth,) = chosen(["partitions"], quick=True, rounds=None)
    assert growth.rounds == 1


def test_quick_is_less_of_everything() -> None:
    """Rounds, records and seconds are fewer; what there is little of stays."""
    quick = NO_OP.quick()
    assert quick.rounds == NO_OP.quick_rounds
    assert [(each.name, each.load.count) for each in quick.runs[-2:]] == [("Trio by hand", 30_000), ("Pyrallel", 6_000)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_runs_of_a_scenario_differ_in_name(scenario: Scenario) -> None:
    """Results are found by the names."""
    assert max(Counter(run.name for run in scenario.runs).values()) == 1
    assert Counter(each.name for each in SCENARIOS)[scenario.name] == 1
