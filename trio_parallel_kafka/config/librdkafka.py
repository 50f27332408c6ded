"""What this library asks of librdkafka: the client's properties, and which of the user's it takes."""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import Consumer, KafkaException

from trio_parallel_kafka.config.properties import PropertyValue, is_secret
from trio_parallel_kafka.config.property_names import PROPERTY_NAMES
from trio_parallel_kafka.config.wording import did_you_mean, shown

if TYPE_CHECKING:
    from trio_parallel_kafka.config.model import ConsumerConfig

ASSIGNMENT_STRATEGY: Final = "partition.assignment.strategy"
HEARTBEAT_INTERVAL: Final = "heartbeat.interval.ms"
POLL_INTERVAL: Final = "max.poll.interval.ms"
SESSION_TIMEOUT: Final = "session.timeout.ms"
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

_TUNED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "client.id": "trio-parallel-kafka",  # how broker logs and quotas name this client
        "allow.auto.create.topics": "false",  # a misspelt topic is an error, not a new topic
        "fetch.queue.backoff.ms": "5",  # fetch soon after a full queue has drained; the default idles for 1 s
        "fetch.wait.max.ms": "100",  # a resumed partition waits at most this long behind an idle fetch
        "fetch.error.backoff.ms": "100",  # after a leader has moved, read on sooner
        "queued.max.messages.kbytes": "16384",  # bounds what waits unread, and what a pause throws away
        "socket.timeout.ms": "10000",  # a frozen broker is noticed within the bounds that the config promises
        "reconnect.backoff.max.ms": "1000",  # a restarted broker is found again within about a second
        ASSIGNMENT_STRATEGY: "cooperative-sticky",  # revokes only what moves
    }
)

# The client refuses some pairs: a default of this library gives way when the user sets its counterpart.
_GIVES_WAY_TO: Final = {"reconnect.backoff.max.ms": "reconnect.backoff.ms"}

_COMMITS_UNFINISHED: Final = "the client would commit records that no handler has completed; leave it out"
_OWN_CALLBACK: Final = "the library needs this callback for itself; leave it out"

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
        "on_assign": _OWN_CALLBACK,
        "on_revoke": _OWN_CALLBACK,
        "on_lost": _OWN_CALLBACK,
        "on_commit": _OWN_CALLBACK,
    }
)

_CALLBACKS: Final = frozenset({"oauth_cb", "stats_cb", "throttle_cb"})

_PLAIN_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,9})")
_WIDEST_NUMBER: Final = 64  # bits
_STARTS_LIKE_A_NUMBER: Final = re.compile(r"\s*[-+]?[0-9]")


def client_properties(config: ConsumerConfig) -> dict[str, Any]:
    """The properties to create the :class:`confluent_kafka.Consumer` with.

    What keeps the promises is fixed; what is merely tuned yields to :attr:`ConsumerConfig.kafka`.
    """
    tuned = {name: value for name, value in _TUNED.items() if _GIVES_WAY_TO.get(name) not in config.kafka}
    if uses_consumer_protocol(config.kafka):
        del tuned[ASSIGNMENT_STRATEGY]  # the broker assigns, and the client refuses the property
    return {
        **tuned,
        **{name: as_client_value(value) for name, value in config.kafka.items()},
        **_FIXED,
        "bootstrap.servers": config.bootstrap_servers,
        "group.id": config.group_id,
    }


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
    return None if "," in pattern else _objection("topic.blacklist", pattern)


def property_faults(name: Any, value: Any, *, with_plugins: bool = False) -> Iterator[str]:
    """What is wrong with one property of :attr:`ConsumerConfig.kafka`, without showing its value.

    Args:
        name: the property's name.
        value: its value.
        with_plugins: plugins may add names that librdkafka doesn't know yet.
    """
    if not isinstance(name, str) or not is_c_text(name):
        yield "the name of a property must be plain text"
    elif reason := _reason_to_refuse(name):
        yield f"is refused: {reason}"
    elif name in _CALLBACKS or name == "logger":
        yield from _object_faults(name, value)
    elif not _is_plain(value):
        yield (
            "must be plain text, a finite number or a boolean, as librdkafka documents it; "
            f"is of type {type(value).__name__}, and none that it can take"
        )
    else:
        yield from _value_faults(name, as_client_value(value), with_plugins=with_plugins)


def _reason_to_refuse(name: str) -> str | None:
    # librdkafka reads "topic.<name>" as <name> for what it calls topic properties.
    reason = _REFUSED.get(name) or _REFUSED.get(name.removeprefix("topic."))
    if reason is None and name.endswith("_cb") and name not in _CALLBACKS:
        return _OWN_CALLBACK
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


def _value_faults(name: str, text: str, *, with_plugins: bool) -> Iterator[str]:
    objection = _objection(name, text)
    if objection is None:
        if _is_read_in_part(name, text):
            yield f"must be a plain integer, is {shown(text)}: librdkafka would read another number"
    elif objection.startswith("No such configuration property"):
        if not with_plugins:
            proposal = did_you_mean(name, PROPERTY_NAMES) or "; librdkafka's CONFIGURATION.md lists them all"
            yield f"is no property of librdkafka{proposal}"
    elif is_secret(name):
        yield "librdkafka refuses its value (a secret, so not shown); see what it documents"
    else:
        yield f"librdkafka refuses {shown(text)}: {objection}; see what it documents"


def _objection(name: str, text: str) -> str | None:
    """What librdkafka has against a property, asked without creating a client (10 us)."""
    unknown = f"un.{name}"  # set after the property in question, it ends the attempt before there is a client
    try:
        Consumer({"group.id": "none", name: text, unknown: ""})
    except KafkaException as error:
        message = str(error.args[0].str()).strip()
        return None if f'property: "{unknown}"' in message else message
    raise AssertionError("librdkafka took a property that can't exist")  # pragma: no cover - it never does


def _is_read_in_part(name: str, text: str) -> bool:
    """Whether librdkafka takes another number than the text says: it reads "30s" as 30, 2**32 as 0."""
    exact = _PLAIN_INTEGER.fullmatch(text) and -(2**31) <= int(text) < 2**31
    if exact or not _STARTS_LIKE_A_NUMBER.match(text):
        return False
    takes_any_text = _objection(name, "x") is None
    return not takes_any_text
