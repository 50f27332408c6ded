"""What handlers decide by themselves, dead letters, and records that have no key: from the failure to the commit."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import pytest
import trio
from shell.failing import Failing, fails, graveyard
from shell.fake_outbox import FakeOutbox
from shell.kit import NEVER, P0, P1, HandlerError, World, of
from trio.testing import MockClock

from trio_parallel_kafka import DeadLetter, Record, Retry, Skip, TopicNotFoundError, parallel_consumer
from trio_parallel_kafka.config import DeadLetterConfig, RetryPolicy
from trio_parallel_kafka.errors import (
    ConfigError,
    DeadLetterError,
    DeliveryError,
    ProducerClosedError,
    ProducerFencedError,
)

AT_ONCE = RetryPolicy(max_attempts=3, initial_backoff=0.0)


# Decisions


async def test_retry_comes_when_the_handler_says(autojump_clock: MockClock, world: World) -> None:
    """``Retry`` needs no policy: the record comes after so many seconds, in order, as often as the handler asks."""
    world.broker.add(P0, ["a", "a", "b"])
    handle = Failing({0: [Retry(after=7), Retry(after=0), Retry(after=30), Retry(after=1)]})
    async with world.consuming(handle) as pc:
        await trio.sleep(40)
        totals = pc.statistics().totals
        assert (totals.failed, totals.retried, totals.completed) == (4, 4, 3)
    assert handle.of(0) == [(1, 0), (2, 7), (3, 7), (4, 37), (5, 38)]
    assert handle.of(1) == [(1, 38)]


async def test_retry_counts_as_an_attempt_of_the_policy(autojump_clock: MockClock, world: World) -> None:
    """Where attempts are bounded, the handler can't ask for more of them; without a time it is the policy's."""
    world.broker.add(P0, ["a"])
    handle = Failing({0: [HandlerError(), Retry(), Retry(after=1), Retry()]})
    policy = RetryPolicy(max_attempts=4, initial_backoff=1.0, multiplier=5.0, jitter=0.0)
    async with world.consuming(handle, retry=policy, on_failure="skip") as pc:
        await trio.sleep(10)
        assert pc.statistics().totals.skipped == 1
    assert handle.of(0) == [(1, 0), (2, 1), (3, 6), (4, 7)]


async def test_decision_within_a_nursery(autojump_clock: MockClock, world: World) -> None:
    """A decision that a handler's own nursery has put into a group is one all the same."""
    world.broker.add(P0, ["a", "a"])

    async def child(record: Record) -> None:
        if record.offset == 0:
            raise Skip("empty") if record.attempt == 2 else Retry(after=1)

    async def handle(record: Record) -> None:
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - as handlers do
            nursery.start_soon(child, record)

    async with world.consuming(handle) as pc:
        await trio.sleep(3)
        totals = pc.statistics().totals
        assert (totals.failed, totals.retried, totals.skipped, totals.completed) == (1, 1, 1, 2)


class Hopeless(DeadLetter):
    """A user's own, which doesn't call the constructor that it derives from."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("decision", [DeadLetter(ValueError("why")), Hopeless()], ids=["reason", "subclass"])  # type: ignore[arg-type]
async def test_dead_letter_whatever_its_reason(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, decision: DeadLetter
) -> None:
    """A reason that is no text is made one, and a subclass needs none: neither ends the consumer."""
    graveyard(world)
    world.broker.add(P0, ["a", "a"])
    async with world.consuming(Failing({0: [decision]}), dead_letter=DeadLetterConfig()) as pc:
        await trio.sleep(3)
        assert pc.statistics().totals.dead_lettered == 1
    assert outbox.places == [(0, 0)]
    assert world.committed(P0) == 2


async def test_skip_completes_and_is_no_failure(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """``Skip`` completes the record with its reason in the log, whatever the policy; its key goes on."""
    world.broker.add(P0, ["a", "a"])
    handle = Failing({0: [Skip("a test order")]})
    async with world.consuming(handle, retry=AT_ONCE) as pc:
        await trio.sleep(3)
        totals = pc.statistics().totals
        assert (totals.failed, totals.skipped, totals.completed) == (0, 1, 2)
        assert world.committed(P0) == 2
    assert handle.started(P0) == [(0, 1), (1, 1)]
    assert "orders[0]@0 key=b'a' attempt=1 assignment_epoch=1> is skipped: a test order" in caplog.text


async def test_dead_letter_goes_at_once(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """``DeadLetter`` uses up no attempts, and is no failure."""
    graveyard(world)
    world.broker.add(P0, ["a", "a"])
    handle = Failing({0: [DeadLetter("malformed")]})
    async with world.consuming(handle, retry=AT_ONCE, dead_letter=DeadLetterConfig()) as pc:
        await trio.sleep(3)
        totals = pc.statistics().totals
        assert (totals.failed, totals.dead_lettered, totals.completed, totals.sent) == (0, 1, 2, 0)
    ((place, sent),) = outbox.sent
    assert (place, sent.topic, sent.key, sent.value) == ((0, 0), "orders.dlt", b"a", b"secret")
    assert handle.started(P0) == [(0, 1), (1, 1)]
    assert world.committed(P0) == 2


async def test_dead_letter_without_configuration_is_loud(autojump_clock: MockClock, world: World) -> None:
    """A handler that asks for dead letters that aren't configured stops the consumer, and is told why."""
    world.broker.add(P0, ["a"])
    with pytest.RaisesGroup(pytest.RaisesGroup(DeadLetter)) as caught:
        async with world.consuming(Failing({0: [DeadLetter("no")]}), retry=AT_ONCE, on_failure="skip"):
            await trio.sleep_forever()
    notes = caught.value.exceptions[0].exceptions[0].__notes__
    assert any("dead_letter=DeadLetterConfig" in note for note in notes)
    assert any("offset=0" in note for note in notes)
    assert world.committed(P0) == 0


