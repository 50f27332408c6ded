"""What the client logs again and again is said once a period, with the number of times it was left out."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from trio_parallel_kafka import repeats
from trio_parallel_kafka.repeats import MAX_KEYS, PERIOD, QuietLogger, Repeats


def test_the_same_is_said_once_a_period() -> None:
    """What was said less than a period ago is left out, and counted until it is said again."""
    counted = Repeats()
    times = [0.0, 0.1, PERIOD - 0.1, PERIOD, PERIOD + 1, 2 * PERIOD, 5 * PERIOD]
    assert [counted.count("a", now) for now in times] == [0, None, None, 2, None, 1, 0]


def test_different_things_are_said() -> None:
    """Keys don't know of one another."""
    counted = Repeats()
    assert [counted.count(key, 0.0) for key in "abab"] == [0, 0, None, None]


def test_it_is_bounded() -> None:
    """Only so many keys are remembered; beyond them all are forgotten, which says some of it once more."""
    counted = Repeats()
    for number in range(MAX_KEYS):
        assert counted.count(number, 0.0) == 0
    assert counted.count(0, 0.1) is None
    assert counted.count("one more", 0.1) == 0
    assert len(counted._said) == 1
    assert counted.count(0, 0.1) == 0


def test_lines_that_differ_in_numbers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The client's lines are the same if only numbers differ; the next one that is said tells how many there were."""
    clock: list[float] = [100.0]
    monkeypatch.setattr(repeats, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    quiet: Any = QuietLogger(logging.getLogger("trio_parallel_kafka.client"))
    for after in (1, 2, 3):
        quiet.log(logging.WARNING, "%s [%s]: failed after %d ms", "FAIL", "thrd:1", after)
    quiet.log(logging.WARNING, "%s [%s]: gone", "FAIL", "thrd:1")
    clock[0] += PERIOD
    quiet.log(logging.WARNING, "%s [%s]: failed after %d ms", "FAIL", "thrd:1", 4)
    assert caplog.messages == [
        "FAIL [thrd:1]: failed after 1 ms",
        "FAIL [thrd:1]: gone",
        "FAIL [thrd:1]: failed after 4 ms (2 times more since)",
    ]
