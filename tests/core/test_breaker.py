"""The circuit breaker, by itself and against a model that remembers every attempt."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trio_parallel_kafka.core.breaker import BUCKETS, Breaker, BreakerState

WINDOW = 10.0
INTERVAL = 5.0


def breaker(*, failure_rate: float = 0.5, min_attempts: int = 4, now: float = 0.0) -> Breaker:
    """One that is closed."""
    return Breaker(
        failure_rate=failure_rate, min_attempts=min_attempts, window=WINDOW, probe_interval=INTERVAL, now=now
    )


def opened(now: float = 0.0) -> Breaker:
    """One that opened at ``now``."""
    made = breaker(now=now)
    assert [made.failed(now, 0) for _ in range(4)] == [False, False, False, True]
    return made


def test_opens_when_enough_attempts_fail() -> None:
    """At the rate it opens, not before; and it says so once."""
    made = breaker(min_attempts=2)
    assert [made.failed(1, total) for total in (3, 3, 3)] == [False, False, True]
    assert (made.state, made.failures, made.attempts) == (BreakerState.OPEN, 3, 6)
    assert not made.failed(1, 3)


def test_stays_closed_below_the_rate() -> None:
    """One success more than failures, at a rate of a half, keeps it closed."""
    made = breaker(min_attempts=2)
    assert not any(made.failed(1, 5) for _ in range(4))
    assert (made.state, made.next_due) == (BreakerState.CLOSED, None)


def test_stays_closed_while_attempts_are_few() -> None:
    """Whatever fails, nothing is concluded from fewer attempts than the least."""
    made = breaker(min_attempts=4)
    assert not any(made.failed(1, 0) for _ in range(3))
    assert made.failed(1, 0)


@pytest.mark.parametrize(("later", "is_counted"), [(9.9, True), (10.0, False), (1e9, False)])
def test_old_attempts_are_forgotten(later: float, is_counted: bool) -> None:
    """Failures and completions count for the length of the window."""
    made = breaker()
    made.failed(0.5, 2)
    made.observe(later, 2)
    assert (made.failures, made.attempts) == ((1, 3) if is_counted else (0, 0))


def test_completions_of_long_ago_do_not_hide_an_outage() -> None:
    """A million records done before the window leave the last seconds to decide."""
    made = breaker()
    made.observe(50, 1_000_000)
    made.observe(99, 1_000_000)
    assert [made.failed(100, 1_000_001) for _ in range(3)] == [False, False, True]


def test_probes_one_at_a_time() -> None:
    """After the interval one record may try; no other as long as that one is out."""
    made = opened(now=2)
    assert made.next_due == 7
    assert [made.may_probe(now) for now in (2, 6.9, 7, 100)] == [False, False, True, True]
    made.begin_probe()
    assert made.state is BreakerState.PROBING
    assert made.next_due is None
    assert not made.may_probe(1000)


def test_probe_that_succeeds_closes_it() -> None:
    """It starts anew then: what failed before doesn't count, nor what was completed meanwhile."""
    made = opened()
    made.begin_probe()
    made.probe_succeeded(6, 50)
    assert (made.state, made.attempts, made.may_probe(1000)) == (BreakerState.CLOSED, 0, False)
    assert [made.failed(6, 51) for _ in range(3)] == [False, False, True]


def test_probe_that_fails_opens_it_for_another_interval() -> None:
    """The next probe has to wait for as long as the first."""
    made = opened()
    made.begin_probe()
    made.probe_failed(6)
    assert (made.state, made.next_due) == (BreakerState.OPEN, 11)
    assert [made.may_probe(now) for now in (10.9, 11)] == [False, True]


def test_probe_that_is_cut_short_is_made_up_for_at_once() -> None:
    """A probe whose partition was taken away says nothing, and doesn't cost another interval."""
    made = opened()
    made.begin_probe()
    made.probe_dropped(6)
    assert (made.state, made.may_probe(6)) == (BreakerState.OPEN, True)


def test_late_failures_neither_prolong_nor_end_it() -> None:
    """Attempts that began before it opened change nothing when they fail."""
    made = opened()
    assert not made.failed(4, 0)
    assert (made.failures, made.next_due) == (4, 5)
    made.begin_probe()
    assert not made.failed(6, 0)
    assert (made.failures, made.state) == (4, BreakerState.PROBING)


