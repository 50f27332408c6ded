"""Everything that makes a configuration invalid, in one place.

:func:`find_problems` goes through two tables: what each field has to be, and how fields have to fit together.
It never stops at the first fault; a relation is skipped where a field that it compares is wrong already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Set as AbstractSet
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from trio_parallel_kafka.config.checks import (
    FieldChecks,
    count,
    field_problems,
    function_of,
    instance_of,
    one_of,
    optional,
    properties,
    property_problems,
    seconds,
    servers,
    sound_properties,
    text,
    topic_name,
)
from trio_parallel_kafka.config.librdkafka import (
    ASSIGNMENT_STRATEGY,
    CONSUMER,
    COOPERATIVE_STRATEGIES,
    DEFAULT_MILLISECONDS,
    EAGER_STRATEGIES,
    HEARTBEAT_INTERVAL,
    ISOLATION_LEVEL,
    POLL_INTERVAL,
    READ_COMMITTED,
    SESSION_TIMEOUT,
    as_client_value,
    assignment_strategies,
    is_c_text,
    pattern_objection,
    uses_consumer_protocol,
)
from trio_parallel_kafka.config.policies import (
    DEAD_LETTER_SUFFIX,
    BreakerPolicy,
    DeadLetterConfig,
    Delivery,
    OnFailure,
    RetryPolicy,
)
from trio_parallel_kafka.config.producer import IDEMPOTENCE, ProducerConfig
from trio_parallel_kafka.config.properties import PropertyValue
from trio_parallel_kafka.config.subscription import compiled, is_open_ended, is_pattern, reader_of
from trio_parallel_kafka.config.wording import Problem, did_you_mean, property_subject, shown

if TYPE_CHECKING:
    from trio_parallel_kafka.config.model import ConsumerConfig

KafkaProperties: TypeAlias = Mapping[str, PropertyValue]
Relation: TypeAlias = "Callable[[ConsumerConfig, KafkaProperties], Iterator[Problem]]"

_READ_OTHERWISE_BY_POSIX: Final = re.compile(r"\\[dDAZ]|\[[^]]*\\")


def find_problems(config: ConsumerConfig) -> list[Problem]:
    """All that is wrong with a configuration, in the order of its fields."""
    problems = field_problems(config, FIELD_CHECKS)
    problems += property_problems(config.kafka, CONSUMER)
    wrong = {problem.subject for problem in problems}
    sound = sound_properties(config.kafka, wrong)
    for relation, compared in RELATIONS:
        if wrong.isdisjoint(compared):
            problems.extend(relation(config, sound))
    return problems


def _topics(value: Any) -> Iterator[str]:
    if not isinstance(value, tuple):
        yield f"must be a topic, or a sequence of topics, is {shown(value)}"
        return
    strange = [topic for topic in value if not isinstance(topic, str)]
    if strange:
        yield f"must have names or patterns only, has {shown(strange[0])}"
        return
    if not value:
        yield "must name a topic at least, is empty"
    for topic in dict.fromkeys(value):
        if value.count(topic) > 1:
            yield f"must name each topic once, has {shown(topic)} {value.count(topic)} times"
        if is_pattern(topic):
            yield from _pattern(topic)
        else:
            yield from (f"{fault} for a name, or begin a pattern with ^" for fault in topic_name(topic))


def _pattern(pattern: str) -> Iterator[str]:
    if not is_c_text(pattern):
        yield f"has the pattern {shown(pattern)}, which isn't plain text"
        return
    try:
        compiled(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        yield f"has the pattern {shown(pattern)}, which isn't a regular expression: {error}"


_DESERIALIZER: Final = function_of("bytes and a context", must_not_wait="it may block instead, in a thread")

FIELD_CHECKS: Final[FieldChecks] = MappingProxyType(
    {
        "bootstrap_servers": servers,
        "group_id": text,
        "topics": _topics,
        "ordering": one_of("key", "partition", "unordered"),
        "max_concurrency": count,
        "execution_mode": one_of("async", "thread", "process"),
        "process_workers": optional(count, "one for each core"),
        "worker_initializer": optional(function_of("nothing", must_not_wait="it may block instead"), "none"),
        "max_tasks_per_worker": optional(count, "no bound"),
        "max_worker_memory": optional(count, "no bound"),
        "worker_start_method": one_of("spawn", "forkserver"),
        "key_of": optional(
            function_of("a record", must_not_wait="a record is put into its lane before anything can wait"),
            "the record's key",
        ),
        "max_buffered_records": count,
        "max_buffered_bytes": count,
        "commit_interval": seconds(may_be_zero=False),
        "revoke_grace": seconds(may_be_zero=True),
        "shutdown_timeout": seconds(may_be_zero=True),
        "auto_offset_reset": one_of("earliest", "latest", "none"),
        "connect_timeout": seconds(may_be_zero=False),
        "close_timeout": seconds(may_be_zero=False),
        "stall_warning": seconds(may_be_zero=False),
        "handler_timeout": optional(seconds(may_be_zero=False), "no bound"),
        "retry": optional(instance_of(RetryPolicy), "no retries"),
        "on_failure": one_of("raise", "skip", "dead_letter"),
        "dead_letter": optional(instance_of(DeadLetterConfig), "no dead letters, or default ones"),
        "breaker": optional(instance_of(BreakerPolicy), "none"),
        "delivery": one_of("at_least_once", "exactly_once"),
        "transactional_id": optional(text, "none"),
        "producer": optional(instance_of(ProducerConfig), "one with the consumer's connection"),
        "deserialize_key": optional(_DESERIALIZER, "the raw key"),
        "deserialize_value": optional(_DESERIALIZER, "the raw value"),
        "kafka": properties,
    }
)


def _revocation_ends_in_time(config: ConsumerConfig, kafka: KafkaProperties) -> Iterator[Problem]:
    limit = _milliseconds(kafka, POLL_INTERVAL) / 1000
    needed = config.revoke_grace + config.close_timeout
    if needed >= limit:
        yield Problem(
            "revoke_grace",
            f"must, with close_timeout, be below kafka['max.poll.interval.ms'], is {config.revoke_grace} + "
            f"{config.close_timeout} s against {limit} s: the group would give the partitions away before "
            "the commit; lower the two, or raise the interval",
        )


def _patterns_mean_what_they_say(config: ConsumerConfig, kafka: KafkaProperties) -> Iterator[Problem]:
    if uses_consumer_protocol(kafka):
        return  # the broker reads them
    for pattern in config.topics:
        if not is_pattern(pattern):
            continue
        if _READ_OTHERWISE_BY_POSIX.search(pattern):
            yield Problem(
                "topics",
                f"has the pattern {shown(pattern)}, which would match other topics: POSIX expressions have "
                "no \\d, \\D, \\A, \\Z, and no backslash within brackets; write [0-9] and the like",
            )
        elif objection := pattern_objection(pattern):
            yield Problem("topics", f"has a pattern that librdkafka refuses: {objection}")


def _consumer_protocol_has_its_own(_config: ConsumerConfig, kafka: KafkaProperties) -> Iterator[Problem]:
    if not uses_consumer_protocol(kafka):
        return
    for name, instead in (
        (SESSION_TIMEOUT, "set group.consumer.session.timeout.ms on the brokers"),
        (HEARTBEAT_INTERVAL, "set group.consumer.heartbeat.interval.ms on the brokers"),
        (ASSIGNMENT_STRATEGY, "set group.remote.assignor"),
        ("group.protocol.type", "there is nothing to set"),
    ):
        if name in kafka:
            yield Problem(property_subject(name), f"doesn't go with group.protocol=consumer; leave it out: {instead}")


def _session_is_within_the_poll_interval(_config: ConsumerConfig, kafka: KafkaProperties) -> Iterator[Problem]:
    poll_interval = _milliseconds(kafka, POLL_INTERVAL)
    session = _milliseconds(kafka, SESSION_TIMEOUT)
    if session > poll_interval and not uses_consumer_protocol(kafka):
        yield Problem(
            property_subject(SESSION_TIMEOUT),
            f"must not be above max.poll.interval.ms, is {session} against {poll_interval}; lower the one or "
            "raise the other",
        )


def _heartbeats_are_within_the_session(_config: ConsumerConfig, kafka: KafkaProperties) -> Iterator[Problem]:
    session = _milliseconds(kafka, SESSION_TIMEOUT)
    heartbeat = _milliseconds(kafka, HEARTBEAT_INTERVAL)
    if heartbeat >= session and not uses_consumer_protocol(kafka):
        yield Problem(
            property_subject(HEARTBEAT_INTERVAL),
            f"must be below session.timeout.ms, is {heartbeat} against {session}: the group would take the "
            "member for dead; a third of it is usual",
        )


def _strategies_go_together(_config: ConsumerConfig, kafka: KafkaProperties) -> Iterator[Problem]:
    strategies = set(assignment_strategies(kafka))
    subject = property_subject(ASSIGNMENT_STRATEGY)
    known = COOPERATIVE_STRATEGIES | EAGER_STRATEGIES
    for strategy in sorted(strategies - known):
        yield Problem(
            subject,
            f"has {shown(strategy)}, is to be of {', '.join(sorted(known))}{did_you_mean(strategy, known)}",
        )
    if strategies & COOPERATIVE_STRATEGIES and strategies & EAGER_STRATEGIES:
        yield Problem(subject, "can't mix cooperative-sticky with range or roundrobin; give one kind")


def _tokens_are_asked_for(_config: ConsumerConfig, kafka: KafkaProperties) -> Iterator[Problem]:
    mechanism = kafka.get("sasl.mechanism", kafka.get("sasl.mechanisms"))
    has_sasl = str(kafka.get("security.protocol")).lower().startswith("sasl_")
    if "oauth_cb" in kafka and not (has_sasl and mechanism == "OAUTHBEARER"):
        yield Problem(
            property_subject("oauth_cb"),
            "goes with sasl.mechanism=OAUTHBEARER and security.protocol=sasl_ssl or sasl_plaintext only: the "
            "client would wait in vain for a token; set the two, or leave it out",
        )


def _exactly_once_has_an_identity(config: ConsumerConfig, _kafka: KafkaProperties) -> Iterator[Problem]:
    if config.delivery == Delivery.EXACTLY_ONCE and config.transactional_id is None:
        yield Problem(
            "transactional_id",
            "is needed for delivery='exactly_once', is None; give a name that stays the same over restarts, and "
            "that no other member uses at the same time",
        )
    if config.delivery != Delivery.EXACTLY_ONCE and config.transactional_id is not None:
        yield Problem(
            "transactional_id",
            f"goes with delivery='exactly_once' only, is {shown(config.transactional_id)}; set the one, or leave the "
            "other out",
        )


def _exactly_once_reads_what_is_committed(config: ConsumerConfig, kafka: KafkaProperties) -> Iterator[Problem]:
    level = str(kafka.get(ISOLATION_LEVEL, READ_COMMITTED))
    if config.delivery == Delivery.EXACTLY_ONCE and level.lower() != READ_COMMITTED:
        yield Problem(
            property_subject(ISOLATION_LEVEL),
            f"is {READ_COMMITTED} with delivery='exactly_once', not {level}: what is read of a transaction that is "
            "undone then would be handled all the same; leave it out",
        )


def _transactions_are_idempotent(config: ConsumerConfig, _kafka: KafkaProperties) -> Iterator[Problem]:
    kafka = config.producer.kafka if config.producer else {}
    if config.delivery == Delivery.EXACTLY_ONCE and as_client_value(kafka.get(IDEMPOTENCE, True)) != "true":
        yield Problem(
            f"producer.{property_subject(IDEMPOTENCE)}",
            "can't be off with delivery='exactly_once': what the client has to repeat would be doubled; leave it out",
        )


def _dead_letters_are_not_read(config: ConsumerConfig, kafka: KafkaProperties) -> Iterator[Problem]:
    if config.on_failure != OnFailure.DEAD_LETTER and config.dead_letter is None:
        return
    given = config.dead_letter.topic if config.dead_letter else None
    whole_names = uses_consumer_protocol(kafka)
    if given is None:
        yield from _default_dead_letters_are_not_read(config, whole_names=whole_names)
    elif isinstance(given, str) and (reader := reader_of(given, config.topics, whole_names=whole_names)):
        yield Problem(
            "dead_letter.topic",
            f"must not be read by the consumer itself, is {given!r}, which {reader!r} in topics takes in: dead letters "
            "would come back for ever; give another topic, or topics that leave it out",
        )


def _default_dead_letters_are_not_read(config: ConsumerConfig, *, whole_names: bool) -> Iterator[Problem]:
    come_back = "dead letters would come back for ever"
    for topic in config.topics:
        if not is_pattern(topic):
            letters = topic + DEAD_LETTER_SUFFIX
            if reader := reader_of(letters, config.topics, whole_names=whole_names):
                yield Problem(
                    "topics",
                    f"has {reader!r}, which takes in {letters!r}, where dead letters of {topic!r} go: {come_back}; "
                    "leave it out, or give dead_letter.topic",
                )
        elif is_open_ended(topic, whole_names=whole_names):
            yield Problem(
                "topics",
                f"has the pattern {topic!r}, which takes in <topic>{DEAD_LETTER_SUFFIX} with each topic that it takes "
                f"in: {come_back}; write one like '^orders-[^.]+$', or give dead_letter.topic",
            )


def _milliseconds(kafka: KafkaProperties, name: str) -> int:
    return int(as_client_value(kafka.get(name, DEFAULT_MILLISECONDS[name])))


RELATIONS: Final[tuple[tuple[Relation, AbstractSet[str]], ...]] = (
    (_revocation_ends_in_time, {"revoke_grace", "close_timeout", property_subject(POLL_INTERVAL)}),
    (_patterns_mean_what_they_say, {"topics"}),
    (_consumer_protocol_has_its_own, set()),
    (
        _session_is_within_the_poll_interval,
        {property_subject(SESSION_TIMEOUT), property_subject(POLL_INTERVAL)},
    ),
    (
        _heartbeats_are_within_the_session,
        {property_subject(HEARTBEAT_INTERVAL), property_subject(SESSION_TIMEOUT)},
    ),
    (_strategies_go_together, set()),
    (_tokens_are_asked_for, set()),
    (_exactly_once_has_an_identity, {"delivery", "transactional_id"}),
    (_exactly_once_reads_what_is_committed, {"delivery"}),
    (_transactions_are_idempotent, {"delivery", "producer"}),
    (_dead_letters_are_not_read, {"on_failure", "dead_letter", "topics"}),
)
"""How fields have to fit together, each with what has to be right by itself before it can be asked."""
