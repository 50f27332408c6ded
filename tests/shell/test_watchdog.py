"""The watchdog over the Trio loop, with a clock and a loop that the test moves by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from trio_parallel_kafka.control import watchdog
from trio_parallel_kafka.control.watchdog import PERIOD, LoopWatchdog


class Loop:
    """A loop that runs what it is asked when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked: list[Callable[[], None]] = []

    def call_soon(self, function: Callable[[], None]) -> None:
        self.asked.append(function)

    def answer(self) -> None:
        self.asked.pop()()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    """A loop with its own time."""
    made = Loop()
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_asks_once_a_period(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that answers is asked once a period, and nothing is logged."""
    dog = LoopWatchdog.for_this_thread(loop.call_soon)
    for _ in range(3):
        dog.check()
        assert not loop.asked
        loop.now += PERIOD
        dog.check()
        dog.check()
        assert len(loop.asked) == 1
        loop.now += PERIOD / 2
        assert dog.silence == PERIOD / 2
        dog.check()
        loop.answer()
        assert dog.silence == 0.0
    assert not caplog.text


def test_silence_is_reported_with_the_place_and_less_and_less_often(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that doesn't answer is logged with its stack, after 1, 2, 4 ... periods, and again when it goes on."""
    dog = LoopWatchdog.for_this_thread(loop.call_soon)
    loop.now += PERIOD
    dog.check()
    reported_at = []
    for _ in range(85):
        loop.now += PERIOD / 10
        before = len(caplog.records)
        dog.check()
        if len(caplog.records) > before:
            reported_at.append(round(dog.silence / PERIOD))
    assert reported_at == [1, 2, 4, 8]
    assert "test_silence_is_reported" in caplog.text
    assert dog.silence == pytest.approx(8.5 * PERIOD)
    loop.answer()
    assert "the Trio loop goes on after 8.5 s" in caplog.text
    loop.now += PERIOD
    dog.check()
    assert len(loop.asked) == 1
    loop.now += PERIOD
    dog.check()
    assert len(caplog.records) == 6


def test_loop_thread_that_is_gone(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """A thread that has ended has no stack to show."""
    dog = LoopWatchdog(loop.call_soon, -1)
    loop.now += PERIOD
    dog.check()
    loop.now += PERIOD
    dog.check()
    assert "(gone)" in caplog.text
