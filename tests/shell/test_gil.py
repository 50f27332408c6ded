"""The pause that a busy loop makes, with a clock that the test moves by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from trio_parallel_kafka.control import gil
from trio_parallel_kafka.control.gil import MAX_BUSY, PAUSE, GilYield


class Clock:
    def __init__(self) -> None:
        self.now = 5.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The instrument's clock."""
    made = Clock()
    monkeypatch.setattr(gil, "time", SimpleNamespace(perf_counter=lambda: made.now, sleep=made.sleep))
    return made


def round_trip(instrument: GilYield, clock: Clock, *, busy: float, waited: float) -> None:
    """One round of the loop: work, then a wait for I/O."""
    clock.now += busy
    instrument.before_io_wait(0.0)
    clock.now += waited
    instrument.after_io_wait(0.0)


def test_busy_loop_pauses_once_in_a_while(clock: Clock) -> None:
    """Rounds without a rest pause each time that they have added up, and only then."""
    instrument = GilYield()
    for _ in range(100):
        round_trip(instrument, clock, busy=MAX_BUSY / 10, waited=0.0)
    assert set(clock.slept) == {PAUSE}
    assert 8 <= len(clock.slept) <= 10


def test_loop_that_rests_never_pauses(clock: Clock) -> None:
    """A wait that lasted is a rest: the other thread had its turn."""
    instrument = GilYield()
    for _ in range(10):
        round_trip(instrument, clock, busy=MAX_BUSY * 0.9, waited=0.0)
        round_trip(instrument, clock, busy=0.0, waited=PAUSE * 2)
    assert not clock.slept


def test_short_wait_is_no_rest(clock: Clock) -> None:
    """A wait that found something ready at once doesn't count."""
    instrument = GilYield()
    round_trip(instrument, clock, busy=MAX_BUSY * 2, waited=PAUSE / 2)
    assert clock.slept == [PAUSE]
