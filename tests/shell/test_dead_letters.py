"""Dead letters: what they say, how they are sent, and the check of their topics."""

from __future__ import annotations

import logging
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from hypothesis import given, strategies as st
from shell.kit import P0, World, later
from shell.scripted_broker import ScriptedBroker
from trio.testing import MockClock

from trio_parallel_kafka import (
    ConfigError,
    ConsumerConfig,
    KafkaError,
    ParallelKafkaError,
    Record,
    TopicNotFoundError,
)
from trio_parallel_kafka.config import DeadLetterConfig
from trio_parallel_kafka.control.dead_letters import (
    MAX_TEXT,
    MAX_TRACEBACK,
    OURS,
    DeadLetters,
    check_dead_letter_topics,
    dead_letter_of,
    trimmed,
)
from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.errors import DeadLetterError, DeliveryError, ProducerFencedError, RecordTooLargeError
from trio_parallel_kafka.execution.outbox import Parcel
from trio_parallel_kafka.execution.verdicts import PassOver, RetryLater
from trio_parallel_kafka.outcomes import DeadLetter
from trio_parallel_kafka.produced import ProducerRecord, RawRecord

STAMP = 1700000000.123

ORIGIN = {
    "kafka_dlt-original-topic",
    "kafka_dlt-original-partition",
    "kafka_dlt-original-offset",
    "kafka_dlt-original-timestamp",
    "kafka_dlt-original-consumer-group",
}
FAILURE = {
    "kafka_deliveryAttempt",
    "kafka_dlt-reason",
    "kafka_dlt-exception-fqcn",
    "kafka_dlt-exception-message",
    "kafka_dlt-exception-stacktrace",
}


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    """The exception as a handler leaves it, with a traceback."""

    def handle() -> None:
        raise error from cause

    try:
        handle()
    except Exception as caught:  # noqa: BLE001 - whatever it is
        return caught
    raise AssertionError


def a_record(**fields: Any) -> Record:
    """A record with something in every field."""
    given: dict[str, Any] = {"key": b"k", "value": b"v", "headers": (("a", b"1"), ("a", None)), "timestamp": STAMP}
    return Record("orders", 3, 2**40, **(given | fields))


def letter(error: Exception, record: Record | None = None, *, reason: str = "why", attempts: int = 5) -> RawRecord:
    """Its dead letter."""
    return dead_letter_of(
        record or a_record(), error, reason=reason, topic="orders.dlt", group_id="billing", attempts=attempts
    )


def header(dead_letter: ProducerRecord, name: str) -> bytes:
    """The one value of a header."""
    (value,) = [value for each, value in dead_letter.headers if each == name]
    assert value is not None
    return value


# What a dead letter says


def test_record_stays_as_it_was() -> None:
    """Key, value, timestamp and headers are those of the record, its own headers first and in their order."""
    made = letter(ValueError())
    assert isinstance(made, RawRecord)
    assert (made.topic, made.key, made.value, made.timestamp, made.partition) == (
        "orders.dlt", b"k", b"v", STAMP, None,
    )  # fmt: skip
    assert made.headers[:2] == (("a", b"1"), ("a", None))
    assert {name for name, _ in made.headers[2:]} == ORIGIN | FAILURE


def test_decoded_record_is_buried_raw() -> None:
    """Whatever deserialisers made of key and value, the dead letter has the bytes."""
    decoded: Record[Any, Any] = a_record().decoded({"id": 1}, ["parsed"])
    made = letter(ValueError(), decoded)
    assert (made.key, made.value) == (b"k", b"v")


def test_nothing_is_made_of_what_was_nothing() -> None:
    """A tombstone without a key stays one; a missing timestamp is sent as Kafka's number for that."""
    made = letter(ValueError(), a_record(key=None, value=None, headers=(), timestamp=None))
    assert (made.key, made.value, made.timestamp) == (None, None, None)
    assert header(made, "kafka_dlt-original-timestamp") == struct.pack(">q", -1)


