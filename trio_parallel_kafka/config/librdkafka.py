"""What this library asks of librdkafka: the client's properties, and which of the user's it takes."""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import attrs
from confluent_kafka import Consumer, KafkaException

from trio_parallel_kafka.config.properties import PropertyValue, is_secret
from trio_parallel_kafka.config.property_names import PROPERTY_NAMES
from trio_parallel_kafka.config.wording import did_you_mean, shown

if TYPE_CHECKING:
    from trio_parallel_kafka.config.model import ConsumerConfig

ASSIGNMENT_STRATEGY: Final = "partition.assignment.strategy"
HEARTBEAT_INTERVAL: Final = "heartbeat.interval.ms"
ISOLATION_LEVEL: Final = "isolation.level"
POLL_INTERVAL: Final = "max.poll.interval.ms"
SESSION_TIMEOUT: Final = "session.timeout.ms"
READ_COMMITTED: Final = "read_committed"
DEFAULT_MILLISECONDS: Final[Mapping[str, int]] = MappingProxyType(
    {HEARTBEAT_INTERVAL: 3_000, POLL_INTERVAL: 300_000, SESSION_TIMEOUT: 45_000}
)
"""librdkafka's own defaults, which it doesn't tell."""

COOPERATIVE_STRATEGIES: Final = frozenset({"cooperative-sticky"})
EAGER_STRATEGIES: Final = frozenset({"range", "roundrobin"})

_FIXED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "enable.auto.commit": "false",  # only what handlers completed may be committed
        "enable.auto.offset.store": "false",  # likewise
        "auto.offset.reset": "error",  # the library resolves it: a reset has to be seen, and not to skip
        "enable.partition.eof": "true",  # tells a partition read to its end from one that stands still
    }
)

TUNED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "client.id": "trio-parallel-kafka",  # how broker logs and quotas name this client
        "allow.auto.create.topics": "false",  # a misspelt topic is an error, not a new topic
        "socket.timeout.ms": "10000",  # a frozen broker is noticed within the bounds that the config promises
        "reconnect.backoff.max.ms": "1000",  # a restarted broker is found again within about a second
    }
)
"""What suits every client of this library."""

_TUNED: Final[Mapping[str, str]] = MappingProxyType(
    {
        **TUNED,
        "fetch.queue.backoff.ms": "5",  # fetch soon after a full queue has drained; the default idles for 1 s
        "fetch.wait.max.ms": "100",  # a resumed partition waits at most this long behind an idle fetch
        "fetch.error.backoff.ms": "100",  # after a leader has moved, read on sooner
        "queued.max.messages.kbytes": "8192",  # bounds what waits unread, and what a pause throws away
        ASSIGNMENT_STRATEGY: "cooperative-sticky",  # revokes only what moves
    }
)

# The client refuses some pairs: a default of this library gives way when the user sets its counterpart.
_GIVES_WAY_TO: Final = {"reconnect.backoff.max.ms": "reconnect.backoff.ms"}

_COMMITS_UNFINISHED: Final = "the client would commit records that no handler has completed; leave it out"
OWN_CALLBACK: Final = "the library needs this callback for itself; leave it out"

_REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bootstrap.servers": "use the field bootstrap_servers",
        "metadata.broker.list": "use the field bootstrap_servers",
        "group.id": "use the field group_id",
        "auto.offset.reset": "use the field auto_offset_reset",
        "enable.auto.commit": _COMMITS_UNFINISHED,
        "auto.commit.enable": _COMMITS_UNFINISHED,
        "enable.auto.offset.store": _COMMITS_UNFINISHED,
        "auto.commit.interval.ms": "the client's own commits are off; use the field commit_interval",
        "offset.store.method": "offsets are kept by the group's broker only; leave it out",
        "offset.store.path": "offsets are kept by the group's broker only; leave it out",
        "offset.store.sync.interval.ms": "offsets are kept by the group's broker only; leave it out",
        "enable.partition.eof": "the library needs to see where a partition ends; leave it out",
        "enabled_events": "events would replace the callbacks that the library needs; leave it out",
        "default.topic.config": "give its properties one by one, beside the others",
        "on_assign": OWN_CALLBACK,
        "on_revoke": OWN_CALLBACK,
        "on_lost": OWN_CALLBACK,
        "on_commit": OWN_CALLBACK,
    }
)

