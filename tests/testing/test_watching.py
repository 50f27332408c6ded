"""A watched handler: its attempts, how they end, and which records are given up by that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import trio
from testing.watched import names, raises, record
from trio.testing import MockClock

from trio_parallel_kafka import (
    ConsumerConfig,
    DeadLetter,
    DeadLetterConfig,
    ProducerFencedError,
    ProducerRecord,
    Record,
    Retry,
    RetryPolicy,
    Skip,
)
from trio_parallel_kafka.control.dead_letters import dead_letter_of
from trio_parallel_kafka.execution.engines.handlers import is_async
from trio_parallel_kafka.testing.events import (
    Completed,
    Failed,
    GivenUp,
    Joined,
    Place,
    Started,
)
from trio_parallel_kafka.testing.history import History


def configured(**fields: Any) -> ConsumerConfig:
    """A consumer's configuration, without what doesn't matter."""
    return ConsumerConfig(bootstrap_servers="localhost:9092", group_id="billing", topics="orders", **fields)


async def test_events_of_an_attempt(autojump_clock: MockClock) -> None:
    """An attempt has its member, place, key, number, epoch and call, and the times of its start and end."""
    history = History()

    async def handle(_record: Record) -> str:
        await trio.sleep(2)
        return "anything"

    watched = history.watch(handle, "m")
    began = trio.current_time()
    assert await watched(record(attempt=2)) == "anything"
    attempt = ("m", Place("orders", 1, 5), b"a", 2, 3, 1)
    error = "InvalidResultError('the handler returned a str; return nothing, or a ProducerRecord, or a list of them')"
    assert history.events == [
        Joined(began, "m"),
        Started(began, *attempt),
        Failed(began + 2, *attempt, error),
    ]


async def test_what_is_returned_is_handed_on() -> None:
    """What is to be sent completes the record; what is yielded is made within the attempt, and is still there."""
    history = History()
    output = ProducerRecord("invoices", b"1")

    async def handle(given: Record) -> Any:
        return [None, output, (each for each in [output, output]), iter([output])][given.offset]

    watched = history.watch(handle)
    results = [await watched(record(offset)) for offset in range(4)]
    assert results == [None, output, (output, output), (output,)]
    assert names(history.events) == ["Started", "Completed"] * 4
    calls = [event.call for event in history.events if isinstance(event, Started)]
    assert calls == [1, 2, 3, 4]


def failing() -> Iterator[ProducerRecord]:
    """Yields something, then fails."""
    yield ProducerRecord("invoices")
    raise ValueError("bad")


class FailingList(list[ProducerRecord]):
    def __iter__(self) -> Iterator[ProducerRecord]:
        return failing()


async def test_what_cannot_be_yielded() -> None:
    """What fails as it is yielded fails its record, but not the others of its batch."""
    history = History()
    with pytest.raises(ValueError, match="bad"):
        history.watch(lambda _record: failing())(record())
    history.watch(lambda _record: FailingList())(record())
    assert names(history.events) == ["Started", "Failed", "Started", "Failed"]
    begun = len(history.events)
    outcomes: Any = await trio.to_thread.run_sync(
        history.watch(lambda _records: (iter([ProducerRecord("invoices")]), failing())), (record(1), record(2))
    )
    assert names(history.events[begun:]) == ["Started", "Started", "Completed", "Failed"]
    assert outcomes[0] == (ProducerRecord("invoices"),)
    assert isinstance(outcomes[1], ValueError)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("bad"), ["Failed"]),
        (ExceptionGroup("", [ValueError("bad")]), ["Failed"]),
        (Retry(after=3), ["Failed"]),
        (Skip("no need"), ["Failed", "GivenUp"]),
        (ExceptionGroup("", [Skip("no need")]), ["Failed", "GivenUp"]),
        (DeadLetter("no way"), ["Failed", "GivenUp"]),
        (SystemExit(3), ["Failed"]),
    ],
)
async def test_how_an_attempt_fails(error: BaseException, expected: list[str]) -> None:
    """What is raised leaves as it is; by Skip and DeadLetter the record is given up."""
    history = History()

    async def handle(_record: Record) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await history.watch(handle)(record())
    assert caught.value is error
    assert names(history.events) == ["Started", *expected]
    failed = history.events[2]
    assert isinstance(failed, Failed)
    assert failed.error == repr(error)
    assert all(event.place == Place("orders", 1, 5) for event in history.events if isinstance(event, GivenUp))


@pytest.mark.parametrize("in_a_nursery", [False, True])
async def test_cancelled(in_a_nursery: bool) -> None:
    """A cancelled attempt says so, also where a nursery makes groups of cancellations."""
    history = History()

    async def handle(_record: Record) -> None:
        if in_a_nursery:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await trio.sleep_forever()
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        scope.cancel()
        await history.watch(handle)(record())
    assert names(history.events) == ["Started", "Cancelled"]


RETRIES = RetryPolicy(max_attempts=3, retry_on=ValueError)


@pytest.mark.parametrize(
    ("fields", "error", "attempt", "is_given_up"),
    [
        ({}, ValueError(), 1, False),
        ({"retry": RETRIES}, ValueError(), 3, False),
        ({"on_failure": "skip"}, ValueError(), 1, True),
        ({"on_failure": "skip", "retry": RETRIES}, ValueError(), 2, False),
        ({"on_failure": "skip", "retry": RETRIES}, ValueError(), 3, True),
        ({"on_failure": "skip", "retry": RETRIES}, KeyError(), 1, True),
        ({"on_failure": "skip", "retry": RETRIES}, Retry(), 2, False),
        ({"on_failure": "skip", "retry": RETRIES}, Retry(), 3, True),
        ({"on_failure": "skip", "retry": RetryPolicy(max_attempts=None)}, Retry(), 9, False),
        ({"on_failure": "skip"}, Retry(), 9, False),
        ({"on_failure": "skip", "retry": RetryPolicy(retry_on=lambda _error: 1 / 0 > 1)}, ValueError(), 1, False),
        ({"on_failure": "skip"}, ProducerFencedError("another"), 1, False),
        ({"on_failure": "dead_letter", "retry": RETRIES}, ValueError(), 3, True),
        ({}, DeadLetter(), 1, False),
        ({"dead_letter": DeadLetterConfig()}, DeadLetter(), 1, True),
    ],
)
def test_final_failures(fields: dict[str, Any], error: Exception, attempt: int, is_given_up: bool) -> None:
    """With its consumer's configuration, a history knows after which failure a record is done with."""
    history = History()
    watched = history.watch(raises(error), config=configured(**fields))
    with pytest.raises(type(error)):
        watched(record(attempt=attempt))
    assert names(history.events) == ["Started", "Failed", *["GivenUp"] * is_given_up]


