"""The breaker: what it lets through, and that attempts which it prevents don't count."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from shell.failing import Failing, fails, graveyard
from shell.fake_outbox import FakeOutbox
from shell.kit import NEVER, P0, P1, HandlerError, Handling, World
from trio.testing import MockClock

from trio_parallel_kafka import DeadLetter, Record, Skip, parallel_consumer
from trio_parallel_kafka.config import BreakerPolicy, DeadLetterConfig, RetryPolicy
from trio_parallel_kafka.errors import DeliveryError

BREAKER = BreakerPolicy(failure_rate=0.5, min_attempts=10, window=10.0, probe_interval=5.0)
PATIENT = RetryPolicy(max_attempts=3, initial_backoff=0.5, multiplier=1.0, jitter=0.0)


class Dependency:
    """A handler of what may be down; it takes ``work`` seconds."""

    def __init__(self, *, work: float = 0.05) -> None:
        self.is_down = True
        self.work = work
        self.calls: list[tuple[float, Record]] = []
        self.done: set[tuple[int, int]] = set()

    async def __call__(self, record: Record) -> None:
        self.calls.append((round(trio.current_time(), 2), record))
        await trio.sleep(self.work)
        if self.is_down:
            raise HandlerError("down")
        self.done.add((record.partition, record.offset))

    def since(self, moment: float) -> list[float]:
        """When it was called from this moment on."""
        return [at for at, _ in self.calls if at >= moment]


async def test_breaker_opens_probes_and_closes(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Open, it hands nothing out but one record an interval; one that succeeds closes it, and all goes on."""
    caplog.set_level("INFO", "trio_parallel_kafka.gate")
    world.broker.add(P0, [f"k{n}" for n in range(50)])
    handle = Dependency()
    async with world.consuming(handle, max_concurrency=10, retry=PATIENT, breaker=BREAKER) as pc:
        await trio.sleep(1)
        at_once = len(handle.calls)
        assert at_once < 20  # the bound, and what took their places before the last of them had failed
        assert pc.statistics().held == ("circuit open",)
        assert "the circuit is open: 10 of the last 10 attempts failed" in caplog.text
        await trio.sleep(10)
        assert handle.since(1) == [5.05, 10.1]
        assert "the circuit stays open" in caplog.text
        handle.is_down = False
        await trio.sleep(4.1)
        assert handle.since(11) == []
        await trio.sleep(0.08)
        assert handle.since(11) == [15.15]
        await trio.sleep(2)
        assert handle.since(11)[1] == 15.2
        assert pc.statistics().held == ()
        assert "the circuit is closed again" in caplog.text
    assert len(handle.done) == 50
    assert max(record.attempt for _, record in handle.calls) == 2
    assert world.committed(P0) == 50


