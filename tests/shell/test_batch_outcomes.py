"""What becomes of each record of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from shell.batching import SCOPES, Batches, batching, output, run
from shell.failing import graveyard
from shell.fake_outbox import FakeOutbox
from shell.kit import P0, HandlerError, World, of, settle
from trio.testing import MockClock

from trio_parallel_kafka import (
    DeadLetter,
    DeadLetterConfig,
    DeliveryError,
    Inline,
    InvalidResultError,
    ProducerRecord,
    Record,
    Retry,
    RetryPolicy,
    Skip,
    parallel_consumer,
)

AGAIN = RetryPolicy(max_attempts=5, initial_backoff=2.0, multiplier=1.0, jitter=0.0)
HANDLER_ERROR = pytest.RaisesExc(HandlerError)


async def test_outcome_for_each_record(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """One batch: done, done with something to send, to be tried again, skipped, dead and failed, each by itself."""
    graveyard(world)
    world.broker.add(P0, "abcdefgh")
    results = [output("one"), output("two"), output("three")]
    handler = Batches(
        {
            (0, 1): [results[0]],
            (0, 2): [results[1:]],
            (0, 3): [Retry(after=4)],
            (0, 4): [Skip("not mine")],
            (0, 5): [DeadLetter("beyond help")],
            (0, 6): [HandlerError()],
            (0, 7): [ExceptionGroup("a nursery's", [Skip()])],
        }
    )
    async with batching(world, handler, on_failure="skip", dead_letter=DeadLetterConfig()) as pc:
        await settle()
        assert of(pc, P0).position == 3
        assert of(pc, P0).completed_above == 4
        assert of(pc, P0).parked == 1
        await trio.sleep(5)
        totals = pc.statistics().totals
    assert handler.attempts == [[(offset, 1) for offset in range(8)], [(3, 2)]]
    assert handler.times == [0, 4]
    assert (totals.completed, totals.sent, totals.skipped, totals.dead_lettered) == (8, 3, 3, 1)
    assert (totals.failed, totals.retried) == (2, 1)
    assert [(place, each.topic) for place, each in outbox.sent] == [
        *[((0, 1), "results"), ((0, 2), "results"), ((0, 2), "results")],
        ((0, 5), "orders.dlt"),
    ]
    assert [each for _, each in outbox.sent[:3]] == results
    assert world.committed(P0) == 8


async def test_nothing_returned(autojump_clock: MockClock, world: World) -> None:
    """A handler that returns nothing has done them all."""
    world.broker.add(P0, "abc")

    async def handle(records: tuple[Record, ...]) -> None:
        assert [each.offset for each in records] == [0, 1, 2]

    async with batching(world, handle):
        await settle()
    assert world.committed(P0) == 3


@pytest.mark.parametrize("scope", SCOPES)
async def test_raising_fails_all(autojump_clock: MockClock, world: World, scope: str) -> None:
    """What the handler raises is each record's failure, and leaves once; nothing after them in their lanes starts."""
    world.broker.add(P0, ["a"] * 3)
    handler = Batches(raises=[HandlerError("all")])
    with pytest.RaisesGroup(HANDLER_ERROR) as raised:
        async with parallel_consumer(world.config()) as pc:
            try:
                await pc.run_batches(handler, max_size=2, scope=scope)  # type: ignore[arg-type]
            finally:
                assert pc.statistics().totals.failed == 2
    assert handler.attempts == [[(0, 1), (1, 1)]]
    (note,) = raised.value.exceptions[0].__notes__
    assert "offset=0 key=b'a' attempt=1" in note
    assert world.committed(P0) in {None, 0}


async def test_each_record_that_failed_for_good_is_told(autojump_clock: MockClock, world: World) -> None:
    """Records that failed with exceptions of their own leave with these; what was done is committed."""
    world.broker.add(P0, "abcd")
    handler = Batches({(0, 1): [HandlerError("b")], (0, 3): [ValueError("d")]})
    with pytest.RaisesGroup(HANDLER_ERROR, pytest.RaisesExc(ValueError)):
        await run(world, handler)
    assert world.committed(P0) == 1
    world.clients.clear()
    again = Batches()
    async with batching(world, again):
        await settle()
    assert again.attempts == [[(1, 1), (3, 1)]]


async def test_raising_with_retries(autojump_clock: MockClock, world: World) -> None:
    """They all come again, with the next attempt, after the policy's wait."""
    world.broker.add(P0, "abc")
    handler = Batches(raises=[HandlerError(), HandlerError()])
    async with batching(world, handler, retry=AGAIN) as pc:
        await trio.sleep(1)
        oldest = of(pc, P0).oldest_incomplete
        assert oldest is not None
        assert (oldest.attempt, oldest.is_running, oldest.retry_in) == (2, False, 1)
        await trio.sleep(4)
        assert pc.statistics().totals.retried == 6
    assert handler.attempts == [[(0, n), (1, n), (2, n)] for n in (1, 2, 3)]
    assert handler.times == [0, 2, 4]
    assert world.committed(P0) == 3