def test_origin_is_in_the_convention_of_spring() -> None:
    """Numbers are big-endian, partition and attempts of 4 bytes, offset and milliseconds of 8; texts are UTF-8."""
    made = letter(ValueError())
    assert header(made, "kafka_dlt-original-topic") == b"orders"
    assert header(made, "kafka_dlt-original-partition") == struct.pack(">i", 3)
    assert header(made, "kafka_dlt-original-offset") == struct.pack(">q", 2**40)
    assert header(made, "kafka_dlt-original-timestamp") == struct.pack(">q", 1700000000123)
    assert header(made, "kafka_dlt-original-consumer-group") == b"billing"
    assert header(made, "kafka_deliveryAttempt") == struct.pack(">i", 5)


def test_failure_is_told_in_full() -> None:
    """The exception's class, words and traceback are there, and the class of its cause."""
    made = letter(raised(DeliveryError("näh"), cause=KeyError("x")), reason="attempt 5 failed")
    assert header(made, "kafka_dlt-reason") == b"attempt 5 failed"
    assert header(made, "kafka_dlt-exception-fqcn") == b"trio_parallel_kafka.errors.DeliveryError"
    assert header(made, "kafka_dlt-exception-cause-fqcn") == b"KeyError"
    assert header(made, "kafka_dlt-exception-message") == "näh".encode()
    traceback = header(made, "kafka_dlt-exception-stacktrace").decode()
    assert "in handle" in traceback
    assert traceback.endswith("DeliveryError: näh\n")


@pytest.mark.parametrize("is_explicit", [True, False])
def test_decision_gives_way_to_what_led_to_it(is_explicit: bool) -> None:
    """A handler that raised ``DeadLetter`` because of an exception is told about by that exception."""
    cause = ValueError("no such customer")
    decision = DeadLetter("given up")
    if is_explicit:
        decision.__cause__ = cause
    else:
        decision.__context__ = cause
    made = letter(raised(ExceptionGroup("", [decision])) if is_explicit else decision)
    assert header(made, "kafka_dlt-exception-fqcn") == b"ValueError"
    assert header(made, "kafka_dlt-exception-message") == b"no such customer"


def test_decision_without_a_cause_stands_for_itself() -> None:
    """``DeadLetter`` alone is told as it is; a context that was suppressed isn't its cause."""
    decision = DeadLetter("too old")
    decision.__context__, decision.__suppress_context__ = KeyError(), True
    made = letter(decision)
    assert header(made, "kafka_dlt-exception-fqcn") == b"trio_parallel_kafka.outcomes.DeadLetter"
    assert header(made, "kafka_dlt-exception-message") == b"too old"
    assert not [name for name, _ in made.headers if name == "kafka_dlt-exception-cause-fqcn"]


