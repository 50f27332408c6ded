"""Dead letters: what they say, how they are sent, and whether there is a place for them.

The headers' names and encodings are those of Spring Kafka's dead-letter publisher, which most tools that read dead
letters know: texts in UTF-8, numbers in binary, big-endian. It has no name for a reason; ``kafka_dlt-reason`` is ours.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import trio

from trio_parallel_kafka.config import ConsumerConfig, DeadLetterConfig
from trio_parallel_kafka.config.librdkafka import is_c_text, uses_consumer_protocol
from trio_parallel_kafka.config.policies import DEAD_LETTER_SUFFIX
from trio_parallel_kafka.config.subscription import is_pattern, reader_of
from trio_parallel_kafka.config.wording import Problem
from trio_parallel_kafka.control.client import MISSING_TOPIC_PATIENCE, Client
from trio_parallel_kafka.control.failure_policy import buries
from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.errors import (
    ConfigError,
    DeadLetterError,
    KafkaError,
    ProducerFencedError,
    RecordTooLargeError,
    TopicNotFoundError,
)
from trio_parallel_kafka.execution.outbox import Outbox
from trio_parallel_kafka.execution.verdicts import PassOver, RetryLater
from trio_parallel_kafka.outcomes import DeadLetter, unwrapped
from trio_parallel_kafka.produced import RawRecord
from trio_parallel_kafka.producing.arguments import is_timestamp
from trio_parallel_kafka.record import Record

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.dead_letters")

MAX_TEXT: Final = 2_000
"""Bytes of a text in a header."""

MAX_TRACEBACK: Final = 16_000
"""Bytes of the traceback; its end is kept, which says most."""

ORIGINAL_TOPIC: Final = "kafka_dlt-original-topic"
ORIGINAL_PARTITION: Final = "kafka_dlt-original-partition"
ORIGINAL_OFFSET: Final = "kafka_dlt-original-offset"
ORIGINAL_TIMESTAMP: Final = "kafka_dlt-original-timestamp"
ORIGINAL_GROUP: Final = "kafka_dlt-original-consumer-group"
ATTEMPTS: Final = "kafka_deliveryAttempt"
REASON: Final = "kafka_dlt-reason"
EXCEPTION: Final = "kafka_dlt-exception-fqcn"
EXCEPTION_CAUSE: Final = "kafka_dlt-exception-cause-fqcn"
EXCEPTION_MESSAGE: Final = "kafka_dlt-exception-message"
EXCEPTION_TRACEBACK: Final = "kafka_dlt-exception-stacktrace"

OURS: Final = frozenset(
    {
        ORIGINAL_TOPIC, ORIGINAL_PARTITION, ORIGINAL_OFFSET, ORIGINAL_TIMESTAMP, ORIGINAL_GROUP, ATTEMPTS, REASON,
        EXCEPTION, EXCEPTION_CAUSE, EXCEPTION_MESSAGE, EXCEPTION_TRACEBACK,
    }
)  # fmt: skip

_LATEST: Final = 2**63 - 1
"""Milliseconds; a float of seconds may round the latest of all timestamps up."""

TRIMMINGS: Final = ({EXCEPTION_TRACEBACK}, {EXCEPTION_MESSAGE, REASON}, {EXCEPTION, EXCEPTION_CAUSE, ATTEMPTS})
"""What is left out one after another of a dead letter that is too large; where it comes from is always said."""


# What a dead letter says


def dead_letter_of(
    record: Record, error: Exception, *, reason: str, topic: str, group_id: str, attempts: int
) -> RawRecord:
    """Make the dead letter of a record: the record as it was, and in headers what became of it.

    A record that was a dead letter before loses what it said of its earlier failure: each of our headers is there
    once, and says where this record stood and why it failed.

    Args:
        record: whose raw key and value it gets, whatever deserialisers made of them.
        error: what its last attempt failed with.
        reason: why it goes there, for people.
        topic: where to.
        group_id: the consumer group.
        attempts: how many were made.
    """
    ours = _headers_of_origin(record, group_id) | _headers_of_failure(error, reason, attempts)
    kept = [header for header in record.headers if header[0] not in OURS]
    return RawRecord(
        topic,
        record.raw_value,
        key=record.raw_key,
        headers=[*kept, *ours.items()],
        timestamp=record.timestamp if is_timestamp(record.timestamp) else None,
    )


def trimmed(dead_letter: RawRecord) -> Iterator[RawRecord]:
    """The same with fewer and fewer of our headers; see :data:`TRIMMINGS`."""
    headers = dead_letter.headers
    for names in TRIMMINGS:
        headers = tuple(header for header in headers if header[0] not in names)
        yield attrs.evolve(dead_letter, headers=headers)


def _headers_of_origin(record: Record, group_id: str) -> dict[str, bytes]:
    milliseconds = -1 if record.timestamp is None else min(round(record.timestamp * 1000), _LATEST)
    return {
        ORIGINAL_TOPIC: _encoded(record.topic),
        ORIGINAL_PARTITION: _int32(record.partition),
        ORIGINAL_OFFSET: _int64(record.offset),
        ORIGINAL_TIMESTAMP: _int64(milliseconds),
        ORIGINAL_GROUP: _encoded(group_id),
    }


def _headers_of_failure(error: Exception, reason: str, attempts: int) -> dict[str, bytes]:
    failure: BaseException = unwrapped(error)
    if isinstance(failure, DeadLetter):
        given_up_for = _cause(failure)
        failure = failure if given_up_for is None else given_up_for
    cause = _cause(failure)
    headers = {ATTEMPTS: _int32(attempts), REASON: _text(reason), EXCEPTION: _text(_class_name(failure))}
    if cause is not None:
        headers[EXCEPTION_CAUSE] = _text(_class_name(cause))
    headers[EXCEPTION_MESSAGE] = _text(_message(failure))
    headers[EXCEPTION_TRACEBACK] = _traceback(failure)
    return headers


def _cause(error: BaseException) -> BaseException | None:
    """What it was raised from, or while handling what."""
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def _class_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a dead letter mustn't fail for the words in it
        return "(the exception can't be shown as text)"


def _text(text: str) -> bytes:
    return _whole(_encoded(text)[:MAX_TEXT])


def _traceback(error: BaseException) -> bytes:
    try:
        lines = traceback.format_exception(error)
    except Exception as mistake:  # noqa: BLE001 - as above; a class may say anything of where it was raised
        lines = [f"(the traceback can't be shown: {_class_name(mistake)})"]
    return _whole(_encoded("".join(lines))[-MAX_TRACEBACK:])


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _whole(cut: bytes) -> bytes:
    """Without the rest of a character that was cut through."""
    return cut.decode(errors="ignore").encode()


def _int32(number: int) -> bytes:
    return number.to_bytes(4, "big", signed=True)


def _int64(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)


# How it is sent


class DeadLetters:
    """Sends dead letters.

    Args:
        config: the consumer's configuration.
        outbox: sends them, and knows when they are safe.
        is_assigned: tells whether this member reads from a topic now.
        backoff: seconds to wait before a dead letter is tried again, from the number of the record's attempt.
    """

    def __init__(
        self,
        config: ConsumerConfig,
        outbox: Outbox,
        *,
        is_assigned: Callable[[str], bool],
        backoff: Callable[[int], float],
    ) -> None:
        self._config: Final = config
        self._settings: Final = config.dead_letter or DeadLetterConfig()
        self._outbox: Final = outbox
        self._is_assigned: Final = is_assigned
        self._backoff: Final = backoff

    async def bury(
        self, assignment: Assignment[Record], record: Record, error: Exception, reason: str
    ) -> RetryLater | PassOver | None:
        """Send a record's dead letter.

        Between the moment when it is safe and the return there is no checkpoint. Cancelled, it is unknown whether it
        was sent; the record isn't completed then.

        Returns:
            ``None``: it is sent, and the record may be completed. ``PassOver``: the record is to be completed without.
            ``RetryLater``: its lane has to be parked for so long, and this called again; no attempt is made meanwhile.

        Raises:
            DeadLetterError: it can't be delivered, and ``on_dead_letter_failure`` is ``"raise"``; or where it has to
                go isn't a topic that it can go to. The record mustn't be completed.
            ProducerFencedError: another producer took over.
        """
        topic = self._topic_for(record, reason)
        dead_letter = dead_letter_of(
            record,
            error,
            reason=reason,
            topic=topic,
            group_id=self._config.group_id,
            attempts=record.attempt,
        )
        try:
            await self._send(assignment, record, dead_letter)
        except ProducerFencedError:
            raise
        except KafkaError as problem:
            return self._not_delivered(record, topic, reason, problem)
        logger.warning("%r went to %s: %s", record, topic, reason)
        return None

    async def _send(self, assignment: Assignment[Record], record: Record, dead_letter: RawRecord) -> None:
        for smaller in trimmed(dead_letter):
            try:
                await self._outbox.send(assignment, record, [dead_letter])
            except RecordTooLargeError:
                dead_letter = smaller
            else:
                return
        await self._outbox.send(assignment, record, [dead_letter])

    def _not_delivered(self, record: Record, topic: str, reason: str, problem: KafkaError) -> RetryLater | PassOver:
        match self._settings.on_dead_letter_failure:
            case "skip":
                logger.error("%r is skipped; its dead letter (%s) is lost to %s: %s", record, reason, topic, problem)
                return PassOver(reason)
            case "retry":
                logger.error("%r waits; its dead letter (%s) didn't reach %s yet: %s", record, reason, topic, problem)
                return RetryLater(self._backoff(record.attempt))
            case _:
                raise _refused(record, reason, f"couldn't be delivered to {topic!r}: {problem}") from problem

    def _topic_for(self, record: Record, reason: str) -> str:
        topic = self._settings.topic
        if topic is None:
            topic = record.topic + DEAD_LETTER_SUFFIX
        elif not isinstance(topic, str):
            topic = _chosen(topic, record, reason)
        if self._is_assigned(topic) or reads(self._config, topic):
            raise _refused(
                record, reason, f"would go to {topic!r}, which this consumer reads: it would come round for ever"
            )
        return topic


def _chosen(function: Callable[[Record], Any], record: Record, reason: str) -> str:
    try:
        topic = function(record)
    except Exception as mistake:
        raise _refused(record, reason, f"has no topic, for dead_letter.topic raised {mistake!r}") from mistake
    if isinstance(topic, str) and is_c_text(topic):
        return topic
    raise _refused(record, reason, f"has no topic: dead_letter.topic returned {topic!r}, which isn't a name")


def _refused(record: Record, reason: str, why: str) -> DeadLetterError:
    return DeadLetterError(
        f"the dead letter of {record.topic}[{record.partition}]@{record.offset} ({reason}) {why}",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
    )


# Whether there is a place for it


def reads(config: ConsumerConfig, topic: str) -> bool:
    """Whether the subscription takes a topic in, as far as its words say."""
    return reader_of(topic, config.topics, whole_names=uses_consumer_protocol(config.kafka)) is not None


async def check_dead_letter_topics(config: ConsumerConfig, client: Client) -> None:
    """See to it that the topics of dead letters are there, before the first is needed.

    What a function chooses for each record can't be known before; that is found at the first failure.

    Raises:
        TopicNotFoundError: one isn't there.
        ConfigError: the subscription takes in one of them.
        KafkaError: the broker didn't answer in time.
    """
    settings = config.dead_letter or DeadLetterConfig()
    if not buries(config) or callable(settings.topic):
        return
    deadline = trio.current_time() + MISSING_TOPIC_PATIENCE
    while missing := await _missing_topics(config, settings.topic, client):
        if trio.current_time() >= deadline:
            names = ", ".join(map(repr, missing))
            raise TopicNotFoundError(
                f"no topic for dead letters: {names} isn't there; make it, or set dead_letter=DeadLetterConfig("
                "topic=...)",
                topic=missing[0],
            )
        await trio.sleep(0.1)


async def _missing_topics(config: ConsumerConfig, topic: str | None, client: Client) -> list[str]:
    there = await client.topics()
    if topic is not None:
        wanted = {topic}
    else:
        named = {name for name in config.topics if not is_pattern(name)}
        wanted = {
            name + DEAD_LETTER_SUFFIX
            for name in named | {name for name in there if _is_users(name) and reads(config, name)}
        }
    own = sorted(name for name in wanted if reads(config, name))
    if own:
        fault = (
            f"must not take in this consumer's own dead letters, takes in {own[0]!r}: they would come round for "
            "ever; give names, or a pattern that leaves it out (one that ends with $), or another "
            "dead_letter.topic"
        )
        raise ConfigError([Problem("topics", fault)])
    return sorted(wanted - there)


def _is_users(topic: str) -> bool:
    """Whether a topic isn't one of Kafka's own, which some patterns take in."""
    return not topic.startswith("__")