@pytest.mark.parametrize("error", [DeadLetter(), ValueError()])
def test_dead_letters_that_are_seen(error: Exception) -> None:
    """Where somebody tells of dead letters as they arrive, a record is given up then, and not before."""
    history = History(sees_dead_letters=True)
    watched = history.watch(raises(error), config=configured(on_failure="dead_letter"))
    with pytest.raises(type(error)):
        watched(record())
    assert names(history.events) == ["Started", "Failed"]
    letter = dead_letter_of(record(), error, reason="", topic="orders.dlt", group_id="billing", attempts=1)
    history.dead_letter(letter.headers)
    assert history.events[-1] == GivenUp(0.0, Place("orders", 1, 5))
    with pytest.raises(KeyError):
        history.dead_letter([("another", b"header")])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "is_given_up"),
    [
        ({"delivery": "exactly_once", "transactional_id": "billing-1"}, True),
        ({"dead_letter": DeadLetterConfig(on_dead_letter_failure="skip")}, True),
        ({"dead_letter": DeadLetterConfig(on_dead_letter_failure="retry")}, False),
    ],
)
def test_dead_letters_that_nothing_waits_for(fields: dict[str, Any], is_given_up: bool) -> None:
    """Where they arrive later than the lane goes on, or perhaps never, a record is given up before."""
    history = History(sees_dead_letters=True)
    config = configured(on_failure="dead_letter", **fields)
    with pytest.raises(ValueError, match="bad"):
        history.watch(raises(ValueError("bad")), config=config)(record())
    assert names(history.events) == ["Started", "Failed", *["GivenUp"] * is_given_up]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["Cancelled"]),
        ({"handler_timeout": 2.0}, ["Failed"]),
        ({"handler_timeout": 2.0, "on_failure": "skip"}, ["Failed", "GivenUp"]),
        ({"handler_timeout": 3.0, "on_failure": "skip"}, ["Cancelled"]),
    ],
)
@pytest.mark.parametrize("wraps", [False, True])
async def test_timeout(autojump_clock: MockClock, fields: dict[str, Any], expected: list[str], wraps: bool) -> None:
    """An attempt that is cancelled by its own deadline has failed; by one further out, it was cancelled."""
    history = History()

    async def handle(_record: Record) -> None:
        async with trio.open_nursery() as nursery:
            if wraps:
                nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    with trio.move_on_after(2):
        await history.watch(handle, config=configured(**fields))(record())
    assert names(history.events) == ["Started", *expected]