async def test_outage_turns_no_buffer_into_dead_letters(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """10,000 buffered records meet a dependency that is down for minutes: none becomes a dead letter, all are done."""
    graveyard(world)
    for partition in (P0, P1):
        world.broker.add(partition, [f"k{n % 2500}" for n in range(5000)])
    handle = Dependency()
    fields: dict[str, Any] = {"retry": PATIENT, "on_failure": "dead_letter", "breaker": BREAKER}
    async with world.consuming(handle, max_buffered_records=6000, **fields) as pc:
        await trio.sleep(180)
        assert pc.statistics().buffered_records == 10_000
        assert len(handle.calls) < 2 * 256 + 180 / BREAKER.probe_interval
        handle.is_down = False
        await trio.sleep(15)
        totals = pc.statistics().totals
        assert (totals.completed, totals.dead_lettered, totals.skipped) == (10_000, 0, 0)
    assert outbox.sent == []
    assert len(handle.done) == 10_000
    assert (world.committed(P0), world.committed(P1)) == (5000, 5000)


async def test_only_a_single_record_probes(autojump_clock: MockClock, world: World) -> None:
    """While one record tries, no other does, nor the next of its lane, however long it takes."""
    world.broker.add(P0, ["a"] * 10 + [f"k{n}" for n in range(10)])
    handle = Dependency()
    async with world.consuming(handle, max_concurrency=10, retry=PATIENT, breaker=BREAKER):
        await trio.sleep(4)
        handle.work = 30.0
        handle.is_down = False
        await trio.sleep(30)
        assert len(handle.since(4)) == 1
        handle.work = 0.05
        await trio.sleep(3)
    assert len(handle.done) == 20


@pytest.mark.parametrize("how", ["revoke", "lose"])
async def test_probe_cut_short_says_nothing(autojump_clock: MockClock, world: World, how: str) -> None:
    """A probe whose partition is taken away is followed by another at once, of what is still there."""
    world.broker.add(P0, [f"k{n}" for n in range(20)])
    handle = Dependency()
    async with world.consuming(handle, retry=PATIENT, breaker=BREAKER, revoke_grace=0.0) as pc:
        await trio.sleep(4)
        handle.work = 1000.0
        await trio.sleep(2)
        ((_, probe),) = handle.calls[20:]
        assert probe.partition == 0
        world.broker.add(P1, ["c"] * 3, at=10)
        await trio.sleep(20)
        handle.work, handle.is_down = 0.05, False
        await world.rebalance(**{how: [P0]})
        await trio.sleep(1)
        assert pc.statistics().held == ()
        assert handle.done == {(1, 10), (1, 11), (1, 12)}
        await world.rebalance(assign=[P0])
        await trio.sleep(1)
    assert len(handle.done) == 23


async def test_probe_that_swallows_its_cancellation_says_nothing_either(
    autojump_clock: MockClock, world: World
) -> None:
    """It returns as if all were well, but for an assignment that has ended; the breaker doesn't wait for it for ever.

    It did, and nothing was handed out any more.
    """
    world.broker.add(P0, [f"k{n}" for n in range(20)])
    dependency = Dependency()

    async def handle(record: Record) -> None:
        with trio.CancelScope(shield=True):
            await dependency(record)

    async with world.consuming(handle, retry=PATIENT, breaker=BREAKER) as pc:
        await trio.sleep(4)
        dependency.work, dependency.is_down = 5.0, False
        await trio.sleep(2)
        world.broker.add(P1, ["c"], at=10)
        dependency.work = 0.05
        await world.rebalance(lose=[P0])
        await trio.sleep(20)
        assert pc.statistics().totals.fenced == 1
        assert pc.statistics().held == ()
        assert (1, 10) in dependency.done


async def test_probe_waits_for_a_record(autojump_clock: MockClock, world: World) -> None:
    """If nothing is ready when a probe is due, the next record that comes is the one, alone."""
    world.broker.add(P0, [f"k{n}" for n in range(10)])
    handle = Dependency(work=0.0)
    policy = RetryPolicy(max_attempts=3, initial_backoff=30.0, jitter=0.0)
    async with world.consuming(handle, retry=policy, breaker=BREAKER) as pc:
        await trio.sleep(15)
        assert len(handle.calls) == 10
        world.broker.add(P1, ["c", "d"], at=100)
        await trio.sleep(3)
        assert len(handle.calls) == 11
        handle.is_down = False
        await trio.sleep(35)
        assert pc.statistics().held == ()
        assert len(handle.done) == 12


async def test_parked_record_that_is_due_may_probe(autojump_clock: MockClock, world: World) -> None:
    """A record that has failed before probes when nothing else is there, and comes to its next attempt by that."""
    world.broker.add(P0, [f"k{n}" for n in range(10)])
    handle = Dependency(work=0.0)
    policy = RetryPolicy(max_attempts=3, initial_backoff=7.0, jitter=0.0)
    async with world.consuming(handle, retry=policy, breaker=BREAKER):
        await trio.sleep(6)
        handle.is_down = False
        await trio.sleep(1.5)
        assert sorted(handle.since(1)) == [7.0] * 10
    assert len(handle.done) == 10


@pytest.mark.parametrize("decision", [Skip, DeadLetter])
async def test_decisions_are_no_failures_of_a_dependency(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, decision: type[Exception]
) -> None:
    """Records that the handler gives up by itself neither open the breaker nor keep it open."""
    graveyard(world)
    world.broker.add(P0, [f"k{n}" for n in range(100)])
    dependency = Dependency()
    gives_up = True

    async def handle(record: Record) -> None:
        if gives_up:
            raise decision("malformed")
        await dependency(record)

    fields: dict[str, Any] = {"retry": PATIENT, "breaker": BREAKER, "dead_letter": DeadLetterConfig()}
    async with world.consuming(handle, **fields) as pc:
        await trio.sleep(20)
        assert pc.statistics().held == ()
        assert pc.statistics().totals.completed == 100
        gives_up = False
        world.broker.add(P0, [f"k{n}" for n in range(100)])
        await trio.sleep(3)
        assert pc.statistics().held == ("circuit open",)
        gives_up = True
        await trio.sleep(5)
        assert pc.statistics().held == ()
        assert pc.statistics().totals.completed == 200


@pytest.mark.parametrize("on_failure", ["skip", "dead_letter"])
async def test_record_given_up_is_no_success(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, on_failure: str
) -> None:
    """A record that failed for good isn't taken for one that was handled: where all fail, the rate is 1.

    Its completion was counted against its failure, and rates above a half were never reached.
    """
    graveyard(world)
    world.broker.add(P0, [f"k{n}" for n in range(200)])
    policy = BreakerPolicy(failure_rate=1.0, min_attempts=10, window=10.0, probe_interval=5.0)
    async with world.consuming(Dependency(), max_concurrency=5, on_failure=on_failure, breaker=policy) as pc:
        await trio.sleep(4)
        assert pc.statistics().held == ("circuit open",)
        assert pc.statistics().totals.completed < 20


async def test_successes_keep_it_closed(autojump_clock: MockClock, world: World) -> None:
    """A rate of failures below the bound opens nothing, however many there are.

    One in four: of the nine that end at once, in any order, those that fail may come first.
    """
    world.broker.add(P0, [f"k{n}" for n in range(900)])
    handle = Failing({offset: fails(1) for offset in range(0, 900, 4)}, work=0.1)
    async with world.consuming(handle, max_concurrency=9, retry=PATIENT, breaker=BREAKER) as pc:
        for _ in range(30):
            await trio.sleep(1)
            assert pc.statistics().held == ()
        assert pc.statistics().totals.failed == 225


async def test_failures_far_apart_keep_it_closed(autojump_clock: MockClock, world: World) -> None:
    """What failed longer ago than the window counts no more."""
    handle = Dependency()
    async with world.consuming(handle, on_failure="skip", breaker=BREAKER) as pc:
        for n in range(40):
            world.broker.add(P0, [f"k{n}"])
            await trio.sleep(1.3)
            assert pc.statistics().held == ()


async def test_successes_long_ago_do_not_keep_it_closed(autojump_clock: MockClock, world: World) -> None:
    """What was handled before the window says nothing of the dependency as it is now."""
    world.broker.add(P0, [f"k{n}" for n in range(1000)])
    handle = Dependency()
    handle.is_down = False
    async with world.consuming(handle, retry=PATIENT, breaker=BREAKER) as pc:
        await trio.sleep(30)
        assert len(handle.done) == 1000
        handle.is_down = True
        world.broker.add(P0, [f"k{n}" for n in range(30)])
        await trio.sleep(1)
        assert pc.statistics().held == ("circuit open",)


async def test_timeouts_open_it(autojump_clock: MockClock, world: World) -> None:
    """Attempts that take too long are failures of the dependency, too."""
    world.broker.add(P0, [f"k{n}" for n in range(50)])
    handle = Dependency(work=100.0)
    fields: dict[str, Any] = {"retry": PATIENT, "breaker": BREAKER, "handler_timeout": 2.0}
    async with world.consuming(handle, max_concurrency=10, **fields) as pc:
        await trio.sleep(3)
        assert pc.statistics().held == ("circuit open",)
        await trio.sleep(20)
        assert handle.since(3) == [7.0, 14.0, 21.0]


async def test_pause_holds_probes_back(autojump_clock: MockClock, world: World) -> None:
    """While all is paused, no record probes; after the resume one does."""
    world.broker.add(P0, [f"k{n}" for n in range(50)])
    handle = Dependency()
    async with world.consuming(handle, max_concurrency=10, retry=PATIENT, breaker=BREAKER) as pc:
        await trio.sleep(1)
        pc.pause()
        await trio.sleep(20)
        assert pc.statistics().held == ("circuit open", "paused")
        assert handle.since(1) == []
        handle.is_down = False
        pc.resume()
        await trio.sleep(2)
        assert handle.since(1)[0] == 21.0
        assert pc.statistics().held == ()
    assert len(handle.done) == 50


async def test_paused_partition_gives_no_probe(autojump_clock: MockClock, world: World) -> None:
    """The record that probes is one of a partition that isn't paused."""
    world.broker.add(P0, [f"k{n}" for n in range(20)])
    world.broker.add(P1, [f"k{n}" for n in range(20)])
    handle = Dependency()
    async with world.consuming(handle, retry=PATIENT, breaker=BREAKER) as pc:
        await trio.sleep(1)
        pc.pause([P0])
        await trio.sleep(30)
        assert {record.partition for at, record in handle.calls if at > 1} == {1}
        handle.is_down = False
        await trio.sleep(10)
        assert {partition for partition, _ in handle.done} == {1}
        pc.resume([P0])
    assert len(handle.done) == 40


async def test_partition_assigned_under_an_open_breaker(autojump_clock: MockClock, world: World) -> None:
    """What comes while it is open waits like the rest."""
    world.broker.share = [P0]
    world.broker.add(P0, [f"k{n}" for n in range(20)])
    world.broker.add(P1, [f"k{n}" for n in range(20)])
    handle = Dependency()
    async with world.consuming(handle, retry=PATIENT, breaker=BREAKER):
        await trio.sleep(1)
        await world.rebalance(assign=[P1])
        await trio.sleep(3)
        assert handle.since(1) == []
        handle.is_down = False
        await trio.sleep(3)
    assert len(handle.done) == 40


async def test_stop_under_an_open_breaker(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A stop doesn't wait for it to close: what is buffered is left, as attempts that weren't made."""
    graveyard(world)
    world.broker.add(P0, [f"k{n}" for n in range(50)])
    handle = Dependency()
    fields: dict[str, Any] = {"retry": PATIENT, "on_failure": "dead_letter", "breaker": BREAKER}
    async with world.consuming(handle, max_concurrency=10, **fields):
        await trio.sleep(3)
    assert trio.current_time() < 3.5
    assert len(handle.calls) < 20
    assert outbox.sent == []
    assert world.committed(P0) == 0
    assert not world.client.left_owned


async def test_parked_record_does_not_probe_during_a_stop(autojump_clock: MockClock, world: World) -> None:
    """What is parked when the consumer stops is left, though a probe is due while others drain."""
    world.broker.add(P0, [f"k{n}" for n in range(10)])
    world.broker.add(P1, ["slow"])
    dependency = Dependency()
    slow = Handling(work=20.0)

    async def handle(record: Record) -> None:
        await (slow(record) if record.partition == 1 else dependency(record))

    policy = RetryPolicy(max_attempts=3, initial_backoff=4.0, jitter=0.0)
    async with world.consuming(handle, retry=policy, breaker=BREAKER):
        await trio.sleep(1)
    assert slow.finished == [(1, 0)]
    assert dependency.since(1) == []


async def test_dead_letter_that_waits_is_no_probe(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A record of which only the dead letter is still to be sent says nothing of the dependency.

    When it had been given up by decision, its turn once closed the breaker.
    """
    graveyard(world)
    world.broker.add(P0, ["bad", *(f"k{n}" for n in range(20))])
    outbox.errors += [DeliveryError("no ack")]
    dependency = Dependency()

    async def handle(record: Record) -> None:
        if record.key == b"bad":
            raise DeadLetter("malformed")
        await dependency(record)

    settings = DeadLetterConfig(on_dead_letter_failure="retry")
    policy = RetryPolicy(max_attempts=5, initial_backoff=2.0, max_backoff=2.0, jitter=0.0)
    async with world.consuming(handle, retry=policy, breaker=BREAKER, dead_letter=settings) as pc:
        await trio.sleep(6)
        assert outbox.places == [(0, 0)]
        assert pc.statistics().held == ("circuit open",)
        assert len(dependency.since(4)) == 1
        dependency.is_down = False


async def test_closed_breaker_costs_the_end_nothing(autojump_clock: MockClock, world: World) -> None:
    """A failure after all has ended is left as it is: the last attempts of a stopped consumer open nothing."""
    world.broker.add(P0, [f"k{n}" for n in range(12)])
    handle = Dependency(work=3.0)
    config = world.config(retry=PATIENT, breaker=BREAKER, commit_interval=NEVER)
    async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        await trio.sleep(1)
        pc.stop()
    assert pc.statistics().held == ("circuit open", "stopping")
    assert world.committed(P0) == 0
