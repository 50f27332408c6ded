"""Batches: what becomes of each record, what is in one, and when it is taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from shell.batching import SCOPES, Batches, batching, output
from shell.failing import graveyard
from shell.fake_outbox import FakeOutbox
from shell.kit import P0, P1, HandlerError, World, later, of, settle
from trio.testing import MockClock

from trio_parallel_kafka import (
    BreakerPolicy,
    DeadLetter,
    DeadLetterConfig,
    DeliveryError,
    HandlerTimeoutError,
    Inline,
    InvalidHandlerError,
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


async def run(world: World, handler: Any, *, scope: Any = "partition", **fields: Any) -> None:
    """Consume batches until that ends by itself."""
    async with parallel_consumer(world.config(**fields)) as pc:
        await pc.run_batches(handler, scope=scope)


# What becomes of each record


async def test_outcome_for_each_record(autojump_clock: MockClock, world: World, outbox: FakeOutbox) -> None:
    """One batch: done, done with something to send, to be tried again, skipped, dead and failed, each by itself."""
    graveyard(world)
    world.broker.produce(P0, "abcdefgh")
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
    world.broker.produce(P0, "abc")

    async def handle(records: tuple[Record, ...]) -> None:
        assert [each.offset for each in records] == [0, 1, 2]

    async with batching(world, handle):
        await settle()
    assert world.committed(P0) == 3


@pytest.mark.parametrize("scope", SCOPES)
async def test_raising_fails_all(autojump_clock: MockClock, world: World, scope: str) -> None:
    """What the handler raises is each record's failure, and leaves once; nothing after them in their lanes starts."""
    world.broker.produce(P0, ["a"] * 3)
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
    world.broker.produce(P0, "abcd")
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
    world.broker.produce(P0, "abc")
    handler = Batches(raises=[HandlerError(), HandlerError()])
    async with batching(world, handler, retry=AGAIN) as pc:
        await trio.sleep(5)
        assert pc.statistics().totals.retried == 6
    assert handler.attempts == [[(0, n), (1, n), (2, n)] for n in (1, 2, 3)]
    assert handler.times == [0, 2, 4]
    assert world.committed(P0) == 3


async def test_attempts_are_each_records_own(autojump_clock: MockClock, world: World) -> None:
    """In one batch, one record's attempts may be over and another's not."""
    world.broker.produce(P0, ["a"])
    handler = Batches(raises=[HandlerError()] * 3)
    policy = RetryPolicy(max_attempts=3, initial_backoff=2.0, multiplier=1.0, jitter=0.0)
    async with batching(world, handler, scope="partition", linger=3, retry=policy, on_failure="skip") as pc:
        await trio.sleep(4)
        world.broker.produce(P0, ["b"])
        await trio.sleep(20)
        assert pc.statistics().totals.skipped == 1
    assert handler.attempts[:2] == [[(0, 1)], [(0, 2), (1, 1)]]
    assert handler.attempts[2:] == [[(0, 3), (1, 2)], [(1, 3)]]


async def test_raised_decision(autojump_clock: MockClock, world: World) -> None:
    """A decision that is raised is one about all of them."""
    world.broker.produce(P0, "abc")
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
    world.broker.produce(P0, "ab")

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
    world.broker.produce(P0, "abc")
    async with batching(world, Batches({(0, 1): [make()]}), on_failure="skip") as pc:
        await settle()
        totals = pc.statistics().totals
    assert (totals.completed, totals.failed, totals.skipped, totals.sent) == (3, 1, 1, 0)
    assert not outbox.sent


async def test_failure_of_sending_is_its_records_own(
    autojump_clock: MockClock, world: World, outbox: FakeOutbox
) -> None:
    """A record whose outputs weren't acknowledged is handled again; the others of its batch aren't."""
    world.broker.produce(P0, "abc")
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
    world.broker.produce(P0, "abcd")
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
    world.broker.produce(P0, ["a", "b", "b", "a"])
    outbox.errors += [DeliveryError("not now")] * 3
    letters = DeadLetterConfig(on_dead_letter_failure="retry")
    handler = Batches({(0, 1): [HandlerError()]})
    async with batching(world, handler, max_size=3, dead_letter=letters, on_failure="dead_letter", retry=None) as pc:
        await settle()
        assert pc.statistics().totals.completed == 2
        world.broker.produce(P0, ["b", "c"])
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
    world.broker.produce(P0, "abc")
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
    world.broker.produce(P0, "a", value=b"1")
    world.broker.produce(P0, "b", value=b"one")
    world.broker.produce(P0, "cd", value=b"2")
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
    world.broker.produce(P0, "a", value=b"1")
    world.broker.produce(P0, "b", value=b"one")
    handler = Batches(raises=[HandlerError()])
    retry = RetryPolicy(initial_backoff=1, retry_on=HandlerError)
    async with batching(world, handler, deserialize_value=Inline(digits), on_failure="skip", retry=retry):
        await trio.sleep(3)
    assert handler.attempts == [[(0, 1)], [(0, 2)]]
    assert "attempt 1 failed with SerializationError" in caplog.text
    assert world.committed(P0) == 2


