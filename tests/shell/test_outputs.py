"""What handlers return is sent, and a record completes when it is out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from shell.batching import output
from shell.failing import graveyard
from shell.fake_outbox import FakeOutbox
from shell.kit import NEVER, P0, P1, HandlerError, Place, World, of, settle
from trio.testing import MockClock

from trio_parallel_kafka import (
    DeadLetterConfig,
    DeliveryError,
    InvalidResultError,
    ProducerClosedError,
    ProducerFencedError,
    ProducerRecord,
    Record,
    RecordTooLargeError,
    RetryPolicy,
    SerializationError,
    parallel_consumer,
)

AGAIN = RetryPolicy(max_attempts=4, initial_backoff=2.0, multiplier=1.0, jitter=0.0)


class Returning:
    """A handler that returns what ``make`` says of a record's attempt."""

    def __init__(
        self, make: Callable[[Record], object] = lambda record: output(f"{record.offset}.{record.attempt}")
    ) -> None:
        self.make = make
        self.given: list[tuple[Place, int]] = []
        self.times: list[float] = []

    async def __call__(self, record: Record) -> object:
        self.given.append(((record.partition, record.offset), record.attempt))
        self.times.append(round(trio.current_time(), 3))
        await trio.lowlevel.checkpoint()
        return self.make(record)


def values(outbox: FakeOutbox) -> list[str]:
    """What was sent, in that order."""
    return [each.value for _, each in outbox.sent]


async def test_completes_when_it_is_out(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A record isn't complete before its output is acknowledged, and is so in the same moment."""
    world.broker.add(P0, "ab")
    outbox.delay = 5
    async with world.consuming(Returning(), commit_interval=0.5) as pc:
        await trio.sleep(4.9)
        assert of(pc, P0).position == 0
        assert of(pc, P0).in_flight == 2
        assert world.committed(P0) in {None, 0}
        await trio.sleep(0.2)
        assert of(pc, P0).position == 2
        assert pc.statistics().totals.sent == 2
        await trio.sleep(1)
        assert world.committed(P0) == 2


def generated() -> Iterator[ProducerRecord]:
    """Several, one after another."""
    yield output("x")
    yield output("y")


@pytest.mark.parametrize(
    ("make", "sent"),
    [
        (lambda: None, []),
        (list, []),
        (lambda: output("x"), ["x"]),
        (lambda: [output("x"), output("y")], ["x", "y"]),
        (lambda: (output("x"), output("y")), ["x", "y"]),
        (generated, ["x", "y"]),
    ],
    ids=["nothing", "none", "one", "list", "tuple", "generator"],
)
async def test_what_may_be_returned(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, make: Callable[[], object], sent: list[str]
) -> None:
    """Nothing, a record, or several; the outbox isn't troubled with nothing."""
    world.broker.add(P0, "a")
    async with world.consuming(Returning(lambda _record: make())) as pc:
        await settle()
        assert pc.statistics().totals.sent == len(sent)
    assert values(outbox) == sent
    assert outbox.tried == bool(sent)
    assert world.committed(P0) == 1


def broken() -> Iterator[ProducerRecord]:
    """A generator that fails after its first."""
    yield output("x")
    raise HandlerError("broken")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: 7, "returned a int; return nothing, or a ProducerRecord, or a list of them"),
        (lambda: "text", "returned a str"),
        (lambda: b"bytes", "returned a bytes"),
        (lambda: bytearray(2), "returned a bytearray"),
        (lambda: {"a": output("x")}, "returned a dict"),
        (lambda: [output("x"), None], "several objects, among them a NoneType"),
        (lambda: HandlerError("returned"), "returned a HandlerError"),
        (broken, HandlerError),
    ],
    ids=["number", "text", "bytes", "bytearray", "mapping", "list with nothing", "exception", "broken generator"],
)
async def test_what_may_not_be_returned(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, make: Callable[[], object], error: Any
) -> None:
    """Anything else is a failure of the attempt; nothing of it is sent."""
    world.broker.add(P0, "ab")
    handler = Returning(lambda record: make() if record.offset == 0 else output("fine"))
    expected = pytest.RaisesExc(InvalidResultError, match=error) if isinstance(error, str) else error
    with pytest.RaisesGroup(expected) as raised:
        async with parallel_consumer(world.config()) as pc:
            await pc.run(handler)
    assert "offset=0" in raised.value.exceptions[0].__notes__[-1]
    assert "x" not in values(outbox)
    assert world.committed(P0) in {None, 0}


