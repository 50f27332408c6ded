"""What is concluded from samples: that a leak is told from noise, and that nothing is said too early."""

from __future__ import annotations

import random

import pytest
from soak.trends import HOUR, Trend, Verdict, trend_of


def sampled(
    per_hour: float, *, noise: float = 0.0, alike: float = 0.0, count: int = 200, seed: int = 0
) -> list[tuple[float, float]]:
    """Samples every five seconds; what is beside the line fades by ``alike`` from one to the next."""
    chance = random.Random(seed)
    beside, found = 0.0, []
    for number in range(count):
        beside = alike * beside + chance.gauss(0, noise)
        found.append((number * 5.0, 100 + per_hour * number * 5.0 / HOUR + beside))
    return found


def test_an_exact_line() -> None:
    """Its slope is found without doubt, and so is that of what never changes."""
    trend = trend_of(sampled(36.0))
    assert trend is not None
    assert trend.slope == pytest.approx(36.0)
    assert trend.margin == pytest.approx(0.0, abs=1e-6)
    assert trend.mean == pytest.approx(100 + 36 * 199 * 5 / HOUR / 2)
    assert trend_of([(at, 7.0) for at, _ in sampled(0.0)]) == Trend(7.0, 0.0, 0.0, 200)


def test_too_few_samples() -> None:
    """Nothing is said of them."""
    assert trend_of(sampled(1.0, count=7)) is None
    assert trend_of(sampled(1.0, count=8)) is not None


@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_the_margin_holds_the_truth(alike: float) -> None:
    """In about 95 of 100 cases the true slope is within the margin, also where neighbours are alike."""
    within = 0
    for seed in range(200):
        trend = trend_of(sampled(20.0, noise=1.0, alike=alike, seed=seed))
        assert trend is not None
        within += abs(trend.slope - 20.0) <= trend.margin
    assert within >= 180


def test_neighbours_that_are_alike_say_less() -> None:
    """The margin is wider than for independent samples that vary as much."""
    alone, alike = (
        trend_of(sampled(0.0, noise=noise, alike=part)) for noise, part in ((1.0, 0.0), ((1 - 0.8**2) ** 0.5, 0.8))
    )
    assert alone is not None
    assert alike is not None
    assert alike.margin > 2 * alone.margin


@pytest.mark.parametrize(
    ("slope", "margin", "verdict"),
    [
        (0.0, 1.0, Verdict.FLAT),
        (-50.0, 55.0, Verdict.FLAT),
        (9.0, 1.0, Verdict.FLAT),
        (9.0, 2.0, Verdict.UNCLEAR),
        (11.0, 1.0, Verdict.UNCLEAR),
        (11.5, 1.0, Verdict.GROWS),
        (500.0, 600.0, Verdict.UNCLEAR),
    ],
)
def test_verdicts(slope: float, margin: float, verdict: Verdict) -> None:
    """Ten an hour are tolerated: it is flat or grows only where the whole margin lies on one side of that."""
    assert Trend(100.0, slope, margin, 200).verdict(10.0) is verdict