_CALLBACKS: Final = frozenset({"oauth_cb", "stats_cb", "throttle_cb"})

_CONNECTION: Final = (
    "bootstrap.", "broker.", "client.", "connections.", "enable.ssl", "https.", "oauth", "reconnect.",
    "sasl.", "security.", "socket.", "ssl.",
)  # fmt: skip

_PLAIN_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,9})")
_WIDEST_NUMBER: Final = 64  # bits
_STARTS_LIKE_A_NUMBER: Final = re.compile(r"\s*[-+]?[0-9]")


@attrs.frozen
class ClientKind:
    """What differs between consumers and producers.

    Attributes:
        create: makes a client of properties; librdkafka judges them.
        refused: properties that this library doesn't take, each with the reason.
        property_names: the properties that there are.
    """

    create: Callable[[dict[str, Any]], object]
    refused: Mapping[str, str]
    property_names: frozenset[str]


CONSUMER: Final = ClientKind(lambda properties: Consumer({"group.id": "none", **properties}), _REFUSED, PROPERTY_NAMES)


def client_properties(config: ConsumerConfig) -> dict[str, Any]:
    """The properties to create the :class:`confluent_kafka.Consumer` with.

    What keeps the promises is fixed; what is merely tuned yields to :attr:`ConsumerConfig.kafka`.
    """
    tuned = dict(_TUNED)
    if uses_consumer_protocol(config.kafka):
        del tuned[ASSIGNMENT_STRATEGY]  # the broker assigns, and the client refuses the property
    return {
        **overridden(tuned, config.kafka),
        **_FIXED,
        **({ISOLATION_LEVEL: READ_COMMITTED} if config.delivery == "exactly_once" else {}),
        "bootstrap.servers": config.bootstrap_servers,
        "group.id": config.group_id,
    }


def overridden(tuned: Mapping[str, str], kafka: Mapping[str, PropertyValue]) -> dict[str, Any]:
    """What is tuned, where it doesn't give way to the user's properties, and those."""
    yielding = {name: value for name, value in tuned.items() if _GIVES_WAY_TO.get(name) not in kafka}
    return yielding | {name: as_client_value(value) for name, value in kafka.items()}