async def test_invalid_result_follows_the_policy(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """It is retried, and given up, like what a handler raises."""
    graveyard(world)
    world.broker.add(P0, "a")
    handler = Returning(lambda _record: 7)
    async with world.consuming(handler, retry=AGAIN, on_failure="dead_letter") as pc:
        await trio.sleep(10)
        totals = pc.statistics().totals
    assert handler.given == [((0, 0), n) for n in (1, 2, 3, 4)]
    assert (totals.failed, totals.retried, totals.dead_lettered, totals.sent) == (4, 3, 1, 0)
    ((place, letter),) = outbox.sent
    assert (place, letter.topic) == ((0, 0), "orders.dlt")
    assert dict(letter.headers)["kafka_dlt-exception-fqcn"] == b"trio_parallel_kafka.errors.InvalidResultError"


@pytest.mark.parametrize("error", [DeliveryError("no"), RecordTooLargeError("no"), SerializationError("no")])
async def test_failure_of_sending_is_retried(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, error: Exception
) -> None:
    """The handler runs again, and what it returns then is sent; records of the key wait."""
    world.broker.add(P0, "aab")
    outbox.errors += [error, None, error]
    handler = Returning()
    async with world.consuming(handler, retry=AGAIN, max_concurrency=1) as pc:
        await trio.sleep(9)
        totals = pc.statistics().totals
    assert [each for each in values(outbox) if each[0] != "2"] == ["0.3", "1.1"]
    assert handler.times == [0, 0, 2, 4, 4]
    assert (totals.failed, totals.retried, totals.sent, totals.completed) == (2, 2, 3, 3)
    assert world.committed(P0) == 3


async def test_failure_of_sending_stops(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """Without another policy it leaves; the record isn't complete, nor is what is behind it started."""
    world.broker.add(P0, "aab")
    outbox.errors += [DeliveryError("refused")]
    handler = Returning()
    with pytest.RaisesGroup(pytest.RaisesExc(DeliveryError, match="refused")):
        async with parallel_consumer(world.config()) as pc:
            await pc.run(handler)
    assert ((0, 1), 1) not in handler.given
    assert world.committed(P0) in {None, 0}


async def test_failure_of_sending_is_skipped_or_buried(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """Other policies hold for it, too: a dead letter has the input, not the output."""
    graveyard(world)
    world.broker.add(P0, "a")
    outbox.errors += [DeliveryError("refused")]
    async with world.consuming(Returning(), on_failure="skip") as pc:
        await settle()
        assert pc.statistics().totals.skipped == 1
    assert not outbox.sent
    world.broker.add(P0, "b")
    outbox.errors += [DeliveryError("refused")]
    async with world.consuming(Returning(), on_failure="dead_letter", dead_letter=DeadLetterConfig()) as pc:
        await settle()
        assert pc.statistics().totals.dead_lettered == 1
    ((_, letter),) = outbox.sent
    assert (letter.topic, letter.key, letter.value) == ("orders.dlt", b"b", b"secret")
    assert world.committed(P0) == 2


@pytest.mark.parametrize("error", [ProducerFencedError("another"), ProducerClosedError("over")])
async def test_producer_that_is_gone(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox, error: Exception
) -> None:
    """What is no record's fault is never retried or skipped, whatever the policy."""
    world.broker.add(P0, "a")
    outbox.down = error
    with pytest.RaisesGroup(pytest.RaisesExc(type(error), match=str(error))):
        async with parallel_consumer(world.config(retry=AGAIN, on_failure="skip")) as pc:
            await pc.run(Returning())
    assert outbox.tried == 1
    assert world.committed(P0) in {None, 0}


async def test_order_of_a_keys_outputs(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A record is handled when the outputs of the one before are out; so outputs of a key are in its order."""
    world.broker.add(P0, "aabab" * 3)
    outbox.delay = 1
    handler = Returning()
    async with world.consuming(handler):
        await trio.sleep(3.5)
        assert len(outbox.sent) == 6
        await trio.sleep(10)
    for key in "ab":
        mine = [offset for offset, each in enumerate("aabab" * 3) if each == key]
        assert [offset for _, offset in outbox.places if offset in mine] == mine
    assert len(outbox.sent) == 15


async def test_deadline_is_the_handlers(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """handler_timeout bounds the handler; sending has a bound of its own."""
    world.broker.add(P0, "a")
    outbox.delay = 20
    async with world.consuming(Returning(), handler_timeout=3) as pc:
        await trio.sleep(19)
        assert of(pc, P0).position == 0
        await trio.sleep(2)
        totals = pc.statistics().totals
    assert (totals.completed, totals.failed) == (1, 0)


# Ends while something is sent


async def test_revoked_while_sending(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """What is out within the grace is complete and committed; the rest is cancelled, and handled by the next owner."""
    world.broker.add(P0, "a")
    handler = Returning()
    outbox.delay = 4
    async with world.consuming(handler, revoke_grace=3, commit_interval=NEVER) as pc:
        await trio.sleep(2)
        await world.rebalance(revoke=[P0])
        assert trio.current_time() == pytest.approx(4, abs=0.1)
        assert (world.committed(P0), values(outbox)) == (1, ["0.1"])
        await world.rebalance(assign=[P0])
        world.broker.add(P0, "aa")
        await trio.sleep(0.5)
        await world.rebalance(revoke=[P0])
        assert (world.committed(P0), values(outbox)) == (1, ["0.1"])
        assert pc.statistics().totals.abandoned == 1
        await world.rebalance(assign=[P0])
        await trio.sleep(10)
        assert pc.statistics().totals.completed == 3
    assert values(outbox) == ["0.1", "1.1", "2.1"]
    assert [place for place, _ in handler.given] == [(0, 0), (0, 1), (0, 1), (0, 2)]
    assert world.committed(P0) == 3


async def test_lost_while_sending(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """It is cancelled at once, and nothing is committed; other partitions go on."""
    world.broker.add(P0, "aa")
    world.broker.add(P1, "aa")
    outbox.delay = 4
    async with world.consuming(Returning()) as pc:
        await trio.sleep(1)
        await world.rebalance(lose=[P0])
        await trio.sleep(10)
        totals = pc.statistics().totals
    assert outbox.places == [(1, 0), (1, 1)]
    assert (totals.abandoned, totals.completed, totals.fenced) == (1, 2, 0)
    assert world.committed(P0) in {None, 0}


async def test_stopped_while_sending(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A drain waits for what is being sent, and sends what is buffered."""
    world.broker.add(P0, "aa")
    outbox.delay = 4
    async with world.consuming(Returning(), shutdown_timeout=30) as pc:
        await trio.sleep(1)
        pc.stop()
    assert trio.current_time() == pytest.approx(8, abs=0.1)
    assert values(outbox) == ["0.1", "1.1"]
    assert world.committed(P0) == 2


async def test_drain_too_short_for_sending(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """What isn't out within shutdown_timeout isn't complete."""
    world.broker.add(P0, "aa")
    outbox.delay = 4
    async with world.consuming(Returning(), shutdown_timeout=5) as pc:
        await trio.sleep(1)
        pc.stop()
    assert values(outbox) == ["0.1"]
    assert world.committed(P0) == 1


async def test_cancelled_while_sending(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """A cancelled block leaves what is being sent incomplete."""
    world.broker.add(P0, "a")
    outbox.delay = 4
    with trio.move_on_after(3):
        async with world.consuming(Returning()):
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(3, abs=0.1)
    assert world.committed(P0) in {None, 0}


async def test_failure_elsewhere_while_sending(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """When a handler fails for good, what others have returned is still sent, and committed."""
    world.broker.add(P0, "ab")
    outbox.delay = 4

    async def handle(record: Record) -> Any:
        await trio.sleep(record.offset)
        if record.offset == 1:
            raise HandlerError
        return output("fine")

    with pytest.RaisesGroup(HandlerError):
        async with parallel_consumer(world.config()) as pc:
            await pc.run(handle)
    assert trio.current_time() == pytest.approx(4, abs=0.1)
    assert values(outbox) == ["fine"]
    assert world.committed(P0) == 1


async def test_back_pressure_of_sending(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """Records whose outputs aren't out yet stay buffered, so fetching pauses and goes on."""
    world.broker.add(P0, [None] * 60)
    outbox.delay = 2
    async with world.consuming(Returning(), max_buffered_records=8, max_concurrency=100) as pc:
        await trio.sleep(1)
        assert of(pc, P0).paused == "buffer full"
        assert outbox.tried == of(pc, P0).buffered_records < 9
        outbox.delay = 0
        await trio.sleep(4)
        assert len(outbox.sent) == 60
    assert world.committed(P0) == 60
