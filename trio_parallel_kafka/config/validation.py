"""Everything that makes a configuration invalid, in one place.

:func:`find_problems` goes through two tables: what each field has to be, and how fields have to fit together.
It never stops at the first fault; a relation is skipped where a field that it compares is wrong already.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Set as AbstractSet
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from trio_parallel_kafka.config.librdkafka import (
    ASSIGNMENT_STRATEGY,
    COOPERATIVE_STRATEGIES,
    DEFAULT_MILLISECONDS,
    EAGER_STRATEGIES,
    HEARTBEAT_INTERVAL,
    POLL_INTERVAL,
    SESSION_TIMEOUT,
    as_client_value,
    assignment_strategies,
    is_async_function,
    is_c_text,
    pattern_objection,
    property_faults,
    uses_consumer_protocol,
)
from trio_parallel_kafka.config.properties import Properties, PropertyValue
from trio_parallel_kafka.config.wording import Problem, did_you_mean, property_subject, shown

if TYPE_CHECKING:
    from trio_parallel_kafka.config.model import ConsumerConfig

FieldCheck: TypeAlias = Callable[[Any], Iterator[str]]
KafkaProperties: TypeAlias = Mapping[str, PropertyValue]
Relation: TypeAlias = "Callable[[ConsumerConfig, KafkaProperties], Iterator[Problem]]"

MAX_SECONDS: Final = 24 * 24 * 3600.0
"""24 days: more milliseconds don't fit into the 32 bits that the client has for them."""

MAX_WHOLE_NUMBER: Final = 2**63 - 1
MAX_PORT: Final = 2**16 - 1

_SERVER: Final = re.compile(r"([a-z_]+://)?(\[[0-9a-f:.%]+\]|[^\s:/\[\]@]+)(:(?P<port>[0-9]{1,6}))?", re.IGNORECASE)
_TOPIC_NAME: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
_READ_OTHERWISE_BY_POSIX: Final = re.compile(r"\\[dDAZ]|\[[^]]*\\")


def find_problems(config: ConsumerConfig) -> list[Problem]:
    """All that is wrong with a configuration, in the order of its fields."""
    problems = [
        Problem(field, fault) for field, check in FIELD_CHECKS.items() for fault in check(getattr(config, field))
    ]
    kafka: Any = config.kafka
    if not isinstance(kafka, Mapping):
        kafka = {}
    with_plugins = "plugin.library.paths" in kafka
    problems += [
        Problem(property_subject(name), fault)
        for name, value in kafka.items()
        for fault in property_faults(name, value, with_plugins=with_plugins)
    ]
    wrong = {problem.subject for problem in problems}
    sound = Properties({name: kafka[name] for name in kafka if property_subject(name) not in wrong})
    for relation, compared in RELATIONS:
        if wrong.isdisjoint(compared):
            problems.extend(relation(config, sound))
    return problems


def _servers(value: Any) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"must be 'host:port', or a sequence of such, is {shown(value)}"
        return
    for server in value.split(","):
        match = _SERVER.fullmatch(server)
        if match is None or not is_c_text(server):
            yield f"must be 'host:port', several separated by commas, has {shown(server)}"
        elif match["port"] and not 1 <= int(match["port"]) <= MAX_PORT:
            yield f"must have ports from 1 to {MAX_PORT}, has {shown(server)}"


def _text(value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not value.strip() or not is_c_text(value):
        yield f"must be text that isn't empty, is {shown(value)}"


def _topics(value: Any) -> Iterator[str]:
    if not isinstance(value, tuple):
        yield f"must be a topic, or a sequence of topics, is {shown(value)}"
        return
    if not value:
        yield "must name a topic at least, is empty"
    for topic in dict.fromkeys(value):
        if value.count(topic) > 1:
            yield f"must name each topic once, has {shown(topic)} {value.count(topic)} times"
        yield from _pattern(topic) if topic.startswith("^") else _topic_name(topic)


def _topic_name(topic: str) -> Iterator[str]:
    if not _TOPIC_NAME.fullmatch(topic):
        yield (
            f"has {shown(topic)}, which no topic can be called: give up to 249 of the characters "
            "A-Z a-z 0-9 . _ - for a name, or begin a pattern with ^"
        )


def _pattern(pattern: str) -> Iterator[str]:
    if not is_c_text(pattern):
        yield f"has the pattern {shown(pattern)}, which isn't plain text"
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Python's plans for its own syntax
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        yield f"has the pattern {shown(pattern)}, which isn't a regular expression: {error}"


def _one_of(*names: str) -> FieldCheck:
    def check(value: Any) -> Iterator[str]:
        if value not in names:
            nearest = did_you_mean(value, names) if isinstance(value, str) else ""
            yield f"must be one of {', '.join(map(repr, names))}, is {shown(value)}{nearest}"

    return check


def _count(value: Any) -> Iterator[str]:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_WHOLE_NUMBER:
        yield f"must be a whole number from 1 up, is {shown(value)}"


def _seconds(*, may_be_zero: bool) -> FieldCheck:
    least = "0" if may_be_zero else "more than 0"

    def check(value: Any) -> Iterator[str]:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= MAX_SECONDS or (value == 0 and not may_be_zero):
            yield f"must be seconds, from {least} to {MAX_SECONDS:.0f}, is {shown(value)}"

    return check


def _key_of(value: Any) -> Iterator[str]:
    if value is None:
        return
    if not callable(value):
        yield f"must be a function of a record, or None for its key, is {shown(value)}"
    elif is_async_function(value):
        yield (
            f"must not be async, is {shown(value)}: a record is put into its lane before anything can wait; "
            "give a plain function"
        )


def _mapping(value: Any) -> Iterator[str]:
    if not isinstance(value, Mapping):  # its type alone: it may hold secrets
        yield f"must be a mapping of librdkafka properties, is of type {type(value).__name__}"


FIELD_CHECKS: Final[Mapping[str, FieldCheck]] = MappingProxyType(
    {
        "bootstrap_servers": _servers,
        "group_id": _text,
        "topics": _topics,
        "ordering": _one_of("key", "partition", "unordered"),
        "max_concurrency": _count,
        "key_of": _key_of,
        "max_buffered_records": _count,
        "max_buffered_bytes": _count,
        "commit_interval": _seconds(may_be_zero=False),
        "revoke_grace": _seconds(may_be_zero=True),
        "shutdown_timeout": _seconds(may_be_zero=True),
        "auto_offset_reset": _one_of("earliest", "latest", "none"),
        "connect_timeout": _seconds(may_be_zero=False),
        "close_timeout": _seconds(may_be_zero=False),
        "stall_warning": _seconds(may_be_zero=False),
        "kafka": _mapping,
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
        if not pattern.startswith("^"):
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
)
"""How fields have to fit together, each with what has to be right by itself before it can be asked."""