async def test_attempts_are_each_records_own(autojump_clock: MockClock, world: World) -> None:
    """In one batch, one record's attempts may be over and another's not."""
    world.broker.add(P0, ["a"])
    handler = Batches(raises=[HandlerError()] * 3)
    policy = RetryPolicy(max_attempts=3, initial_backoff=2.0, multiplier=1.0, jitter=0.0)
    async with batching(world, handler, scope="partition", linger=3, retry=policy, on_failure="skip") as pc:
        await trio.sleep(4)
        world.broker.add(P0, ["b"])
        await trio.sleep(20)
        assert pc.statistics().totals.skipped == 1
    assert handler.attempts[:2] == [[(0, 1)], [(0, 2), (1, 1)]]
    assert handler.attempts[2:] == [[(0, 3), (1, 2)], [(1, 3)]]


async def test_raised_decision(autojump_clock: MockClock, world: World) -> None:
    """A decision that is raised is one about all of them."""
    world.broker.add(P0, "abc")
    async with batching(world, Batches(raises=[Skip("none of these")])) as pc:
        await settle()
        totals = pc.statistics().totals
    assert (totals.completed, totals.skipped, totals.failed) == (3, 3, 0)


@pytest.mark.parametrize(
    "result",
    [[], [None], [None] * 3, 7, "ab", b"ab", {0: None, 1: None}, output("x"), iter([None, None])],
    ids=["none", "too few", "too many", "number", "text", "bytes", "mapping", "record", "iterator"],
)
async def test_wrong_results(autojump_clock: MockClock, world: World, result: object) -> None:
    """What isn't one outcome for each record is a failure of all; nothing is completed."""
    world.broker.add(P0, "ab")

    async def handle(_records: tuple[Record, ...]) -> object:
        return result

    with pytest.RaisesGroup(pytest.RaisesExc(InvalidResultError, match="the handler of a batch returned")):
        await run(world, handle)
    assert world.committed(P0) in {None, 0}


def broken() -> Iterator[ProducerRecord]:
    """A generator of results that fails."""
    yield output("never")
    raise HandlerError


@pytest.mark.parametrize(
    "make",
    [lambda: 7, lambda: Retry, lambda: [None], lambda: "text", broken, KeyboardInterrupt],
    ids=["number", "class", "list of nothing", "text", "generator that raises", "no failure"],
)
async def test_wrong_outcome(autojump_clock: MockClock, world: World, outbox: FakeOutbox, make: Any) -> None:
    """An outcome that is none is its record's failure alone.

    One that was iterated, and raised while it was, ended the workers instead.
    """
    world.broker.add(P0, "abc")
    async with batching(world, Batches({(0, 1): [make()]}), on_failure="skip") as pc:
        await settle()
        totals = pc.statistics().totals
    assert (totals.completed, totals.failed, totals.skipped, totals.sent) == (3, 1, 1, 0)
    assert not outbox.sent


