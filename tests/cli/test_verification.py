"""The verifier notices each kind of broken promise, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trio_parallel_kafka.cli.verification import Verifier

Log = list[tuple[str, str, int]]


def verifier_after(log: Log, expected: int = 3) -> Verifier:
    """A verifier that was told of ``(what, lane, number)``; what is start, end or cancel."""
    verifier = Verifier(expected)
    for what, lane, number in log:
        if what == "start":
            verifier.started(lane, number)
        else:
            verifier.ended(lane, number, completed=what == "end")
    return verifier


def handled(lane: str, *numbers: int) -> Log:
    """Orders handled one after another."""
    return [(what, lane, number) for number in numbers for what in ("start", "end")]


@pytest.mark.parametrize(
    ("log", "violations", "missing", "duplicates"),
    [
        pytest.param(handled("a", 1, 2, 3), 0, 0, 0, id="in order"),
        pytest.param(handled("b", 3) + handled("a", 1, 2), 0, 0, 0, id="lanes have no order among them"),
        pytest.param(handled("a", 2, 1, 3), 1, 0, 0, id="swapped"),
        pytest.param(handled("a", 3, 1, 2), 2, 0, 0, id="two too late"),
        pytest.param(
            [("start", "a", 1), ("start", "a", 2), ("end", "a", 1), ("end", "a", 2), *handled("a", 3)],
            *(1, 0, 0),
            id="two of a lane at once",
        ),
        pytest.param(handled("a", 1, 3), 0, 1, 0, id="skipped"),
        pytest.param([], 0, 3, 0, id="nothing at all"),
        pytest.param([*handled("a", 1, 2), ("start", "a", 3)], 0, 1, 0, id="not ended"),
        pytest.param([*handled("a", 1, 2), ("start", "a", 3), ("cancel", "a", 3)], 0, 1, 0, id="cancelled"),
        pytest.param(
            [("start", "a", 1), ("cancel", "a", 1), *handled("a", 1, 2, 3)], 0, 0, 0, id="cancelled, then done"
        ),
        pytest.param(handled("a", 1, 2, 1, 2, 3), 0, 0, 2, id="handled again, in order"),
        pytest.param(
            [*handled("a", 1, 2, 3), ("start", "a", 3), ("start", "a", 3)], 1, 0, 0, id="twice at once, not ended"
        ),
    ],
)
def test_verdict(log: Log, violations: int, missing: int, duplicates: int) -> None:
    """Order violations, missing orders and duplicates are counted from the starts and ends."""
    verifier = verifier_after(log)
    assert (verifier.order_violations, verifier.missing, verifier.duplicates) == (violations, missing, duplicates)


def test_peak_in_flight() -> None:
    """The peak is the most that ran at once, over all lanes; cancelled ones count while they run."""
    log = [("start", "a", 1), ("start", "b", 2), ("cancel", "a", 1), ("start", "c", 3), ("end", "b", 2)]
    verifier = verifier_after(log)
    assert (verifier.in_flight, verifier.peak_in_flight, verifier.completed) == (1, 2, 1)


@given(st.permutations(range(1, 7)))
def test_only_the_produced_order_passes(numbers: list[int]) -> None:
    """Of all orders in which a lane can be handled, only the rising one has no violation."""
    verifier = verifier_after(handled("a", *numbers), expected=6)
    assert (verifier.order_violations == 0) == (numbers == sorted(numbers))
    assert (verifier.missing, verifier.duplicates, verifier.peak_in_flight) == (0, 0, 1)
