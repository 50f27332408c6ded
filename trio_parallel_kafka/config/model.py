"""The consumer's configuration."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Self, TypeAlias, cast

import attrs

from trio_parallel_kafka.config import loading
from trio_parallel_kafka.config.properties import Properties, PropertyValue
from trio_parallel_kafka.config.validation import find_problems
from trio_parallel_kafka.errors import ConfigError
from trio_parallel_kafka.record import Record

KeyOf: TypeAlias = Callable[[Record], Hashable | None]
OffsetReset: TypeAlias = Literal["earliest", "latest", "none"]

_RESET_SPELLINGS: dict[str, OffsetReset] = {
    "smallest": "earliest",
    "beginning": "earliest",
    "largest": "latest",
    "end": "latest",
    "error": "none",
}


class Ordering(enum.StrEnum):
    """Which records reach the handler one after another."""

    KEY = "key"
    """Records of a partition with the same key; records without a key have no order."""

    PARTITION = "partition"
    """All records of a partition."""

    UNORDERED = "unordered"
    """None."""


# The converters bring what they know into its final form and leave anything else as it is: only the
# validation speaks of faults, so that it can name them all.


def _servers(given: str | Sequence[str]) -> str:
    parts = given.split(",") if isinstance(given, str) else given
    if not _is_texts(parts):
        return cast("str", given)
    return ",".join(part.strip() for part in parts)


def _topics(given: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    return tuple(given) if _is_texts(given) else cast("tuple[str, ...]", given)


def _ordering(given: Ordering | str) -> Ordering:
    return Ordering(given) if given in list(Ordering) else cast("Ordering", given)


def _offset_reset(given: str) -> OffsetReset:
    if not isinstance(given, str):
        return given
    return _RESET_SPELLINGS.get(given, cast("OffsetReset", given))


def _properties(given: Mapping[str, PropertyValue]) -> Properties:
    if not isinstance(given, Mapping):
        return given
    return Properties(given)


def _is_texts(given: object) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str) and all(isinstance(part, str) for part in given)


@attrs.frozen(kw_only=True)
class ConsumerConfig:
    """All that a consumer needs to know. Times are in seconds, sizes in bytes.

    It is checked as it is made; a copy with other values comes from :func:`attrs.evolve`.

    Raises:
        ConfigError: it can't work; every fault is named at once, with the field, the value and what to do.
    """

    bootstrap_servers: str = attrs.field(converter=_servers)
    """Where to find the cluster: ``host:port``, several as a sequence or separated by commas. One that
    answers is enough; more survive its absence. Required."""

    group_id: str
    """The consumer group. Its members share the partitions, and its committed offsets say what is done.
    Required."""

    topics: tuple[str, ...] = attrs.field(converter=_topics)
    """Topics to read: names, or patterns that begin with ``^`` and take in topics that are made later.
    Under the classic group protocol a pattern is a POSIX extended expression, read by the client, which
    matches any name that begins so unless it ends with ``$``; under ``group.protocol=consumer`` it is one of
    RE2, read by the broker. Required."""

    ordering: Ordering = attrs.field(default=Ordering.KEY, converter=_ordering)
    """Which records are handled one after another: those of a ``key`` (default), of a ``partition``, or none
    (``unordered``). The less order, the more runs at once."""

    max_concurrency: int = 256
    """Handlers that may run at the same time. Default 256. More hides more waiting, and asks more of what the
    handlers call."""

    key_of: KeyOf | None = None
    """What orders a record, instead of its key: a function from the record to something hashable, or to
    ``None`` for no order. Default ``None``: the record's key. It runs for every record, so it has to be fast,
    and plain: not ``async``. What it raises is a failure of that record."""

    max_buffered_records: int = 5_000
    """Records of one partition that may wait or run, before it is paused. Default 5,000. More finds more
    distinct keys to run at once behind a hot one; less saves memory, but below some 16 each fetch brings a
    record or two, and throughput falls to hundreds a second."""

    max_buffered_bytes: int = 32 * 1024 * 1024
    """Bytes of one partition that may wait or run, before it is paused. Default 32 MiB. More keeps large
    records coming; less saves memory."""

    commit_interval: float = 1.0
    """Seconds between commits of what has changed. Default 1.0. Shorter replays less after a crash, and
    costs the broker more."""

    revoke_grace: float = 5.0
    """Seconds that running handlers get to finish when their partition is revoked, before they are cancelled.
    Default 5.0; 0 cancels at once. Longer replays less, but the rebalance waits for it."""

    shutdown_timeout: float = 30.0
    """Seconds that handlers get to finish after a stop or a final failure, before they are cancelled.
    Default 30.0; 0 cancels at once. Longer replays less after a restart."""

    auto_offset_reset: OffsetReset = attrs.field(default="earliest", converter=_offset_reset)
    """Where to start in a partition that has no usable committed offset. ``earliest`` (default, because a
    default must not lose records) reads all that is there, ``latest`` only what comes from now on, ``none``
    is an error. librdkafka's other spellings of the three are taken too."""

    connect_timeout: float = 15.0
    """Seconds within which the cluster has to be found at the start. Default 15.0. Longer outlasts a broker's
    restart; shorter fails sooner on a wrong address or password."""

    close_timeout: float = 10.0
    """Seconds for the last commit and letting the partitions go, and as long again for closing the client.
    Default 10.0. Longer gives a slow broker the chance to take the commit; shorter ends sooner without one."""

    stall_warning: float = 60.0
    """Seconds after which the oldest incomplete record of a partition is logged as a stall. Default 60.0.
    Shorter tells sooner of a hung handler, and falsely of one that is only slow."""

    kafka: Mapping[str, PropertyValue] = attrs.field(factory=dict, converter=_properties)
    """Any further `librdkafka property
    <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>`__, by its name. Default empty.
    Those that would break a promise of this library are refused. ``oauth_cb``, ``stats_cb`` and
    ``throttle_cb`` take a function, ``logger`` a :class:`logging.Logger`. Secrets in it don't show in a
    ``repr``."""

    def __attrs_post_init__(self) -> None:
        problems = find_problems(self)
        if problems:
            raise ConfigError(problems)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Load a configuration from a mapping of field names to values.

        Text is taken for a number where it is one, ``"module:function"`` for :attr:`key_of` is imported, and
        nested mappings in ``kafka`` make dotted names.

        Raises:
            ConfigError: as above; also names that aren't fields, with the nearest that is.
        """
        return loading.from_mapping(cls, mapping)

    @classmethod
    def from_toml(cls, path: str | PathLike[str], *, table: str | None = None) -> Self:
        """Load a configuration from a TOML file.

        librdkafka properties stand in a sub-table ``kafka``: ``sasl.username = "me"`` or
        ``"sasl.username" = "me"``.

        Args:
            path: the file.
            table: the table's name, with dots for a nested one. By default ``trio-parallel-kafka`` or
                ``tool.trio-parallel-kafka`` if there, else the top level.

        Raises:
            ConfigError: as above; also a file or table that isn't there, or no TOML.
        """
        return loading.from_toml(cls, path, table)

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
        ``KAFKA_CONSUMER_GROUP``                     ``group_id``
        ``KAFKA_TOPICS``                             ``topics``, separated by commas
        ``PARALLEL_CONSUMER_<FIELD>``                any field but ``kafka``, these three too
        ``PARALLEL_CONSUMER_KAFKA_<PROPERTY>``       a librdkafka property, its dots as underscores
                                                     (``PARALLEL_CONSUMER_KAFKA_SASL_PASSWORD``)
        ===========================================  ===================================================

        A topic pattern that holds a comma can't be given here. What a ``.env`` file says is overridden by the
        real environment, field by field, and taken literally: no ``${...}`` is expanded in it.

        Args:
            environ: the variables; default :data:`os.environ`.
            dotenv: a ``.env`` file to read first; needs the extra ``dotenv``.

        Raises:
            ConfigError: as above; also unknown variables that begin with ``PARALLEL_CONSUMER_``, a field that
                one source sets twice, differently, and a file that can't be read.
        """
        return loading.from_env(cls, environ, dotenv)
