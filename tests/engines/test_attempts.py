"""An attempt: bounded in time from its start on, and not over before what it began is."""

from __future__ import annotations

import logging
import math

import pytest
import trio
import trio.testing
from engines.unstoppable import Unstoppable
from shell.kit import BodyError, StepCounter
from trio.testing import MockClock

from trio_parallel_kafka import Attempt, HandlerTimeoutError
from trio_parallel_kafka.execution.attempts import GivenUp, UnderWay, attempting, goes_on_after, waiting


class Executed:
    """Calls that take ``work`` seconds; what they began goes on for ``rest`` seconds after their cancellation."""

    def __init__(self, *, work: float = 0.0, rest: float | None = None, swallows: bool = False) -> None:
        self.work = work
        self.rest = rest
        self.swallows = swallows
        self.ended_at: float | None = None

    async def __call__(self, given: object, attempt: Attempt) -> object:
        try:
            await trio.sleep(self.work)
        except trio.Cancelled:
            if self.rest is not None:
                ended = trio.Event()
                trio.lowlevel.spawn_system_task(self._go_on, self.rest, ended)
                attempt.goes_on_until(ended)
            if not self.swallows:
                raise
        return given

    async def _go_on(self, rest: float, ended: trio.Event) -> None:
        await trio.sleep(rest)
        self.ended_at = trio.current_time()
        ended.set()


async def test_attempt_in_time(autojump_clock: MockClock) -> None:
    """What the engine returns and raises is handed on."""

    async def refuse(given: object, attempt: Attempt) -> object:
        raise BodyError

    for timeout in (None, 5.0):
        assert await attempting(Executed(work=4.0), timeout, GivenUp(), UnderWay())("a") == "a"
        with pytest.raises(BodyError):
            await attempting(refuse, timeout, GivenUp(), UnderWay())("a")


async def test_attempt_that_is_cancelled_in_time(autojump_clock: MockClock) -> None:
    """Its call is cancelled when the time is up; it has failed by that."""
    with pytest.raises(HandlerTimeoutError, match=r"longer than 5 s \(handler_timeout\)") as caught:
        await attempting(Executed(work=9.0), 5.0, GivenUp(), UnderWay())("a")
    assert trio.current_time() == pytest.approx(5.0)
    assert not goes_on_after(caught.value)


@pytest.mark.parametrize("rest", [None, 3.0])
async def test_attempt_that_returns_late(autojump_clock: MockClock, rest: float | None) -> None:
    """It has failed all the same."""
    with pytest.raises(HandlerTimeoutError) as caught:
        await attempting(Executed(work=9.0, rest=rest, swallows=True), 5.0, GivenUp(), UnderWay())("a")
    assert goes_on_after(caught.value) is (rest is not None)


async def test_time_runs_from_the_start(autojump_clock: MockClock) -> None:
    """While a call waits for its turn its time stands still; an engine may learn later that it has begun."""

    async def execute(given: object, attempt: Attempt) -> object:
        assert attempt.scope.deadline == math.inf
        await trio.sleep(100)
        attempt.started(seconds_ago=1.0)
        assert attempt.scope.deadline == pytest.approx(trio.current_time() + 4.0)
        await trio.sleep_forever()

    with pytest.raises(HandlerTimeoutError):
        await attempting(waiting(execute), 5.0, GivenUp(), UnderWay())("a")
    assert trio.current_time() == pytest.approx(104.0)


async def test_time_before_the_engine_counts(autojump_clock: MockClock) -> None:
    """What is done before the engine is asked, such as deserialising, is bounded, too."""
    attempt = Attempt(5.0)
    assert attempt.scope.deadline == pytest.approx(5.0)


async def test_attempt_without_a_bound(autojump_clock: MockClock) -> None:
    """Without ``handler_timeout`` nothing sets a deadline."""
    attempt = Attempt(None)
    attempt.started(seconds_ago=3.0)
    assert attempt.scope.deadline == math.inf