async def test_nothing_can_be_decoded(autojump_clock: MockClock, world: World) -> None:
    """The handler isn't called with nothing."""
    world.broker.produce(P0, "ab", value=b"?")
    handler = Batches()
    async with batching(world, handler, deserialize_value=Inline(digits), on_failure="skip"):
        await settle()
    assert not handler.given
    assert world.committed(P0) == 2


async def test_key_of_that_raises(autojump_clock: MockClock, world: World) -> None:
    """A record without a lane's key is no record of a batch; it follows the policy, and isn't tried again."""
    world.broker.produce(P0, "axb")

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


# What is in a batch


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("key", [[(0, 0), (0, 2)], [(1, 0)], [(0, 1)], [(1, 1)], [(0, 3)]]),
        ("partition", [[(0, 0), (0, 1), (0, 2)], [(1, 0), (1, 1)], [(0, 3)]]),
        ("any", [[(0, 0), (0, 2), (1, 0)], [(0, 1), (0, 3), (1, 1)]]),
    ],
)
async def test_scopes(autojump_clock: MockClock, world: World, scope: str, expected: list[list[object]]) -> None:
    """A batch has records of one key, of one partition, or of any, at most max_size, in order."""
    world.broker.produce(P0, "abac")
    world.broker.produce(P1, "ab")
    handler = Batches()
    async with batching(world, handler, scope=scope, max_size=3, max_concurrency=1):
        await settle()
    assert handler.places == expected


@pytest.mark.parametrize("scope", SCOPES)
async def test_order_and_size(autojump_clock: MockClock, world: World, scope: str) -> None:
    """Whatever the scope: no batch is larger than max_size, each is in order, and so are the batches of a key."""
    world.broker.produce(P0, "aabbbcabcaaab" * 3)
    world.broker.produce(P1, "ccabbcabcab" * 3)
    handler = Batches(work=1)
    async with batching(world, handler, scope=scope, max_size=4, max_concurrency=5):
        await trio.sleep(60)
    assert max(map(len, handler.places)) == 4
    assert all(places == sorted(places) for places in handler.places)
    for partition in (0, 1):
        for key in (b"a", b"b", b"c"):
            mine = [r.offset for batch in handler.given for r in batch if (r.partition, r.key) == (partition, key)]
            assert mine == sorted(mine)
    assert handler.peak > 2
    assert sum(map(len, handler.places)) == 72


async def test_key_order_over_retries(autojump_clock: MockClock, world: World) -> None:
    """A lane's later records wait for one that is tried again; what was with it in its batch was handed out before."""
    world.broker.produce(P0, ["a", "b", "a", "a", "b"])
    handler = Batches({(0, 0): [Retry(after=3), Retry(after=3)]})
    async with batching(world, handler, max_size=2):
        await trio.sleep(10)
    assert handler.attempts == [[(0, 1), (2, 1)], [(1, 1), (4, 1)], [(0, 2), (3, 1)], [(0, 3)]]
    assert handler.times == [0, 0, 3, 6]


async def test_order_of_several_that_are_tried_again(autojump_clock: MockClock, world: World) -> None:
    """Of one key, they come again together, in order, when the last of them may."""
    world.broker.produce(P0, ["a"] * 5)
    handler = Batches({(0, 0): [Retry(after=1)], (0, 2): [Retry(after=6)]})
    async with batching(world, handler, max_size=4):
        await trio.sleep(10)
    assert handler.attempts == [[(0, 1), (1, 1), (2, 1), (3, 1)], [(0, 2), (2, 2), (4, 1)]]
    assert handler.times == [0, 6]