async def test_failure_of_sending_is_its_records_own(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """A record whose outputs weren't acknowledged is handled again; the others of its batch aren't."""
    world.broker.add(P0, "abc")
    outbox.errors += [None, DeliveryError("refused"), None]
    outbox.delay = 1
    handler = Batches({(0, offset): [output(f"{offset}.1"), output(f"{offset}.2")] for offset in range(3)})
    async with batching(world, handler, retry=AGAIN) as pc:
        await trio.sleep(0.5)
        assert pc.statistics().totals.completed == 0
        await trio.sleep(9)
        totals = pc.statistics().totals
    assert handler.attempts == [[(0, 1), (1, 1), (2, 1)], [(1, 2)]]
    assert [each.value for _, each in outbox.sent] == ["0.1", "2.1", "1.2"]
    assert (totals.failed, totals.sent, totals.completed) == (1, 3, 3)


async def test_undelivered_dead_letter_stops_once(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """If a dead letter is refused, the rest of what failed with the same exception doesn't wait for as much."""
    graveyard(world)
    world.broker.add(P0, "abcd")
    outbox.down = DeliveryError("no such luck")
    outbox.delay = 30
    handler = Batches({(0, 0): [None]}, raises=[HandlerError()])
    with pytest.RaisesGroup(pytest.RaisesExc(DeliveryError, match=r"dead letter of orders\[0\]@0")):
        await run(world, handler, on_failure="dead_letter")
    assert outbox.tried == 1
    assert trio.current_time() < 31


async def test_dead_letters_that_are_tried_again(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """The batch waits for them, but what is done in it is complete; the handler isn't called again for them."""
    graveyard(world)
    world.broker.add(P0, ["a", "b", "b", "a"])
    outbox.errors += [DeliveryError("not now")] * 3
    letters = DeadLetterConfig(on_dead_letter_failure="retry")
    handler = Batches({(0, 1): [HandlerError()]})
    async with batching(world, handler, max_size=3, dead_letter=letters, on_failure="dead_letter", retry=None) as pc:
        await settle()
        assert pc.statistics().totals.completed == 2
        world.broker.add(P0, ["b", "c"])
        await trio.sleep(0.01)
        assert of(pc, P0).position == 1
        await trio.sleep(20)
        totals = pc.statistics().totals
    assert outbox.tried == 4
    assert outbox.places == [(0, 1)]
    assert (totals.failed, totals.dead_lettered, totals.completed) == (1, 1, 6)
    assert [places for places in handler.places if (0, 1) in places] == [[(0, 0), (0, 1), (0, 3)]]
    assert handler.places[-1] == [(0, 2), (0, 4)]
    assert world.committed(P0) == 6


async def test_stop_while_a_dead_letter_is_tried_again(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """That goes on for shutdown_timeout; then the record is left, and comes again."""
    graveyard(world)
    world.broker.add(P0, "abc")
    outbox.down = DeliveryError("never")
    letters = DeadLetterConfig(on_dead_letter_failure="retry")
    handler = Batches({(0, 1): [DeadLetter()]})
    async with batching(world, handler, dead_letter=letters, shutdown_timeout=9) as pc:
        await trio.sleep(1)
        stopped = trio.current_time()
        pc.stop()
    assert trio.current_time() - stopped == pytest.approx(9)
    assert world.committed(P0) == 1
    outbox.down = None
    async with batching(world, Batches()) as pc:
        await settle()
        assert pc.statistics().totals.received == 2
        assert pc.statistics().totals.completed == 1
    assert world.committed(P0) == 3


# Decoding


def digits(data: bytes | None, _context: object) -> int:
    """Deserialise."""
    return int(data or b"")


async def test_undecodable_record_by_itself(autojump_clock: MockClock, world: World) -> None:
    """What can't be decoded follows the policy; the handler gets the rest, decoded, and its outcomes are theirs."""
    world.broker.add(P0, "a", value=b"1")
    world.broker.add(P0, "b", value=b"one")
    world.broker.add(P0, "cd", value=b"2")
    handler = Batches({(0, 2): [Skip()], (0, 3): [Retry(after=1)]})
    async with batching(world, handler, deserialize_value=Inline(digits), on_failure="skip") as pc:
        await trio.sleep(2)
        totals = pc.statistics().totals
    assert handler.attempts == [[(0, 1), (2, 1), (3, 1)], [(3, 2)]]
    values: list[object] = [each.value for each in handler.given[0]]
    assert values == [1, 2, 2]
    assert (totals.failed, totals.skipped, totals.completed) == (2, 2, 4)


async def test_failed_batch_with_an_undecodable_record(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """If the handler raises, that is the failure of what it was given."""
    world.broker.add(P0, "a", value=b"1")
    world.broker.add(P0, "b", value=b"one")
    handler = Batches(raises=[HandlerError()])
    retry = RetryPolicy(initial_backoff=1, retry_on=HandlerError)
    async with batching(world, handler, deserialize_value=Inline(digits), on_failure="skip", retry=retry):
        await trio.sleep(3)
    assert handler.attempts == [[(0, 1)], [(0, 2)]]
    assert "attempt 1 failed with SerializationError" in caplog.text
    assert world.committed(P0) == 2


async def test_nothing_can_be_decoded(autojump_clock: MockClock, world: World) -> None:
    """The handler isn't called with nothing."""
    world.broker.add(P0, "ab", value=b"?")
    handler = Batches()
    async with batching(world, handler, deserialize_value=Inline(digits), on_failure="skip"):
        await settle()
    assert not handler.given
    assert world.committed(P0) == 2


async def test_key_of_that_raises(autojump_clock: MockClock, world: World) -> None:
    """A record without a lane's key is no record of a batch; it follows the policy, and isn't tried again."""
    world.broker.add(P0, "axb")

    def key_of(record: Record) -> bytes:
        if record.key == b"x":
            raise KeyError(record.key)
        return record.key or b""

    handler = Batches()
    async with batching(world, handler, key_of=key_of, retry=AGAIN, on_failure="skip") as pc:
        await settle()
        totals = pc.statistics().totals
    assert handler.attempts == [[(0, 1), (2, 1)]]
    assert (totals.skipped, totals.retried, totals.completed) == (1, 0, 3)