async def test_what_goes_on_is_waited_for_later(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A timeout is told at once; whoever deals with it waits for the handler when it likes, out of reach of others."""
    given_up, executed = GivenUp(), Executed(work=9.0, rest=20.0)
    with pytest.raises(HandlerTimeoutError) as caught:
        await attempting(executed, 5.0, given_up, UnderWay())("a")
    assert trio.current_time() == pytest.approx(5.0)
    assert given_up.count == 0
    with trio.move_on_after(3.0) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(given_up.wait_after, caught.value)
            await trio.testing.wait_all_tasks_blocked()
            assert given_up.count == 1
    assert scope.cancelled_caught
    assert executed.ended_at == pytest.approx(25.0)
    assert given_up.count == 0
    assert "the handler of 'a' was given up, but goes on" in caplog.text


async def test_nothing_to_wait_for(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Errors of another kind, and handlers that have ended by now, are passed over in silence."""
    given_up = GivenUp()
    with pytest.raises(HandlerTimeoutError) as caught:
        await attempting(Executed(work=9.0, rest=1.0), 5.0, given_up, UnderWay())("a")
    await trio.sleep(2)
    with trio.CancelScope() as scope:
        await given_up.wait_after(caught.value)
        await given_up.wait_after(BodyError())
        await given_up.wait_after(None)
        scope.cancel()
        with pytest.raises(trio.Cancelled):
            await given_up.wait_after(caught.value)
        await given_up.wait_after(BodyError())
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("seconds", [None, 50.0])
async def test_cancelled_call_is_waited_for(autojump_clock: MockClock, seconds: float | None) -> None:
    """A cancellation from outside leaves the attempt once the handler has ended."""
    given_up, executed = GivenUp(), Executed(work=9.0, rest=20.0)
    with trio.move_on_after(3.0) as scope:
        await attempting(executed, seconds, given_up, UnderWay())("a")
    assert scope.cancelled_caught
    assert trio.current_time() == executed.ended_at == pytest.approx(23.0)
    assert given_up.count == 0


async def test_cancelled_engine_with_tasks_of_its_own(autojump_clock: MockClock) -> None:
    """Whatever shape a cancellation has by the time it leaves an engine, the handler is waited for."""
    executed = Executed(work=9.0, rest=20.0)

    async def execute(given: object, attempt: Attempt) -> object:
        try:
            return await executed(given, attempt)
        except trio.Cancelled as error:
            raise BaseExceptionGroup("tasks", [error]) from None  # noqa: ASYNC104 - as a nursery does

    with trio.move_on_after(3.0) as scope:
        await attempting(execute, 50.0, GivenUp(), UnderWay())("a")
    assert scope.cancelled_caught
    assert trio.current_time() == executed.ended_at == pytest.approx(23.0)


@pytest.mark.parametrize("seconds", [None, 5.0])
async def test_cancelled_anywhere(autojump_clock: MockClock, seconds: float | None) -> None:
    """At whatever step a cancellation strikes, the handler has ended once it has left, and isn't counted any more."""
    ways = set()
    for steps in range(1, 40):
        given_up = GivenUp()
        begun: list[object] = []
        ended: list[object] = []

        async def handle(given: object, begun: list[object] = begun, ended: list[object] = ended) -> object:
            begun.append(given)
            for _ in range(8):
                await trio.sleep(1)
            ended.append(given)
            return given

        counter = StepCounter(steps)
        async with Unstoppable().open(handle) as execute:
            trio.lowlevel.add_instrument(counter)
            try:
                with counter.scope:
                    ways.add(await _attempted(attempting(waiting(execute), seconds, given_up, UnderWay()), given_up))
                assert ended == begun
            finally:
                trio.lowlevel.remove_instrument(counter)
            assert given_up.count == 0
        if counter.scope.cancelled_caught:
            ways.add("cancelled")
    assert ways == {"cancelled", "returned" if seconds is None else "failed"}


async def _attempted(attempt_at: object, given_up: GivenUp) -> str:
    """An attempt, as a visit deals with it."""
    assert callable(attempt_at)
    try:
        await attempt_at("a")
    except HandlerTimeoutError as error:
        await given_up.wait_after(error)
        return "failed"
    return "returned"