def connection_properties(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the properties that say how to connect, which clients of all kinds know."""
    return {name: value for name, value in properties.items() if name.startswith(_CONNECTION)}


def producer_connection_properties(kafka: Mapping[str, Any]) -> dict[str, Any]:
    """What a producer takes over of the properties of a consumer that it serves."""
    own = {name: kafka[name] for name in ("logger", "log_level", "debug") if name in kafka}
    # What could be read can be written, for all that the client has to say: the topic's own bound is the brokers'.
    size = {"message.max.bytes": kafka.get("message.max.bytes", 1_000_000_000)}
    return {**connection_properties(kafka), **own, **size}


def rebalance_is_incremental(config: ConsumerConfig) -> bool:
    """Whether a rebalance revokes only the partitions that move, rather than all of them."""
    if uses_consumer_protocol(config.kafka):
        return True
    return not COOPERATIVE_STRATEGIES.isdisjoint(assignment_strategies(client_properties(config)))


def uses_consumer_protocol(kafka: Mapping[str, PropertyValue]) -> bool:
    """Whether the group is of the protocol of KIP-848, in which the broker assigns partitions."""
    return str(kafka.get("group.protocol", "classic")).lower() == "consumer"


def assignment_strategies(kafka: Mapping[str, PropertyValue]) -> list[str]:
    """The names in ``partition.assignment.strategy``, or in this library's default for it."""
    return str(kafka.get(ASSIGNMENT_STRATEGY, _TUNED[ASSIGNMENT_STRATEGY])).split(",")


def as_client_value(value: PropertyValue) -> Any:
    """Spell a value the way librdkafka does; callbacks and a logger pass as they are."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else value


def is_async_function(function: Any) -> bool:
    """Whether calling this returns an awaitable instead of a result."""
    candidates = (function, function.__call__)  # an object may have an async __call__
    return any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in candidates)


def is_c_text(text: str) -> bool:
    """Whether the client can be given this text whole: it cuts at a NUL, and takes only UTF-8."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def pattern_objection(pattern: str) -> str | None:
    """What librdkafka has against a topic pattern; it can't be asked about one with a comma."""
    # This property is compiled by the engine that subscriptions are matched with.
    return None if "," in pattern else _objection("topic.blacklist", pattern, CONSUMER)


def property_faults(name: Any, value: Any, *, with_plugins: bool = False, kind: ClientKind = CONSUMER) -> Iterator[str]:
    """What is wrong with one property of a field ``kafka``, without showing its value.

    Args:
        name: the property's name.
        value: its value.
        kind: the client that it is for.
        with_plugins: plugins may add names that librdkafka doesn't know yet.
    """
    if not isinstance(name, str) or not is_c_text(name):
        yield "the name of a property must be plain text"
    elif reason := _reason_to_refuse(name, kind.refused):
        yield f"is refused: {reason}"
    elif name in _CALLBACKS or name == "logger":
        yield from _object_faults(name, value)
    elif not _is_plain(value):
        yield (
            "must be plain text, a finite number or a boolean, as librdkafka documents it; "
            f"is of type {type(value).__name__}, and none that it can take"
        )
    else:
        yield from _value_faults(name, as_client_value(value), with_plugins=with_plugins, kind=kind)


def _reason_to_refuse(name: str, refused: Mapping[str, str]) -> str | None:
    # librdkafka reads "topic.<name>" as <name> for what it calls topic properties.
    reason = refused.get(name) or refused.get(name.removeprefix("topic."))
    if reason is None and name.endswith("_cb") and name not in _CALLBACKS:
        return OWN_CALLBACK
    return reason


def _object_faults(name: str, value: Any) -> Iterator[str]:
    if name == "logger":
        if not isinstance(value, logging.Logger):
            yield f"must be a logging.Logger, is of type {type(value).__name__}"
    elif not callable(value):
        yield f"must be callable, is of type {type(value).__name__}"
    elif is_async_function(value):
        yield "must not be async: the client calls it on a thread that can't await; give a plain function"


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return is_c_text(value)
    if isinstance(value, int):
        return value.bit_length() < _WIDEST_NUMBER
    return isinstance(value, float) and math.isfinite(value)


def _value_faults(name: str, text: str, *, with_plugins: bool, kind: ClientKind) -> Iterator[str]:
    objection = _objection(name, text, kind)
    if objection is None:
        if _is_read_in_part(name, text, kind):
            yield f"must be a plain integer, is {shown(text)}: librdkafka would read another number"
    elif objection.startswith("No such configuration property"):
        if not with_plugins:
            proposal = did_you_mean(name, kind.property_names) or "; librdkafka's CONFIGURATION.md lists them all"
            yield f"is no property of librdkafka{proposal}"
    elif is_secret(name):
        yield "librdkafka refuses its value (a secret, so not shown); see what it documents"
    else:
        yield f"librdkafka refuses {shown(text)}: {objection}; see what it documents"


def _objection(name: str, text: str, kind: ClientKind) -> str | None:
    """What librdkafka has against a property, asked without creating a client (10 us)."""
    unknown = f"un.{name}"  # set after the property in question, it ends the attempt before there is a client
    try:
        kind.create({name: text, unknown: ""})
    except KafkaException as error:
        message = str(error.args[0].str()).strip()
        return None if f'property: "{unknown}"' in message else message
    raise AssertionError("librdkafka took a property that can't exist")  # pragma: no cover - it never does


def _is_read_in_part(name: str, text: str, kind: ClientKind) -> bool:
    """Whether librdkafka takes another number than the text says: it reads "30s" as 30, 2**32 as 0."""
    exact = _PLAIN_INTEGER.fullmatch(text) and -(2**31) <= int(text) < 2**31
    if exact or not _STARTS_LIKE_A_NUMBER.match(text):
        return False
    takes_any_text = _objection(name, "x", kind) is None
    return not takes_any_text