async def test_cancelled_late_is_no_timeout(autojump_clock: MockClock) -> None:
    """An attempt that took its time to be cancelled didn't fail by a timeout."""
    history = History()

    async def handle(_record: Record) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)

    with trio.CancelScope() as scope:
        scope.cancel()
        await history.watch(handle, config=configured(handler_timeout=2.0))(record())
    assert names(history.events) == ["Started", "Cancelled"]


async def test_returned_too_late(autojump_clock: MockClock) -> None:
    """An attempt that swallows its timeout has failed, whatever it returns."""
    history = History()
    watched = history.watch(lambda_sleep(2), config=configured(handler_timeout=2.0))
    await watched(record())
    assert names(history.events) == ["Started", "Failed"]
    watched = history.watch(lambda_sleep(1.9), config=configured(handler_timeout=2.0))
    await watched(record())
    assert names(history.events)[2:] == ["Started", "Completed"]


def lambda_sleep(seconds: float) -> Callable[[Record], Any]:
    """A handler that takes so long."""

    async def handle(_record: Record) -> None:
        await trio.sleep(seconds)

    return handle


def test_dead_letters_without_a_config() -> None:
    """Nothing is known of a consumer but that its dead letters are seen when they arrive: until then none is there."""
    history = History(sees_dead_letters=True)
    handle = history.watch(raises(DeadLetter("bad")))
    with pytest.raises(DeadLetter):
        handle(record())
    assert names(history.events) == ["Started", "Failed"]


def test_name_of_a_member() -> None:
    """Without a name, it is the client's."""
    history = History()
    history.watch(raises(ValueError()), config=configured(kafka={"client.id": "one"}))
    history.watch(raises(ValueError()), "two", config=configured(kafka={"client.id": "one"}))
    history.watch(raises(ValueError()), config=configured())
    assert [event.member for event in history.events if isinstance(event, Joined)] == ["one", "two", ""]


async def test_batches() -> None:
    """The records of a batch share a call; each has the outcome that the handler gives it, or all have one."""
    history = History()
    results: Iterator[Any] = iter(
        [None, [None, ProducerRecord("invoices"), ValueError("bad"), Skip()], [None], "four", ValueError("all")]
    )

    async def handle(_records: Sequence[Record]) -> Any:
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    watched = history.watch(handle)
    batch = tuple(record(offset) for offset in range(4))
    ends = []
    for _ in range(4):
        begun = len(history.events)
        await watched(batch)
        ends.append(names(history.events[begun:]))
        calls = {event.call for event in history.events[begun:] if isinstance(event, Started | Completed | Failed)}
        assert len(calls) == 1
    begun = len(history.events)
    with pytest.raises(ValueError, match="all"):
        await watched(batch)
    starts = ["Started"] * 4
    assert ends == [
        [*starts, *["Completed"] * 4],
        [*starts, "Completed", "Completed", "Failed", "Failed", "GivenUp"],
        [*starts, *["Failed"] * 4],
        [*starts, *["Failed"] * 4],
    ]
    assert names(history.events[begun:]) == [*starts, *["Failed"] * 4]


async def test_plain_handlers_in_threads() -> None:
    """A plain handler stays plain; in a thread its times are those of the Trio run."""
    history = History()

    def handle(_record: Record) -> threading.Thread:
        return threading.current_thread()

    watched = history.watch(handle)
    assert not is_async(watched)
    assert is_async(history.watch(lambda_sleep(0)))
    assert is_async(history.watch(partial(lambda_sleep(0))))
    before = trio.current_time()
    assert await trio.to_thread.run_sync(watched, record()) is not threading.current_thread()
    assert [before <= event.at <= trio.current_time() for event in history.events[-2:]] == [True, True]