async def test_concurrency_bounds_batches(autojump_clock: MockClock, world: World) -> None:
    """max_concurrency is of batches; statistics count the records in them."""
    world.broker.produce(P0, [f"k{n}" for n in range(20)])
    world.broker.produce(P1, [f"k{n}" for n in range(20)])
    handler = Batches(work=1)
    async with batching(world, handler, max_size=4, max_concurrency=3) as pc:
        await trio.sleep(0.5)
        statistics = pc.statistics()
        assert handler.peak == len(handler.given) == 3
        assert statistics.in_flight == 12
        assert sum(each.in_flight for each in statistics.partitions) == 12
        await trio.sleep(9)
        assert pc.statistics().in_flight == 0
    assert handler.peak == 3
    assert sum(map(len, handler.given)) == 40


async def test_handler_timeout(autojump_clock: MockClock, world: World) -> None:
    """The bound is one for the call; a batch that takes longer has failed, all of it."""
    world.broker.produce(P0, "abc")
    handler = Batches(work=5)
    with pytest.RaisesGroup(pytest.RaisesExc(HandlerTimeoutError, match="3 s")):
        await run(world, handler, handler_timeout=3)
    assert handler.cancelled == [[(0, 0), (0, 1), (0, 2)]]
    assert world.committed(P0) in {None, 0}


# While nothing is to be started


@pytest.mark.parametrize("scope", SCOPES)
async def test_pause(autojump_clock: MockClock, world: World, scope: str) -> None:
    """Nothing is taken while it is paused, whatever has waited long enough; then at once."""
    world.broker.produce(P0, "aa")
    handler = Batches()
    async with batching(world, handler, scope=scope, linger=3) as pc:
        pc.pause()
        await trio.sleep(5)
        assert not handler.given
        pc.resume()
        await settle()
    assert handler.times == [5]


@pytest.mark.parametrize("scope", SCOPES)
async def test_pause_of_a_partition(autojump_clock: MockClock, world: World, scope: str) -> None:
    """Records of a paused partition are in no batch."""
    world.broker.produce(P0, "aa")
    world.broker.produce(P1, "aa")
    handler = Batches()
    async with batching(world, handler, scope=scope, linger=3) as pc:
        pc.pause([P1])
        await trio.sleep(5)
        assert handler.places == [[(0, 0), (0, 1)]]
        pc.resume([P1])
        await settle()
    assert handler.places[1:] == [[(1, 0), (1, 1)]]
    assert handler.times == [3, 5]


@pytest.mark.parametrize("scope", SCOPES)
async def test_breaker(autojump_clock: MockClock, world: World, scope: str) -> None:
    """While it is open single records try; then batches are as large as before."""
    world.broker.produce(P0, ["a"] * 8)
    policy = BreakerPolicy(failure_rate=0.5, min_attempts=4, window=10.0, probe_interval=5.0)
    handler = Batches(raises=[HandlerError(), HandlerError()])
    retry = RetryPolicy(max_attempts=9, initial_backoff=1.0, multiplier=1.0, jitter=0.0)
    async with batching(world, handler, scope=scope, max_size=4, breaker=policy, retry=retry) as pc:
        await trio.sleep(8)
        assert pc.statistics().held == ("circuit open",)
        await trio.sleep(8)
        assert pc.statistics().held == ()
    assert handler.attempts[:3] == [[(0, 1), (1, 1), (2, 1), (3, 1)], [(0, 2)], [(0, 3)]]
    assert handler.attempts[3:] == [[(1, 2), (2, 2), (3, 2), (4, 1)], [(5, 1), (6, 1), (7, 1)]]
    assert handler.times == [0, 5, 10, 10, 10]


# What may be asked for


async def test_misuse(autojump_clock: MockClock, world: World) -> None:
    """What makes no sense is refused, and leaves the consumer as it was."""
    world.broker.produce(P0, "ab")
    handler = Batches()
    async with parallel_consumer(world.config()) as pc:
        with pytest.raises(InvalidHandlerError, match="a tuple of records"):
            await pc.run_batches(lambda _records: None)  # type: ignore[arg-type,return-value]
        for options in ({"max_size": 0}, {"linger": -0.1}, {"linger": float("inf")}, {"linger": float("nan")}):
            with pytest.raises(ValueError, match="max_size must be 1 at least and linger seconds from 0 on"):
                await pc.run_batches(handler, **options)
        with pytest.raises(ValueError, match="'topic' is not a valid BatchScope"):
            await pc.run_batches(handler, scope="topic")  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(later, 1, pc.stop)
            await pc.run_batches(handler)
    assert world.committed(P0) == 2
