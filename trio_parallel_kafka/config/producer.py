"""The producer's configuration, how it is checked, and what its client is created with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from types import MappingProxyType
from typing import Any, Final, Self, TypeAlias

import attrs
from confluent_kafka import Producer
from confluent_kafka.serialization import SerializationContext

from trio_parallel_kafka.config import loading
from trio_parallel_kafka.config.checks import (
    FieldChecks,
    field_problems,
    function_of,
    optional,
    properties,
    property_problems,
    seconds,
    servers,
    sound_properties,
)
from trio_parallel_kafka.config.converters import as_properties, as_servers
from trio_parallel_kafka.config.librdkafka import (
    OWN_CALLBACK,
    TUNED,
    ClientKind,
    as_client_value,
    overridden,
    producer_connection_properties,
)
from trio_parallel_kafka.config.properties import PropertyValue
from trio_parallel_kafka.config.property_names import PRODUCER_PROPERTY_NAMES, PROPERTY_NAMES
from trio_parallel_kafka.config.wording import Problem, property_subject, shown
from trio_parallel_kafka.errors import ConfigError

PREFIX: Final = "PARALLEL_PRODUCER_"
"""What the environment variables of a producer begin with."""

TOML_TABLES: Final = ("trio-parallel-kafka.producer", "tool.trio-parallel-kafka.producer")

IDEMPOTENCE: Final = "enable.idempotence"

Serializer: TypeAlias = Callable[[Any, SerializationContext], bytes | None]


@attrs.frozen(kw_only=True)
class ProducerConfig:
    """All that a producer needs to know. Times are in seconds.

    It is checked as it is made; a copy with other values comes from :func:`attrs.evolve`.

    Raises:
        ConfigError: it can't work; every fault is named at once, with the field, the value and what to do.
    """

    bootstrap_servers: str = attrs.field(converter=as_servers)
    """Where to find the cluster: ``host:port``, several as a sequence or separated by commas. One that
    answers is enough; more survive its absence. Required."""

    delivery_timeout: float = 30.0
    """Seconds within which a record has to be acknowledged, from its being sent, all of the client's own attempts
    included. Default 30.0. Longer outlasts a broker's restart; shorter fails sooner."""

    connect_timeout: float = 15.0
    """Seconds within which the cluster has to be found at the start. Default 15.0. Longer outlasts a broker's
    restart; shorter fails sooner on a wrong address or password."""

    close_timeout: float = 10.0
    """Seconds at the end for records that aren't acknowledged yet, and as long again for closing the client.
    Default 10.0. Longer gives a slow broker the chance to take them; shorter ends sooner without."""

    serialize_key: Serializer | None = None
    """Makes bytes of a key: a plain function of the key and a ``SerializationContext``, as confluent-kafka's
    serialisers are. Default ``None``: keys are bytes, ``str`` (sent as UTF-8) or ``None``."""

    serialize_value: Serializer | None = None
    """The same for values. One that may block doesn't hold up the Trio loop."""

    kafka: Mapping[str, PropertyValue] = attrs.field(factory=dict, converter=as_properties)
    """Any further `librdkafka property
    <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>`__, by its name. Default empty.
    Some are refused, with the reason. ``oauth_cb``, ``stats_cb`` and ``throttle_cb`` take a function, ``logger`` a
    :class:`logging.Logger`. Secrets in it don't show in a ``repr``.

    Unless set here, ``enable.idempotence`` is on (a record is written once, in order, whatever the client had to
    repeat), ``allow.auto.create.topics`` is off, and ``linger.ms`` is 1."""

    def __attrs_post_init__(self) -> None:
        problems = find_problems(self)
        if problems:
            raise ConfigError(problems)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Load a configuration from a mapping of field names to values.

        Text is taken for a number where it is one, ``"module:function"`` is imported where a function is asked for,
        and nested mappings in ``kafka`` make dotted names.

        Raises:
            ConfigError: as above; also names that aren't fields, with the nearest that is.
        """
        return loading.from_mapping(cls, mapping)

    @classmethod
    def from_toml(cls, path: str | PathLike[str], *, table: str | None = None) -> Self:
        """Load a configuration from a TOML file.

        librdkafka's properties stand in a sub-table ``kafka``: ``sasl.username = "me"`` or ``"sasl.username" = "me"``.

        Args:
            path: the file.
            table: the table's name, with dots for a nested one. By default ``trio-parallel-kafka.producer`` or
                ``tool.trio-parallel-kafka.producer`` if there, else the top level.

        Raises:
            ConfigError: as above; also a file or table that isn't there, or no TOML.
        """
        return loading.from_toml(cls, path, table, defaults=TOML_TABLES)

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        dotenv: str | PathLike[str] | None = None,
    ) -> Self:
        """Load a configuration from environment variables.

        ===========================================  ===================================================
        ``KAFKA_BOOTSTRAP_SERVERS``                  ``bootstrap_servers``
        ``PARALLEL_PRODUCER_<FIELD>``                any field but ``kafka``
        ``PARALLEL_PRODUCER_KAFKA_<PROPERTY>``       a librdkafka property, its dots as underscores
                                                     (``PARALLEL_PRODUCER_KAFKA_COMPRESSION_TYPE``)
        ===========================================  ===================================================

        What a ``.env`` file says is overridden by the real environment, field by field, and taken literally: no
        ``${...}`` is expanded in it.

        Args:
            environ: the variables; default :data:`os.environ`.
            dotenv: a ``.env`` file to read first; needs the extra ``dotenv``.

        Raises:
            ConfigError: as above; also unknown variables that begin with ``PARALLEL_PRODUCER_``, a field that
                one source sets twice, differently, and a file that can't be read.
        """
        return loading.from_env(cls, environ, dotenv, prefix=PREFIX)


_TUNED: Final[Mapping[str, str]] = MappingProxyType(
    {
        **TUNED,
        IDEMPOTENCE: "true",  # what the client has to repeat is neither doubled nor reordered
        "linger.ms": "1",  # who waits for each acknowledgement shouldn't wait for company, too
        "topic.metadata.propagation.max.ms": "3000",  # a missing topic is told well before delivery_timeout
    }
)

_USE_DELIVERY_TIMEOUT: Final = "use the field delivery_timeout"
_REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(PROPERTY_NAMES - PRODUCER_PROPERTY_NAMES, "it is for consumers; leave it out"),
        "bootstrap.servers": "use the field bootstrap_servers",
        "metadata.broker.list": "use the field bootstrap_servers",
        "message.timeout.ms": _USE_DELIVERY_TIMEOUT,
        "delivery.timeout.ms": _USE_DELIVERY_TIMEOUT,
        "delivery.report.only.error": "whoever waits for an acknowledgement would wait for ever; leave it out",
        "transactional.id": "transactions are the consumer's: use delivery='exactly_once' there",
        "transaction.timeout.ms": "transactions are the consumer's: use delivery='exactly_once' there",
        "enabled_events": "events would replace the callbacks that the library needs; leave it out",
        "default.topic.config": "give its properties one by one, beside the others",
        "on_delivery": OWN_CALLBACK,
    }
)

PRODUCER: Final = ClientKind(Producer, _REFUSED, PRODUCER_PROPERTY_NAMES)

_SERIALIZER: Final = function_of(
    "data and a SerializationContext", must_not_wait="it is called as confluent-kafka's serialisers are"
)

FIELD_CHECKS: Final[FieldChecks] = MappingProxyType(
    {
        "bootstrap_servers": servers,
        "delivery_timeout": seconds(may_be_zero=False),
        "connect_timeout": seconds(may_be_zero=False),
        "close_timeout": seconds(may_be_zero=False),
        "serialize_key": optional(_SERIALIZER, "that keys are bytes"),
        "serialize_value": optional(_SERIALIZER, "that values are bytes"),
        "kafka": properties,
    }
)

_ALL: Final = frozenset({"all", "-1"})
_NEEDED_FOR_IDEMPOTENCE: Final[Mapping[str, tuple[Callable[[str], bool], str]]] = MappingProxyType(
    {
        "acks": (_ALL.__contains__, "all"),
        "request.required.acks": (_ALL.__contains__, "all"),
        "max.in.flight": (lambda value: int(value) <= 5, "5 at most"),  # noqa: PLR2004 - a law of Kafka's
        "max.in.flight.requests.per.connection": (lambda value: int(value) <= 5, "5 at most"),  # noqa: PLR2004
        "retries": (lambda value: int(value) >= 1, "1 at least"),
        "message.send.max.retries": (lambda value: int(value) >= 1, "1 at least"),
        "queuing.strategy": ("fifo".__eq__, "fifo"),
    }
)


def find_problems(config: ProducerConfig) -> list[Problem]:
    """All that is wrong with a configuration, in the order of its fields."""
    problems = field_problems(config, FIELD_CHECKS) + property_problems(config.kafka, PRODUCER)
    sound = sound_properties(config.kafka, {problem.subject for problem in problems})
    return [*problems, *_hindrances_to_idempotence(sound)]


def producer_properties(config: ProducerConfig) -> dict[str, Any]:
    """The properties to create the :class:`confluent_kafka.Producer` with."""
    return {
        **overridden(_TUNED, config.kafka),
        "bootstrap.servers": config.bootstrap_servers,
        "message.timeout.ms": str(max(1, round(config.delivery_timeout * 1000))),  # 0 would be for ever
    }


def producer_for(bootstrap_servers: str, kafka: Mapping[str, PropertyValue]) -> ProducerConfig:
    """A configuration for a producer that uses a consumer's connection.

    Args:
        bootstrap_servers: the consumer's.
        kafka: the consumer's properties.
    """
    return ProducerConfig(bootstrap_servers=bootstrap_servers, kafka=producer_connection_properties(kafka))


def _hindrances_to_idempotence(kafka: Mapping[str, PropertyValue]) -> Iterator[Problem]:
    if str(kafka.get(IDEMPOTENCE, True)).lower() in {"false", "f", "0"}:
        return
    for name, (goes_with, needed) in _NEEDED_FOR_IDEMPOTENCE.items():
        if name in kafka and not goes_with(as_client_value(kafka[name])):
            yield Problem(
                property_subject(name),
                f"must be {needed}, is {shown(kafka[name])}: without, records could be written twice or out of order; "
                "leave it out, or turn enable.idempotence off",
            )