# Dead letters


async def test_dead_letter_completes_when_it_is_acknowledged(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """After the last attempt the record isn't committed, nor does its key go on, before the broker has the letter."""
    graveyard(world)
    world.broker.add(P0, ["a", "a", "b"])
    outbox.delay = 10.0
    handle = Failing({0: fails()})
    async with world.consuming(handle, retry=AT_ONCE, on_failure="dead_letter") as pc:
        await trio.sleep(8)
        assert handle.started(P0) == [(0, 1), (2, 1), (0, 2), (0, 3)]
        assert world.committed(P0) == 0
        assert (pc.statistics().in_flight, of(pc, P0).position) == (1, 0)
        await trio.sleep(5)
        assert handle.started(P0)[4:] == [(1, 1)]
        assert world.committed(P0) == 3
        totals = pc.statistics().totals
        assert (totals.failed, totals.retried, totals.dead_lettered, totals.completed) == (3, 2, 1, 3)
    assert outbox.places == [(0, 0)]
    assert dict(outbox.sent[0][1].headers)["kafka_deliveryAttempt"] == b"\0\0\0\3"


async def test_dead_letter_that_fails_is_loud(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """By default the consumer stops: the record isn't completed, nothing of its key starts, the rest is committed."""
    graveyard(world)
    world.broker.add(P0, ["a", "a", "b"])
    outbox.down = DeliveryError("no ack")
    handle = Failing({0: fails()})
    async with parallel_consumer(world.config(on_failure="dead_letter", commit_interval=NEVER)) as pc:
        with pytest.RaisesGroup(pytest.RaisesExc(DeadLetterError, match=r"orders\[0\]@0 .*no ack")) as caught:
            await pc.run(handle)
    (error,) = caught.value.exceptions
    assert isinstance(error.__cause__, DeliveryError)
    assert "while handling topic='orders' partition=0 offset=0 key=b'a' attempt=1" in error.__notes__
    assert handle.started(P0) == [(0, 1), (2, 1)]
    assert world.committed(P0) == 0
    assert world.broker.one_group.taken[-1].metadata


async def test_dead_letter_that_fails_may_be_lost(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, caplog: pytest.LogCaptureFixture
) -> None:
    """With ``skip`` the record is completed, and the log says at the level of an error that it is lost."""
    graveyard(world)
    world.broker.add(P0, ["a", "a"])
    outbox.errors.append(DeliveryError("no ack"))
    handle = Failing({0: fails()})
    settings = DeadLetterConfig(on_dead_letter_failure="skip")
    async with world.consuming(handle, on_failure="dead_letter", dead_letter=settings) as pc:
        await trio.sleep(3)
        assert (pc.statistics().totals.skipped, pc.statistics().totals.dead_lettered) == (1, 0)
    assert handle.started(P0) == [(0, 1), (1, 1)]
    assert world.committed(P0) == 2
    assert outbox.places == []
    assert any(line.levelname == "ERROR" and "orders[0]@0" in line.getMessage() for line in caplog.records)


async def test_dead_letter_that_fails_may_wait(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """With ``retry`` the lane is parked, and the letter sent again until it is taken; the handler isn't called."""
    graveyard(world)
    world.broker.add(P0, ["a", "a", "b"])
    outbox.errors += [DeliveryError("no ack")] * 3
    handle = Failing({0: fails()})
    settings = DeadLetterConfig(on_dead_letter_failure="retry")
    policy = RetryPolicy(max_attempts=2, initial_backoff=10.0, multiplier=1.0, jitter=0.0)
    async with world.consuming(handle, retry=policy, on_failure="dead_letter", dead_letter=settings) as pc:
        await trio.sleep(35)
        assert handle.of(0) == [(1, 0), (2, 10)]
        assert (of(pc, P0).parked, pc.statistics().in_flight) == (1, 0)
        oldest = of(pc, P0).oldest_incomplete
        assert oldest is not None
        assert (oldest.offset, oldest.attempt) == (0, 2)
        assert oldest.retry_in == pytest.approx(5.0, abs=0.1)
        assert handle.of(1) == []
        await trio.sleep(10)
        totals = pc.statistics().totals
        assert (totals.failed, totals.retried, totals.dead_lettered, totals.completed) == (2, 1, 1, 3)
    assert outbox.tried == 4
    assert handle.of(0) == [(1, 0), (2, 10)]
    assert handle.of(1) == [(1, 40)]
    assert world.committed(P0) == 3


async def test_decision_waits_for_its_dead_letter_too(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """A ``DeadLetter`` that couldn't be sent at first is sent later, under its reason; the next record is attempted."""
    graveyard(world)
    world.broker.add(P0, ["a", "a"])
    outbox.errors.append(DeliveryError("no ack"))
    handle = Failing({0: [DeadLetter("malformed")], 1: fails(1)})
    settings = DeadLetterConfig(on_dead_letter_failure="retry")
    async with world.consuming(handle, retry=AT_ONCE, dead_letter=settings) as pc:
        await trio.sleep(5)
        assert (pc.statistics().totals.dead_lettered, pc.statistics().totals.failed) == (1, 1)
    assert handle.started(P0) == [(0, 1), (1, 1), (1, 2)]
    ((_, sent),) = outbox.sent
    assert dict(sent.headers)["kafka_dlt-reason"] == b"malformed"


@pytest.mark.parametrize("kind", [ProducerFencedError, ProducerClosedError, ConfigError])
async def test_outbox_that_cannot_go_on_stops_the_consumer(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, kind: type[Exception]
) -> None:
    """What isn't about the one dead letter is loud whatever the policy says, and nothing is lost.

    Such an error once cancelled all other handlers, and left without a word of the record.
    """
    graveyard(world)
    world.broker.add(P0, ["a", "b"])
    outbox.down = kind("it is over")
    slow = Failing(work=5.0)
    handle = Failing({0: fails()}, work=1.0)

    async def either(record: Record) -> None:
        await (slow(record) if record.offset == 1 else handle(record))

    settings = DeadLetterConfig(on_dead_letter_failure="skip")
    async with parallel_consumer(world.config(on_failure="dead_letter", dead_letter=settings)) as pc:
        with pytest.RaisesGroup(kind) as caught:
            await pc.run(either)
    assert any("offset=0" in note for note in caught.value.exceptions[0].__notes__)
    assert slow.done == [(0, 1)]
    assert world.committed(P0) == 0


async def test_missing_dead_letter_topic_is_found_at_the_start(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """Without the topic the consumer doesn't start."""
    with pytest.raises(TopicNotFoundError, match=r"orders\.dlt"):
        async with parallel_consumer(world.config(on_failure="dead_letter")):
            raise AssertionError
    assert not world.client.calls.of("subscribe")


async def test_revoke_during_a_burial(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A letter that isn't acknowledged within the grace is given up; the record comes again to the next owner."""
    graveyard(world)
    world.broker.add(P0, ["a", "b"])
    outbox.delay = 20.0
    handle = Failing({0: fails(1)})
    async with world.consuming(handle, on_failure="dead_letter", revoke_grace=5.0) as pc:
        await trio.sleep(2)
        await world.rebalance(revoke=[P0])
        assert trio.current_time() == pytest.approx(7.0, abs=0.5)
        assert world.committed(P0) == 0
        assert pc.statistics().totals.abandoned == 1
        await world.rebalance(assign=[P0])
        await trio.sleep(2)
    assert handle.started(P0) == [(0, 1), (1, 1), (0, 1)]
    assert outbox.sent == []
    assert world.committed(P0) == 2


async def test_revoke_waits_for_a_burial(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A letter that is acknowledged within the grace completes its record."""
    graveyard(world)
    world.broker.add(P0, ["a", "a"])
    outbox.delay = 4.0
    handle = Failing({0: fails(1)})
    async with world.consuming(handle, on_failure="dead_letter", revoke_grace=5.0):
        await trio.sleep(2)
        await world.rebalance(revoke=[P0])
        assert trio.current_time() == pytest.approx(4.0, abs=0.5)
        assert world.committed(P0) == 1
    assert handle.started(P0) == [(0, 1)]


async def test_stop_finishes_a_burial(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A stop waits for a letter on its way, and for the records behind, but not for one that is to be tried again."""
    graveyard(world)
    world.broker.add(P0, ["a", "a"])
    outbox.delay = 4.0
    outbox.errors += [None, DeliveryError("no ack")]
    settings = DeadLetterConfig(on_dead_letter_failure="retry")
    handle = Failing({0: fails(1), 10: fails(1)})
    async with world.consuming(handle, on_failure="dead_letter", dead_letter=settings):
        await trio.sleep(1)
        world.broker.add(P1, ["c", "c"], at=10)
        await trio.sleep(1)
    assert trio.current_time() == pytest.approx(5.0, abs=0.5)
    assert (world.committed(P0), world.committed(P1)) == (2, 10)
    assert outbox.places == [(0, 0)]
    assert handle.started(P1) == [(10, 1)]


# Records whose key can't be had


def no_key(_record: Record) -> NoReturn:
    """A ``key_of`` that finds none."""
    raise KeyError("customer")


@pytest.mark.parametrize("on_failure", ["raise", "skip", "dead_letter"])
async def test_key_of_that_raises_follows_the_policy_without_retries(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, on_failure: str
) -> None:
    """Another attempt would fail just so: what ``on_failure`` says is done at once, and the handler isn't called."""
    graveyard(world)
    world.broker.add(P0, ["a", "b"])
    handle = Failing()

    def key_of(record: Record) -> bytes | None:
        return no_key(record) if record.offset == 0 else record.key

    policy = RetryPolicy(max_attempts=3, initial_backoff=1.0)
    fields: dict[str, Any] = {"key_of": key_of, "retry": policy, "on_failure": on_failure}
    if on_failure == "raise":
        with pytest.RaisesGroup(pytest.RaisesGroup(KeyError)) as caught:
            async with world.consuming(handle, **fields):
                await trio.sleep(math.inf)
        assert "offset=0" in caught.value.exceptions[0].exceptions[0].__notes__[0]
        assert world.committed(P0) == 0
        return
    async with world.consuming(handle, **fields) as pc:
        await trio.sleep(3)
        totals = pc.statistics().totals
    assert (totals.failed, totals.retried, totals.completed) == (0, 0, 2)
    assert (totals.skipped, totals.dead_lettered) == ((1, 0) if on_failure == "skip" else (0, 1))
    assert handle.started(P0) == [(1, 1)]
    assert outbox.places == ([] if on_failure == "skip" else [(0, 0)])
    assert world.committed(P0) == 2


async def test_dead_letter_of_a_record_without_a_key_may_wait(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """It is parked like any other, though nothing could ever be attempted with it."""
    graveyard(world)
    world.broker.add(P0, ["a"])
    outbox.errors.append(DeliveryError("no ack"))
    settings = DeadLetterConfig(on_dead_letter_failure="retry")
    fields: dict[str, Any] = {"key_of": no_key, "on_failure": "dead_letter", "dead_letter": settings}
    handle = Failing()
    async with world.consuming(handle, **fields):
        await trio.sleep(3)
    assert outbox.places == [(0, 0)]
    assert handle.attempts == []
    assert world.committed(P0) == 1


@pytest.mark.parametrize("after", [-1.0, float("inf"), float("nan")])
def test_time_that_cannot_be_waited_for(after: float) -> None:
    """Whoever asks for another attempt has to say when, in seconds."""
    with pytest.raises(ValueError, match="seconds from 0 on"):
        Retry(after)


@pytest.mark.parametrize(("outcome", "says"), [(Retry(), "another attempt"), (Retry(2.5), "attempt after 2.5 s")])
def test_asking_again_says_so(outcome: Retry, says: str) -> None:
    """A dead letter's headers, and a log, tell what the handler asked for."""
    assert str(outcome).endswith(says)
