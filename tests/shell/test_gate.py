"""Pause, resume and the breaker: what is dispatched when, and that attempts which are prevented don't count."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from shell.failing import Failing, fails, graveyard
from shell.fake_outbox import FakeOutbox
from shell.kit import NEVER, NO_ANSWER, P0, P1, HandlerError, Handling, World, error, of
from trio.testing import MockClock

from trio_parallel_kafka import DeadLetter, Record, Skip, parallel_consumer
from trio_parallel_kafka.config import BreakerPolicy, DeadLetterConfig, RetryPolicy
from trio_parallel_kafka.errors import DeliveryError

# Pause and resume, by hand


async def test_pause_holds_everything_back(autojump_clock: MockClock, world: World) -> None:
    """What runs goes on to its end; nothing else starts, not even the next record of its lane, until a resume."""
    world.broker.produce(P0, ["a", "a", "b"])
    handle = Handling(held={0})
    async with world.consuming(handle, max_concurrency=1) as pc:
        await trio.sleep(1)
        pc.pause()
        handle.let_go()
        world.broker.produce(P1, ["c"], at=10)
        await trio.sleep(5)
        assert handle.started == handle.finished == [(0, 0)]
        assert (pc.statistics().held, pc.statistics().in_flight, pc.statistics().buffered_records) == (
            ("paused",),
            0,
            3,
        )
        assert not world.client.paused
        pc.resume()
        await trio.sleep(1)
        assert pc.statistics().held == ()
    assert sorted(handle.finished) == [(0, 0), (0, 1), (0, 2), (1, 10)]


async def test_pause_of_a_partition_concerns_it_alone(autojump_clock: MockClock, world: World) -> None:
    """The other partition goes on; statistics say which one is held."""
    world.broker.produce(P0, ["a", "a"])
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(1)
        pc.pause([P0])
        world.broker.produce(P0, ["a", "b"])
        world.broker.produce(P1, ["a", "b"], at=10)
        await trio.sleep(5)
        assert (handle.offsets(P0), sorted(handle.offsets(P1))) == ([0, 1], [10, 11])
        assert (of(pc, P0).is_held, of(pc, P1).is_held, pc.statistics().held) == (True, False, ())
        pc.resume([("orders", 0)])
        assert not of(pc, P0).is_held
        await trio.sleep(1)
        assert sorted(handle.offsets(P0)) == [0, 1, 2, 3]


async def test_lane_in_a_paused_partition_stops_behind_its_record(autojump_clock: MockClock, world: World) -> None:
    """A worker that runs a lane of the partition gives it up after the record in hand, and serves others."""
    world.broker.produce(P0, ["a"] * 5)
    world.broker.produce(P1, ["c"] * 3, at=10)
    handle = Handling(held={0})
    async with world.consuming(handle, max_concurrency=1) as pc:
        await trio.sleep(1)
        pc.pause([P0])
        handle.let_go()
        await trio.sleep(1)
        assert handle.offsets(P0) == [0]
        assert handle.offsets(P1) == [10, 11, 12]
        pc.resume([P0])
    assert handle.offsets(P0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("how", ["revoke", "lose"])
async def test_pause_of_a_partition_outlasts_rebalances(autojump_clock: MockClock, world: World, how: str) -> None:
    """A partition stays paused when it is assigned anew, and may be paused before it ever is."""
    world.broker.share = [P0]
    world.broker.produce(P0, ["a", "b"])
    world.broker.produce(P1, ["c"], at=10)
    handle = Handling()
    async with parallel_consumer(world.config()) as pc:
        pc.pause(iter([("orders", 0), ("orders", 1)]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await trio.sleep(1)
            assert (of(pc, P0).is_held, of(pc, P0).buffered_records) == (True, 2)
            await world.client.rebalance(**{how: [P0]}, assign=[P0, P1])
            await trio.sleep(1)
            assert (of(pc, P0).is_held, of(pc, P1).is_held) == (True, True)
            assert handle.started == []
            pc.resume([P1])
            await trio.sleep(1)
            assert handle.started == [(1, 10)]
            pc.resume()
            await trio.sleep(1)
            pc.stop()
    assert sorted(handle.offsets(P0)) == [0, 1]


async def test_resume_of_a_partition_while_it_is_not_assigned(autojump_clock: MockClock, world: World) -> None:
    """What was resumed in between isn't paused when it comes back."""
    world.broker.produce(P0, ["a"])
    handle = Handling()
    async with parallel_consumer(world.config()) as pc:
        pc.pause([P0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await trio.sleep(1)
            await world.client.rebalance(revoke=[P0])
            pc.resume([P0])
            await world.client.rebalance(assign=[P0])
            await trio.sleep(1)
            assert handle.finished == [(0, 0)]
            pc.stop()


async def test_partition_that_starts_late_is_paused_all_the_same(autojump_clock: MockClock, world: World) -> None:
    """A paused partition whose position comes only after its assignment is held from its first record on."""
    world.broker.produce(P0, ["a"])
    handle = Handling()
    async with world.consuming(handle) as pc:
        await trio.sleep(1)
        await world.client.rebalance(revoke=[P0])
        pc.pause([P0])
        world.broker.errors["committed"].append(error(NO_ANSWER))
        await world.client.rebalance(assign=[P0])
        assert of(pc, P0).phase == "starting"
        await trio.sleep(5)
        assert (of(pc, P0).phase, of(pc, P0).is_held, of(pc, P0).buffered_records) == ("active", True, 0)
        world.broker.produce(P0, ["b"])
        await trio.sleep(5)
        assert handle.finished == [(0, 0)]


async def test_the_whole_and_its_parts(autojump_clock: MockClock, world: World) -> None:
    """While all is paused, resuming a partition starts nothing; resuming all lifts the pauses of partitions, too."""
    handle = Handling()
    async with world.consuming(handle) as pc:
        await pc.wait_assigned()
        pc.pause()
        pc.pause([P0, P1])
        world.broker.produce(P0, ["a"])
        world.broker.produce(P1, ["b"], at=10)
        pc.resume([P0])
        await trio.sleep(1)
        assert handle.started == []
        assert (of(pc, P0).is_held, of(pc, P1).is_held) == (False, True)
        pc.resume()
        await trio.sleep(1)
        assert sorted(handle.finished) == [(0, 0), (1, 10)]


@pytest.mark.parametrize("partitions", [None, [P0]])
async def test_parked_record_waits_for_the_resume(
    autojump_clock: MockClock, world: World, partitions: list[Any] | None
) -> None:
    """An attempt that is due during a pause is made after it, and was never counted."""
    world.broker.produce(P0, ["a", "a"])
    handle = Failing({0: fails(1)})
    policy = RetryPolicy(max_attempts=2, initial_backoff=3.0, jitter=0.0)
    async with world.consuming(handle, retry=policy) as pc:
        await trio.sleep(1)
        pc.pause(partitions)
        await trio.sleep(20)
        assert handle.of(0) == [(1, 0)]
        assert of(pc, P0).parked == 0
        oldest = of(pc, P0).oldest_incomplete
        assert oldest is not None
        assert (oldest.attempt, oldest.retry_in, oldest.is_running) == (2, None, False)
        pc.resume(partitions)
        await trio.sleep(1)
    assert handle.of(0) == [(1, 0), (2, 21)]
    assert handle.of(1) == [(1, 21)]


async def test_pause_fills_the_buffer_and_no_more(autojump_clock: MockClock, world: World) -> None:
    """Fetching goes on until the partition's bound, stops there, and goes on after the resume."""
    world.broker.produce(P0, [f"k{n}" for n in range(200)])
    handle = Handling()
    async with world.consuming(handle, max_buffered_records=40) as pc:
        pc.pause()
        await trio.sleep(5)
        assert (of(pc, P0).paused, world.client.paused) == ("buffer full", {P0})
        assert 30 < of(pc, P0).buffered_records <= 40
        pc.resume()
        await trio.sleep(5)
        assert len(handle.finished) == 200


async def test_stop_during_a_pause_leaves_what_is_held(autojump_clock: MockClock, world: World) -> None:
    """A stop doesn't wait for what may not start; what isn't held is finished, and everything else comes again."""
    world.broker.produce(P0, ["a", "b"])
    world.broker.produce(P1, ["c", "c"], at=10)
    handle = Handling(work=1.0)
    async with world.consuming(handle) as pc:
        pc.pause([P0])
        await trio.sleep(0.5)
    assert handle.finished == [(1, 10), (1, 11)]
    assert trio.current_time() < 3
    async with world.consuming(handle) as pc:
        pc.pause()
        await trio.sleep(1)
    assert trio.current_time() < 4
    assert world.committed(P0) == 0
    assert len(handle.finished) == 2


# The breaker

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
    world.broker.produce(P0, [f"k{n}" for n in range(50)])
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
        world.broker.produce(partition, [f"k{n % 2500}" for n in range(5000)])
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
    world.broker.produce(P0, ["a"] * 10 + [f"k{n}" for n in range(10)])
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
    world.broker.produce(P0, [f"k{n}" for n in range(20)])
    handle = Dependency()
    async with world.consuming(handle, retry=PATIENT, breaker=BREAKER, revoke_grace=0.0) as pc:
        await trio.sleep(4)
        handle.work = 1000.0
        await trio.sleep(2)
        ((_, probe),) = handle.calls[20:]
        assert probe.partition == 0
        world.broker.produce(P1, ["c"] * 3, at=10)
        await trio.sleep(20)
        handle.work, handle.is_down = 0.05, False
        await world.client.rebalance(**{how: [P0]})
        await trio.sleep(1)
        assert pc.statistics().held == ()
        assert handle.done == {(1, 10), (1, 11), (1, 12)}
        await world.client.rebalance(assign=[P0])
        await trio.sleep(1)
    assert len(handle.done) == 23


async def test_probe_that_swallows_its_cancellation_says_nothing_either(
    autojump_clock: MockClock, world: World
) -> None:
    """It returns as if all were well, but for an assignment that has ended; the breaker doesn't wait for it for ever.

    It did, and nothing was handed out any more.
    """
    world.broker.produce(P0, [f"k{n}" for n in range(20)])
    dependency = Dependency()

    async def handle(record: Record) -> None:
        with trio.CancelScope(shield=True):
            await dependency(record)

    async with world.consuming(handle, retry=PATIENT, breaker=BREAKER) as pc:
        await trio.sleep(4)
        dependency.work, dependency.is_down = 5.0, False
        await trio.sleep(2)
        world.broker.produce(P1, ["c"], at=10)
        dependency.work = 0.05
        await world.client.rebalance(lose=[P0])
        await trio.sleep(20)
        assert pc.statistics().totals.fenced == 1
        assert pc.statistics().held == ()
        assert (1, 10) in dependency.done


async def test_probe_waits_for_a_record(autojump_clock: MockClock, world: World) -> None:
    """If nothing is ready when a probe is due, the next record that comes is the one, alone."""
    world.broker.produce(P0, [f"k{n}" for n in range(10)])
    handle = Dependency(work=0.0)
    policy = RetryPolicy(max_attempts=3, initial_backoff=30.0, jitter=0.0)
    async with world.consuming(handle, retry=policy, breaker=BREAKER) as pc:
        await trio.sleep(15)
        assert len(handle.calls) == 10
        world.broker.produce(P1, ["c", "d"], at=100)
        await trio.sleep(3)
        assert len(handle.calls) == 11
        handle.is_down = False
        await trio.sleep(35)
        assert pc.statistics().held == ()
        assert len(handle.done) == 12


async def test_parked_record_that_is_due_may_probe(autojump_clock: MockClock, world: World) -> None:
    """A record that has failed before probes when nothing else is there, and comes to its next attempt by that."""
    world.broker.produce(P0, [f"k{n}" for n in range(10)])
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
    world.broker.produce(P0, [f"k{n}" for n in range(100)])
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
        world.broker.produce(P0, [f"k{n}" for n in range(100)])
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
    world.broker.produce(P0, [f"k{n}" for n in range(200)])
    policy = BreakerPolicy(failure_rate=1.0, min_attempts=10, window=10.0, probe_interval=5.0)
    async with world.consuming(Dependency(), max_concurrency=5, on_failure=on_failure, breaker=policy) as pc:
        await trio.sleep(4)
        assert pc.statistics().held == ("circuit open",)
        assert pc.statistics().totals.completed < 20


async def test_successes_keep_it_closed(autojump_clock: MockClock, world: World) -> None:
    """A rate of failures below the bound opens nothing, however many there are."""
    world.broker.produce(P0, [f"k{n}" for n in range(900)])
    handle = Failing({offset: fails(1) for offset in range(0, 900, 3)}, work=0.1)
    async with world.consuming(handle, max_concurrency=9, retry=PATIENT, breaker=BREAKER) as pc:
        for _ in range(30):
            await trio.sleep(1)
            assert pc.statistics().held == ()
        assert pc.statistics().totals.failed == 300


async def test_failures_far_apart_keep_it_closed(autojump_clock: MockClock, world: World) -> None:
    """What failed longer ago than the window counts no more."""
    handle = Dependency()
    async with world.consuming(handle, on_failure="skip", breaker=BREAKER) as pc:
        for n in range(40):
            world.broker.produce(P0, [f"k{n}"])
            await trio.sleep(1.3)
            assert pc.statistics().held == ()


async def test_successes_long_ago_do_not_keep_it_closed(autojump_clock: MockClock, world: World) -> None:
    """What was handled before the window says nothing of the dependency as it is now."""
    world.broker.produce(P0, [f"k{n}" for n in range(1000)])
    handle = Dependency()
    handle.is_down = False
    async with world.consuming(handle, retry=PATIENT, breaker=BREAKER) as pc:
        await trio.sleep(30)
        assert len(handle.done) == 1000
        handle.is_down = True
        world.broker.produce(P0, [f"k{n}" for n in range(30)])
        await trio.sleep(1)
        assert pc.statistics().held == ("circuit open",)


async def test_timeouts_open_it(autojump_clock: MockClock, world: World) -> None:
    """Attempts that take too long are failures of the dependency, too."""
    world.broker.produce(P0, [f"k{n}" for n in range(50)])
    handle = Dependency(work=100.0)
    fields: dict[str, Any] = {"retry": PATIENT, "breaker": BREAKER, "handler_timeout": 2.0}
    async with world.consuming(handle, max_concurrency=10, **fields) as pc:
        await trio.sleep(3)
        assert pc.statistics().held == ("circuit open",)
        await trio.sleep(20)
        assert handle.since(3) == [7.0, 14.0, 21.0]


async def test_pause_holds_probes_back(autojump_clock: MockClock, world: World) -> None:
    """While all is paused, no record probes; after the resume one does."""
    world.broker.produce(P0, [f"k{n}" for n in range(50)])
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
    world.broker.produce(P0, [f"k{n}" for n in range(20)])
    world.broker.produce(P1, [f"k{n}" for n in range(20)])
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
    world.broker.produce(P0, [f"k{n}" for n in range(20)])
    world.broker.produce(P1, [f"k{n}" for n in range(20)])
    handle = Dependency()
    async with world.consuming(handle, retry=PATIENT, breaker=BREAKER):
        await trio.sleep(1)
        await world.client.rebalance(assign=[P1])
        await trio.sleep(3)
        assert handle.since(1) == []
        handle.is_down = False
        await trio.sleep(3)
    assert len(handle.done) == 40


async def test_stop_under_an_open_breaker(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A stop doesn't wait for it to close: what is buffered is left, as attempts that weren't made."""
    graveyard(world)
    world.broker.produce(P0, [f"k{n}" for n in range(50)])
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
    world.broker.produce(P0, [f"k{n}" for n in range(10)])
    world.broker.produce(P1, ["slow"])
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
    world.broker.produce(P0, ["bad", *(f"k{n}" for n in range(20))])
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
    world.broker.produce(P0, [f"k{n}" for n in range(12)])
    handle = Dependency(work=3.0)
    config = world.config(retry=PATIENT, breaker=BREAKER, commit_interval=NEVER)
    async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        await trio.sleep(1)
        pc.stop()
    assert pc.statistics().held == ("circuit open", "stopping")
    assert world.committed(P0) == 0