def test_what_may_not_be_changes_nothing() -> None:
    """A probe can't begin while it is closed, nor end where there is none."""
    made = breaker()
    made.failed(0, 1)
    for call in (
        made.begin_probe,
        lambda: made.probe_succeeded(1, 5),
        lambda: made.probe_failed(1),
        lambda: made.probe_dropped(1),
    ):
        with pytest.raises(AssertionError):
            call()
    assert (made.state, made.failures, made.attempts, made.next_due) == (BreakerState.CLOSED, 1, 2, None)


@given(st.lists(st.floats(0, 1e6), max_size=200), st.floats(0, 1e9))
def test_memory_is_bounded(steps: list[float], start: float) -> None:
    """However long it is used and whatever the clock, it holds no more than its buckets."""
    made = breaker(min_attempts=10**9, now=start)
    now = start
    for total, step in enumerate(steps):
        now += step
        made.failed(now, total)
    assert len(made._buckets) <= BUCKETS


@attrs.define
class Attempt:
    """One that ended: in which tenth of the window, and how."""

    slot: int
    has_failed: bool


class BreakerMachine(RuleBasedStateMachine):
    """Does anything to a breaker that its owner may do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.breaker = breaker(now=self.now)
        self.completed = 0
        self.unseen = 0
        self.attempts: list[Attempt] = []
        self.opened_at: float | None = None
        self.is_probing = False

    @property
    def slot(self) -> int:
        return int(self.now // (WINDOW / BUCKETS))

    @property
    def recent(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.slot > self.slot - BUCKETS]

    def see(self) -> None:
        self.attempts += [Attempt(self.slot, has_failed=False) for _ in range(self.unseen)]
        self.unseen = 0

    @rule(quarters=st.integers(0, 8) | st.integers(0, 100))
    def pass_time(self, quarters: int) -> None:
        self.now += quarters / 4
        self.breaker.observe(self.now, self.completed)
        self.see()

    @rule(count=st.integers(1, 3))
    def complete(self, count: int) -> None:
        self.completed += count
        self.unseen += count

    @rule()
    def fail(self) -> None:
        self.see()
        is_closed = self.opened_at is None and not self.is_probing
        if is_closed:
            self.attempts.append(Attempt(self.slot, has_failed=True))
        failed = sum(attempt.has_failed for attempt in self.recent)
        is_to_open = is_closed and len(self.recent) >= 4 and failed * 2 >= len(self.recent)
        assert self.breaker.failed(self.now, self.completed) is is_to_open
        if is_to_open:
            self.opened_at = self.now

    @precondition(lambda self: self.opened_at is not None)
    @rule()
    def probe(self) -> None:
        assert self.opened_at is not None
        may = self.now >= self.opened_at + INTERVAL
        assert self.breaker.may_probe(self.now) is may
        if may:
            self.breaker.begin_probe()
            self.opened_at, self.is_probing = None, True

    @precondition(lambda self: self.is_probing)
    @rule()
    def succeed(self) -> None:
        self.breaker.probe_succeeded(self.now, self.completed)
        self.is_probing, self.unseen = False, 0
        self.attempts.clear()

    @precondition(lambda self: self.is_probing)
    @rule(is_dropped=st.booleans())
    def fail_to_probe(self, is_dropped: bool) -> None:
        self.is_probing = False
        if is_dropped:
            self.breaker.probe_dropped(self.now)
            self.opened_at = self.now - INTERVAL
        else:
            self.breaker.probe_failed(self.now)
            self.opened_at = self.now

    @invariant()
    def stands_where_the_model_does(self) -> None:
        expected = BreakerState.PROBING if self.is_probing else BreakerState.OPEN
        if self.opened_at is None and not self.is_probing:
            expected = BreakerState.CLOSED
        assert self.breaker.state is expected
        assert self.breaker.next_due == (None if self.opened_at is None else self.opened_at + INTERVAL)

    @invariant()
    def counts_what_is_recent(self) -> None:
        assert self.breaker.attempts == len(self.recent)
        assert self.breaker.failures == sum(attempt.has_failed for attempt in self.recent)


TestBreakerMachine = BreakerMachine.TestCase