def test_texts_are_bounded() -> None:
    """Words lose their end, a traceback its beginning; no character is cut through."""
    made = letter(raised(ValueError("ä" * 50_000 + "!")), reason="x" + "ä" * 5_000)
    message, reason = header(made, "kafka_dlt-exception-message"), header(made, "kafka_dlt-reason")
    assert message.decode() == "ä" * (MAX_TEXT // 2)
    assert reason.decode() == "x" + "ä" * (MAX_TEXT // 2 - 1)
    traceback = header(made, "kafka_dlt-exception-stacktrace")
    assert MAX_TRACEBACK - 1 <= len(traceback) <= MAX_TRACEBACK
    assert traceback.decode().endswith("ä!\n")


def test_words_that_cannot_be_had() -> None:
    """An exception that can't be shown, or not as UTF-8, costs neither the dead letter nor the rest of it."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert b"can't be shown" in header(letter(raised(MuteError())), "kafka_dlt-exception-message")
    assert header(letter(ValueError("\udcff")), "kafka_dlt-exception-message") == b"\\udcff"


def test_dead_letter_of_a_dead_letter_tells_of_itself() -> None:
    """What the record said of an earlier failure is replaced, not added to: each header is there once."""
    first = letter(raised(ValueError("first"), cause=KeyError()), reason="old", attempts=9)
    again = Record("orders.dlt", 0, 12, key=b"k", value=b"v", headers=first.headers)
    second = dead_letter_of(
        again, TypeError("second"), reason="new", topic="orders.dlt.dlt", group_id="undertaker", attempts=1
    )
    names = [name for name, _ in second.headers if name in OURS]
    assert sorted(names) == sorted(ORIGIN | FAILURE)
    assert second.headers[:2] == (("a", b"1"), ("a", None))
    assert header(second, "kafka_dlt-original-topic") == b"orders.dlt"
    assert header(second, "kafka_dlt-exception-message") == b"second"


@given(st.lists(st.tuples(st.sampled_from([*sorted(OURS), "a", "b"]), st.none() | st.binary(max_size=5))))
def test_headers_of_others_are_kept(headers: list[tuple[str, bytes | None]]) -> None:
    """Whatever headers a record has, those that aren't ours come through in their order."""
    made = letter(ValueError(), a_record(headers=tuple(headers)))
    assert [each for each in made.headers if each[0] not in OURS] == [each for each in headers if each[0] in "ab"]


def test_trimming_goes_from_the_longest_to_the_origin() -> None:
    """First the traceback goes, then the words, then all but the origin; the record stays whole."""
    made = letter(raised(ValueError("x"), cause=KeyError()))
    kinds = FAILURE | {"kafka_dlt-exception-cause-fqcn"}
    words = {"kafka_dlt-exception-message", "kafka_dlt-reason"}
    left = [kinds - {"kafka_dlt-exception-stacktrace"}, kinds - {"kafka_dlt-exception-stacktrace"} - words, set()]
    smaller = list(trimmed(made))
    assert [{name for name, _ in each.headers} for each in smaller] == [{"a"} | ORIGIN | names for names in left]
    for each in smaller:
        assert (each.topic, each.key, each.value, each.timestamp) == ("orders.dlt", b"k", b"v", made.timestamp)
        assert each.headers[:2] == made.headers[:2]


# How it is sent


class FakeOutbox:
    """Takes what it is sent, or fails as scripted."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = deque(failures)
        self.sent: list[ProducerRecord] = []
        self.tried: list[ProducerRecord] = []

    async def send(self, assignment: Assignment[Record], record: Record, outputs: Sequence[ProducerRecord]) -> None:
        await trio.lowlevel.checkpoint()
        self.tried += outputs
        if self.failures:
            raise self.failures.popleft()
        self.sent += outputs

    async def send_all(self, parcels: Sequence[Parcel]) -> NoReturn:
        raise AssertionError("dead letters go one by one")


def a_config(**fields: Any) -> ConsumerConfig:
    """A configuration with these fields."""
    given = {"bootstrap_servers": "fake:9092", "group_id": "billing", "topics": ["orders"]}
    return ConsumerConfig(**(given | fields))


async def bury(
    outbox: FakeOutbox,
    *,
    topic: str | Callable[[Record], str] | None = None,
    on_failure: str = "raise",
    assigned: Sequence[str] = (),
    topics: Sequence[str] = ("orders",),
) -> RetryLater | PassOver | None:
    """Bury a record of ``orders`` under this configuration."""
    settings = DeadLetterConfig(topic=topic, on_dead_letter_failure=on_failure)  # type: ignore[arg-type]
    dead_letters = DeadLetters(
        a_config(dead_letter=settings, topics=topics),
        outbox,
        is_assigned=lambda name: name in assigned,
        backoff=lambda attempt: attempt * 10.0,
    )
    return await dead_letters.bury(Assignment(P0, 1), a_record(attempt=4), ValueError("bad"), "four times bad")


async def test_burying_completes_once_it_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    """The letter goes to the default topic, and the log names the record, the topic and the reason, not the value."""
    outbox = FakeOutbox()
    assert await bury(outbox) is None
    (sent,) = outbox.sent
    assert isinstance(sent, RawRecord)
    assert sent.topic == "orders.dlt"
    assert header(sent, "kafka_deliveryAttempt") == struct.pack(">i", 4)
    assert header(sent, "kafka_dlt-reason") == b"four times bad"
    assert f"orders[3]@{2**40}" in caplog.text
    assert "orders.dlt: four times bad" in caplog.text
    assert "value" not in caplog.text


@pytest.mark.parametrize("topic", ["graveyard", lambda record: f"grave{record.topic[:0]}yard"])
async def test_topic_is_chosen(topic: str | Callable[[Record], str]) -> None:
    """A name, or a function of the record, says where it goes."""
    outbox = FakeOutbox()
    await bury(outbox, topic=topic)
    assert [sent.topic for sent in outbox.sent] == ["graveyard"]


@pytest.mark.parametrize("refusals", [1, 2, 3])
async def test_too_large_is_trimmed_until_it_fits(refusals: int) -> None:
    """Each refusal for its size costs more of our headers; what is sent is the first that fits."""
    outbox = FakeOutbox(*[RecordTooLargeError("too large")] * refusals)
    assert await bury(outbox) is None
    whole, *smaller = outbox.tried
    assert smaller == list(trimmed(whole))[:refusals]  # type: ignore[arg-type]
    assert outbox.sent == smaller[-1:]


async def test_too_large_even_with_its_origin_alone() -> None:
    """A record that fits in no way is told as what it is: not delivered."""
    outbox = FakeOutbox(*[RecordTooLargeError("too large")] * 4)
    with pytest.raises(DeadLetterError, match="too large") as caught:
        await bury(outbox)
    assert isinstance(caught.value.__cause__, RecordTooLargeError)
    assert len(outbox.tried) == 4


async def test_failure_to_deliver_is_loud() -> None:
    """By default the error names the record, its reason and the dead letters' topic, with the cause behind it."""
    with pytest.raises(DeadLetterError, match=r"orders\[3\]@\d+ \(four times bad\).*'orders\.dlt': no ack") as caught:
        await bury(FakeOutbox(DeliveryError("no ack")))
    error = caught.value
    assert (error.topic, error.partition, error.offset) == ("orders", 3, 2**40)
    assert isinstance(error.__cause__, DeliveryError)


async def test_failure_to_deliver_may_be_skipped(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asks for it loses the record, with an error in the log that names it."""
    assert await bury(FakeOutbox(DeliveryError("no ack")), on_failure="skip") == PassOver("four times bad")
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert f"orders[3]@{2**40}" in line.getMessage()
    assert "no ack" in line.getMessage()


async def test_failure_to_deliver_may_be_made_up_for(caplog: pytest.LogCaptureFixture) -> None:
    """With ``retry`` the record isn't completed, and the letter is tried again after the backoff of its attempt."""
    assert await bury(FakeOutbox(DeliveryError("no ack")), on_failure="retry") == RetryLater(40.0)
    assert [line.levelno for line in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("on_failure", ["raise", "skip", "retry"])
async def test_fenced_producer_is_no_matter_of_a_dead_letter(on_failure: str) -> None:
    """A producer that another took over from is fatal, whatever else is skipped or tried again."""
    with pytest.raises(ProducerFencedError):
        await bury(FakeOutbox(ProducerFencedError("fenced")), on_failure=on_failure)


def no_topic(record: Record) -> str:
    """Finds no topic."""
    raise KeyError(record.topic)


@pytest.mark.parametrize("on_failure", ["raise", "skip", "retry"])
@pytest.mark.parametrize(
    ("topic", "fields", "message"),
    [
        (no_topic, {}, r"dead_letter\.topic raised KeyError\('orders'\)"),
        (lambda _record: b"graveyard", {}, r"returned b'graveyard'"),
        (lambda _record: "grave\0yard", {}, r"returned 'grave\\x00yard'"),
        (lambda record: record.topic, {}, "this consumer reads"),
        (lambda record: record.topic + "x", {"topics": ("^orders",)}, "this consumer reads"),
        ("graveyard", {"assigned": ("graveyard",)}, "this consumer reads"),
    ],
    ids=["function raises", "no name", "cut name", "own topic", "own pattern", "own assignment"],
)
async def test_wrong_topic_always_stops(topic: Any, fields: dict[str, Any], message: str, on_failure: str) -> None:
    """A mistake in where dead letters go is mended by neither waiting nor skipping, and nothing is sent."""
    outbox = FakeOutbox()
    with pytest.raises(DeadLetterError, match=message):
        await bury(outbox, topic=topic, on_failure=on_failure, **fields)
    assert outbox.tried == []


# Whether there is a place for it


async def check(world: World, **fields: Any) -> None:
    """Check as a consumer with this configuration does before it joins; what that raises leaves bare."""
    config = world.config(**({"on_failure": "dead_letter"} | fields))
    raised: list[ParallelKafkaError] = []
    async with world.open_client(config, []) as client:
        try:
            await check_dead_letter_topics(config, client)
        except ParallelKafkaError as error:
            raised.append(error)
    if raised:
        raise raised[0]


def broker_with(*topics: str) -> ScriptedBroker:
    """A broker with these topics, of one partition each."""
    return ScriptedBroker(**dict.fromkeys(topics, 1))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"on_failure": "raise", "dead_letter": DeadLetterConfig()},
        {"dead_letter": DeadLetterConfig(topic="graveyard")},
        {"topics": ["orders", "refunds"]},
        {"topics": "^(orders|refunds)$"},
        {"topics": "^(orders|refunds)", "dead_letter": DeadLetterConfig(topic="graveyard")},
        {"topics": "^[[:alpha:]]+", "kafka": {"group.protocol": "consumer"}},
        {"topics": "^__consumer_offsets$"},
    ],
)
async def test_topics_that_are_there(autojump_clock: MockClock, world: World, fields: dict[str, Any]) -> None:
    """Where every topic that may get dead letters is there, all is well at once."""
    world.broker = broker_with(
        "orders", "orders.dlt", "refunds", "refunds.dlt", "graveyard", "graveyard.dlt", "__consumer_offsets"
    )
    await check(world, **fields)
    assert trio.current_time() == 0


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({}, ["orders.dlt"]),
        ({"on_failure": "raise", "dead_letter": DeadLetterConfig()}, ["orders.dlt"]),
        ({"dead_letter": DeadLetterConfig(topic="graveyard")}, ["graveyard"]),
        ({"topics": ["refunds", "orders"]}, ["orders.dlt", "refunds.dlt"]),
        ({"topics": "^(orders|refunds|returns)$"}, ["orders.dlt", "refunds.dlt"]),
    ],
)
async def test_topics_that_are_missing(
    autojump_clock: MockClock, world: World, fields: dict[str, Any], missing: list[str]
) -> None:
    """Each that isn't there is named, with what to do, after the moment that a new one takes to be known."""
    world.broker = broker_with("orders", "refunds", "others")
    with pytest.raises(TopicNotFoundError, match=", ".join(map(repr, missing)) + " isn't there; make it") as caught:
        await check(world, **fields)
    assert caught.value.topic == missing[0]
    assert trio.current_time() >= 2


