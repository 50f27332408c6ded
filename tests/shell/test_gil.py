"""The pause that a busy loop makes, with a clock that the test moves by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from trio_parallel_kafka.control import gil
from trio_parallel_kafka.control.gil import MAX_BUSY, PAUSE, GilYield, always, yielding_gil


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


def needed() -> GilYield:
    """One that a thread needs at any moment."""
    instrument = GilYield()
    instrument.needs.append(always)
    return instrument


def round_trip(instrument: GilYield, clock: Clock, *, busy: float, waited: float) -> None:
    """One round of the loop: work, then a wait for I/O."""
    clock.now += busy
    instrument.before_io_wait(0.0)
    clock.now += waited
    instrument.after_io_wait(0.0)


def test_busy_loop_pauses_once_in_a_while(clock: Clock) -> None:
    """Rounds without a rest pause each time that they have added up, and only then."""
    instrument = needed()
    for _ in range(100):
        round_trip(instrument, clock, busy=MAX_BUSY / 10, waited=0.0)
    assert set(clock.slept) == {PAUSE}
    assert 8 <= len(clock.slept) <= 10


def test_loop_that_rests_never_pauses(clock: Clock) -> None:
    """A wait that lasted is a rest: the other thread had its turn."""
    instrument = needed()
    for _ in range(10):
        round_trip(instrument, clock, busy=MAX_BUSY * 0.9, waited=0.0)
        round_trip(instrument, clock, busy=0.0, waited=PAUSE * 2)
    assert not clock.slept


def test_short_wait_is_no_rest(clock: Clock) -> None:
    """A wait that found something ready at once doesn't count."""
    instrument = needed()
    round_trip(instrument, clock, busy=MAX_BUSY * 2, waited=PAUSE / 2)
    assert clock.slept == [PAUSE]


def test_pause_that_no_thread_needs(clock: Clock) -> None:
    """A loop doesn't pause for threads that rest; one that needs it is enough."""
    instrument = GilYield()
    needs = [False, False]
    instrument.needs += [lambda: needs[0], lambda: needs[1]]
    round_trip(instrument, clock, busy=MAX_BUSY * 2, waited=0.0)
    assert not clock.slept
    needs[1] = True
    round_trip(instrument, clock, busy=MAX_BUSY / 2, waited=0.0)
    assert not clock.slept, "it was looked at just before"
    round_trip(instrument, clock, busy=MAX_BUSY, waited=0.0)
    assert clock.slept == [PAUSE]


async def test_instrument_that_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a run have one instrument, which knows the needs of those that are open, and goes with the last."""
    made: list[GilYield] = []

    class Kept(GilYield):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    def other() -> bool:
        return False

    monkeypatch.setattr(gil, "GilYield", Kept)
    with yielding_gil():
        with yielding_gil(other), yielding_gil(other):
            assert [each.needs for each in made] == [[always, other, other]]
        assert made[0].needs == [always]
        assert always()
        trio.lowlevel.remove_instrument(made[0])
        trio.lowlevel.add_instrument(made[0])
    with pytest.raises(KeyError):
        trio.lowlevel.remove_instrument(made[0])
