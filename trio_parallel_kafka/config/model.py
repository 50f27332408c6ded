"""The consumer's configuration."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping, Sequence
from os import PathLike
from typing import Any, Final, Literal, Self, TypeAlias, cast

import attrs
from confluent_kafka.serialization import SerializationContext

from trio_parallel_kafka.config import loading
from trio_parallel_kafka.config.converters import as_properties, as_servers, is_texts
from trio_parallel_kafka.config.policies import (
    BreakerPolicy,
    DeadLetterConfig,
    Delivery,
    ExecutionMode,
    OnFailure,
    RetryPolicy,
)
from trio_parallel_kafka.config.producer import ProducerConfig
from trio_parallel_kafka.config.properties import PropertyValue
from trio_parallel_kafka.config.validation import find_problems
from trio_parallel_kafka.errors import ConfigError
from trio_parallel_kafka.record import Record

KeyOf: TypeAlias = Callable[[Record], Hashable | None]
Deserializer: TypeAlias = Callable[[bytes | None, SerializationContext], Any]
OffsetReset: TypeAlias = Literal["earliest", "latest", "none"]
StartMethod: TypeAlias = Literal["spawn", "forkserver"]

PREFIX: Final = "PARALLEL_CONSUMER_"
"""What the environment variables of a consumer begin with."""

TOML_TABLES: Final = ("trio-parallel-kafka", "tool.trio-parallel-kafka")

_INSTANCE_ID: Final = "group.instance.id"

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


def _topics(given: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    return tuple(given) if is_texts(given) else cast("tuple[str, ...]", given)


def _ordering(given: Ordering | str) -> Ordering:
    return Ordering(given) if given in list(Ordering) else cast("Ordering", given)


def _on_failure(given: OnFailure | str) -> OnFailure:
    return OnFailure(given) if given in list(OnFailure) else cast("OnFailure", given)


def _delivery(given: Delivery | str) -> Delivery:
    return Delivery(given) if given in list(Delivery) else cast("Delivery", given)


def _execution_mode(given: ExecutionMode | str) -> ExecutionMode:
    return ExecutionMode(given) if given in list(ExecutionMode) else cast("ExecutionMode", given)


def _offset_reset(given: str) -> OffsetReset:
    if not isinstance(given, str):
        return given
    return _RESET_SPELLINGS.get(given, cast("OffsetReset", given))


@attrs.frozen(kw_only=True)
class ConsumerConfig:
    """All that a consumer needs to know. Times are in seconds, sizes in bytes.

    It is checked as it is made; a copy with other values comes from :func:`attrs.evolve`.

    Raises:
        ConfigError: it can't work; every fault is named at once, with the field, the value and what to do.
    """

    bootstrap_servers: str = attrs.field(converter=as_servers)
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

    execution_mode: ExecutionMode = attrs.field(default=ExecutionMode.ASYNC, converter=_execution_mode)
    """Where handlers run: ``async`` (default) in the consumer's own loop, ``thread`` in up to
    :attr:`max_concurrency` threads, ``process`` in :attr:`process_workers` processes. The first is for handlers that
    wait, the second for blocking libraries, the third for what keeps a core busy."""

    process_workers: int | None = None
    """Worker processes in ``process`` mode. Default ``None``: as many as there are cores that this process may use.
    :attr:`max_concurrency` bounds what is handed to all of them at once, what waits for one of them included."""

    worker_initializer: Callable[[], object] | None = None
    """A function that each worker process calls before its first record: to load a model, to open connections.
    Default ``None``. It has to be one that a module holds by its name."""

    max_tasks_per_worker: int | None = None
    """Records (or batches) after which a worker process is replaced by a new one, against what leaks. Default
    ``None``: never. What it has in hand by then is finished first."""

    max_worker_memory: int | None = None
    """Bytes of resident memory above which a worker process is replaced in the same way. Default ``None``: no
    bound."""

    worker_start_method: StartMethod = "spawn"
    """How worker processes come into being: ``spawn`` (default) starts each from nothing, ``forkserver`` forks them
    off a process that stays, which is faster where workers are replaced often. A running process is never forked:
    its threads would be missing in the copy."""

    key_of: KeyOf | None = None
    """What orders a record, instead of its key: a function from the record to something hashable, or to
    ``None`` for no order. Default ``None``: the record's key. It runs for every record, so it has to be fast,
    and plain: not ``async``. What it raises is a failure of that record."""

    max_buffered_records: int = 8_000
    """Records of one partition that may wait or run, before it is paused. Default 8,000. A quarter of them, 2,000 at
    most, is kept free for what is on its way. More finds more distinct keys to run at once behind a hot one; less
    saves memory, but makes smaller batches: with less than 4,000 of fewer than 1,000 records, and below some 16 each
    fetch brings a record or two, and throughput falls to hundreds a second."""

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

    handler_timeout: float | None = None
    """Seconds that one attempt at handling may take, before it is cancelled and counts as failed. Default ``None``:
    no bound. A handler that doesn't react to its cancellation keeps its lane and is named in the log."""

    retry: RetryPolicy | None = None
    """Whether and when a failed record is handled again. Default ``None``: not at all, unless its handler raises
    :exc:`Retry`. While a record waits for its next attempt, later ones of its lane wait behind it, all others go
    on."""

    on_failure: OnFailure = attrs.field(default=OnFailure.RAISE, converter=_on_failure)
    """What becomes of a record that failed and isn't tried again: ``raise`` (default) stops the consumer with the
    error, ``skip`` completes the record all the same, logged and counted, ``dead_letter`` sends it to the dead
    letters first."""

    dead_letter: DeadLetterConfig | None = None
    """Where dead letters go. Default ``None``: with ``on_failure="dead_letter"`` the same as ``DeadLetterConfig()``,
    which sends them to ``<topic>.dlt``; otherwise there are none, and a handler that raises :exc:`DeadLetter` fails
    for good."""

    breaker: BreakerPolicy | None = None
    """When to stop handing out records because too many fail. Default ``None``: never."""

    delivery: Delivery = attrs.field(default=Delivery.AT_LEAST_ONCE, converter=_delivery)
    """How often what handlers return is seen by its readers: ``at_least_once`` (default), or ``exactly_once`` by those
    who read only what is committed. The latter needs :attr:`transactional_id`, and reads so itself."""

    transactional_id: str | None = None
    """The identity of the producer in ``exactly_once``: the same after a restart, and different for each member. Who
    comes later with the same one shuts out who was there before. Default ``None``."""

    producer: ProducerConfig | None = None
    """How what handlers return is sent, and made into bytes. Default ``None``: to the same cluster, with the
    connection properties in :attr:`kafka`. A section without ``bootstrap_servers`` of its own, in a file, a mapping
    or variables, is completed by these."""

    deserialize_key: Deserializer | None = None
    """What makes a key out of its bytes: a plain function of the bytes, or ``None`` where there are none, and a
    ``SerializationContext``, as confluent-kafka's deserialisers are. Default ``None``: the bytes themselves. It is
    part of the attempt: what it raises is a failure of the record. Lanes go by the bytes all the same."""

    deserialize_value: Deserializer | None = None
    """The same for the value. Default ``None``: the bytes themselves."""

    kafka: Mapping[str, PropertyValue] = attrs.field(factory=dict, converter=as_properties)
    """Any further `librdkafka property
    <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>`__, by its name. Default empty.
    Those that would break a promise of this library are refused. ``oauth_cb``, ``stats_cb`` and
    ``throttle_cb`` take a function, ``logger`` a :class:`logging.Logger`. Secrets in it don't show in a
    ``repr``."""

    def __attrs_post_init__(self) -> None:
        problems = find_problems(self)
        if problems:
            raise ConfigError(problems)

    def for_member(self, index: int) -> Self:
        """The configuration of one member of a fleet, whose identities are this one's with ``-<index>`` appended.

        These are :attr:`transactional_id` and the librdkafka property ``group.instance.id``, as far as they are set:
        one for each member, the same after a restart. ``trio-parallel-kafka run`` makes its members' configurations so.

        Args:
            index: the member's number, different from that of every other member of the group; from 0 on.

        Raises:
            ValueError: ``index`` is below 0.
        """
        if index < 0:
            message = f"a member's index is a number from 0 on, is {index!r}"
            raise ValueError(message)
        identities: dict[str, Any] = {}
        if self.transactional_id is not None:
            identities["transactional_id"] = f"{self.transactional_id}-{index}"
        if _INSTANCE_ID in self.kafka:
            identities["kafka"] = {**self.kafka, _INSTANCE_ID: f"{self.kafka[_INSTANCE_ID]}-{index}"}
        return attrs.evolve(self, **identities)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Load a configuration from a mapping of field names to values.

        Text is taken for a number where it is one, and ``"module:function"`` is imported where a function is asked
        for. Mappings make :attr:`retry`, :attr:`dead_letter`, :attr:`breaker` and :attr:`producer`; nested ones in
        ``kafka`` make dotted names.

        Raises:
            ConfigError: as above; also names that aren't fields, with the nearest that is.
        """
        return loading.from_mapping(cls, mapping)

    @classmethod
    def from_toml(cls, path: str | PathLike[str], *, table: str | None = None) -> Self:
        """Load a configuration from a TOML file.

        ``retry``, ``dead_letter``, ``breaker`` and ``producer`` are sub-tables. So is ``kafka`` with librdkafka's
        properties: ``sasl.username = "me"`` or ``"sasl.username" = "me"``.

        Args:
            path: the file.
            table: the table's name, with dots for a nested one. By default ``trio-parallel-kafka`` or
                ``tool.trio-parallel-kafka`` if there, else the top level.

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
        ``KAFKA_CONSUMER_GROUP``                     ``group_id``
        ``KAFKA_TOPICS``                             ``topics``, separated by commas
        ``PARALLEL_CONSUMER_<FIELD>``                any field but ``kafka``, these three too
        ``PARALLEL_CONSUMER_<FIELD>_<FIELD>``        a field within a field
                                                     (``PARALLEL_CONSUMER_RETRY_MAX_ATTEMPTS``)
        ``PARALLEL_CONSUMER_KAFKA_<PROPERTY>``       a librdkafka property, its dots as underscores
                                                     (``PARALLEL_CONSUMER_KAFKA_SASL_PASSWORD``)
        ``PARALLEL_CONSUMER_PRODUCER_KAFKA_<...>``   the same for the producer
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
        return loading.from_env(cls, environ, dotenv, prefix=PREFIX)