async def test_topic_that_was_just_made(autojump_clock: MockClock, world: World, nursery: trio.Nursery) -> None:
    """One that comes to be known a moment later is waited for."""
    appears = world.broker.logs.update
    nursery.start_soon(later, 1.0, lambda: appears(broker_with("orders.dlt").logs))
    await check(world)
    assert 1 <= trio.current_time() < 1.5


@pytest.mark.parametrize("pattern", ["^(orders|orders.dlt)$", "^o[a-z.]{5,13}$"])
@pytest.mark.parametrize("are_there", [True, False])
async def test_subscription_must_not_take_in_its_dead_letters(
    autojump_clock: MockClock, world: World, pattern: str, are_there: bool
) -> None:
    """A pattern that takes in the dead letters of a topic is refused at once, whether or not they are there yet."""
    world.broker = broker_with("orders", "other", *["orders.dlt", "other.dlt"] * are_there)
    with pytest.raises(ConfigError, match=r"takes in 'orders\.dlt'"):
        await check(world, topics=pattern)
    assert trio.current_time() == 0


async def test_nothing_to_check(autojump_clock: MockClock, world: World) -> None:
    """Without dead letters, or with a topic that only the record tells, nothing is asked."""
    await check(world, on_failure="skip")
    await check(world, dead_letter=DeadLetterConfig(topic=lambda record: record.topic + ".dead"))
    assert [call for client in world.clients for call in client.calls.of("Metadata")] == []


async def test_no_answer_about_the_topics(autojump_clock: MockClock, world: World) -> None:
    """A broker that doesn't answer is an error, not a missing topic."""
    world.broker.fail_next("Metadata", 0, ClientError.REQUEST_TIMED_OUT)
    with pytest.raises(KafkaError, match="Metadata is refused"):
        await check(world)
