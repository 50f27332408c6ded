"""The bars."""

from __future__ import annotations

import attrs
import pytest
from benchmarks.outcomes import LATENCIES, OUTCOME, at_rate, results

from benchmarks import scenarios as sc
from benchmarks.bars import BARS, Bar, Verdict, growth, growth_beyond_bytes, judge, ratio
from benchmarks.results import rate
from benchmarks.scenarios import SCENARIOS


def _verdict(found: list[Verdict], title: str) -> Verdict:
    (verdict,) = (each for each in found if each.bar.title == title)
    return verdict


@pytest.mark.parametrize(("at_least", "words"), [(True, ["short", "held", "held"]), (False, ["held", "held", "short"])])
def test_the_median_decides(at_least: bool, words: list[str]) -> None:
    """A bar is held by a median that reaches it, or doesn't pass it."""
    bar = Bar(number="1", title="", wanted=2.0, at_least=at_least, figures=lambda _results: [])
    assert [Verdict(bar, [0.0, middle, 9.0]).word for middle in (1.9, 2.0, 2.1)] == words
    assert Verdict(bar, []).word == "not measured"


def test_ratios_are_taken_within_a_round() -> None:
    """Only rounds in which both count make a ratio."""
    found = results(
        {
            ("no-op", "fast"): [at_rate(200), at_rate(300), at_rate(900), None],
            ("no-op", "slow"): [at_rate(100), None, at_rate(300), at_rate(1)],
        }
    )
    assert ratio("no-op", "fast", "slow", rate)(found) == pytest.approx([2.0, 3.0])


def test_cpu_time_stands_beside_a_ratio_of_rates() -> None:
    """It is this library's beside the other's, too."""
    found = results(
        {
            ("5-ms", sc.OWN): [at_rate(900, cpu_seconds=3.0)],
            ("5-ms", sc.BARE): [at_rate(1_000, cpu_seconds=2.0)],
        }
    )
    verdict = _verdict(judge(found), "5 ms, 256 at once: rate beside bare Trio tasks")
    assert verdict.figures == pytest.approx([0.9])
    assert verdict.cpu == pytest.approx([1.5])
    assert verdict.word == "held"


def test_the_second_half_is_judged_by_itself() -> None:
    """It isn't the whole run's rate."""
    found = results(
        {
            ("no-op", sc.OWN): [attrs.evolve(OUTCOME, warm_seconds=0.1)],
            ("no-op", sc.JAVA): [attrs.evolve(OUTCOME, warm_seconds=0.4)],
        }
    )
    verdict = _verdict(judge(found), "no-op: rate in the second half beside Java parallel-consumer's")
    assert verdict.figures == pytest.approx([4.0])


def test_latencies() -> None:
    """Percentiles are judged in milliseconds, and beside another system's."""
    slower = attrs.evolve(LATENCIES, p50=2.0, p99=30.0)
    found = results(
        {
            ("latency", sc.OWN): [attrs.evolve(OUTCOME, latencies_ms=LATENCIES)],
            ("latency", sc.JAVA): [attrs.evolve(OUTCOME, latencies_ms=slower)],
            ("latency", sc.BURNING): [attrs.evolve(OUTCOME, latencies_ms=attrs.evolve(slower, p99=60.0))],
        }
    )
    judged = {each.bar.title: (each.figure, each.word) for each in judge(found) if each.bar.number == "6"}
    assert judged == {
        "latency at 1,000 records/s, p50": (1.0, "held"),
        "latency at 1,000 records/s, p99": (3.0, "held"),
        "p50 beside Java parallel-consumer's": (0.5, "held"),
        "p99 beside Java parallel-consumer's": (0.1, "held"),
        "p99 while the loop is busy half of the time": (60.0, "short"),
    }


def test_growth_is_the_worst_step() -> None:
    """The dearest of all is compared with the first."""
    found = results(
        {("keys", str(step)): [attrs.evolve(OUTCOME, cpu_seconds=used)] for step, used in enumerate([2.0, 3.0, 1.0])}
    )
    assert growth("keys", ["0", "1", "2"])(found) == pytest.approx([1.5])


def test_the_client_pays_for_bytes() -> None:
    """What a large value costs the client alone isn't held against this library."""
    used = {(sc.OWN, 100): 4.0, (sc.CLIENT, 100): 1.0, (sc.OWN, 10_000): 11.0, (sc.CLIENT, 10_000): 7.0}
    found = results(
        {
            ("values", sc.with_values(system, size)): [attrs.evolve(OUTCOME, cpu_seconds=seconds)]
            for (system, size), seconds in used.items()
        }
    )
    assert growth_beyond_bytes(10_000)(found) == pytest.approx([1.1])


def test_every_bar_is_measured_by_some_scenario() -> None:
    """Given outcomes of all runs of all scenarios, no bar is left without a figure."""
    outcome = attrs.evolve(
        OUTCOME, latencies_ms=LATENCIES, figures={"grown_mb": 1.0, "worst_gap_ms": 1.0, "cpu_percent": 1.0}
    )
    found = results({(scenario.name, run.name): [outcome] for scenario in SCENARIOS for run in scenario.runs})
    judged = judge(found)
    assert len(judged) == len(BARS)
    assert [each.bar.title for each in judged if each.figure is None] == []
