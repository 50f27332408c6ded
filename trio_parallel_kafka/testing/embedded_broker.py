"""A Kafka cluster inside the process: librdkafka's mock cluster, driven through ctypes.

It listens on loopback ports, so that ordinary clients of this and of other processes use it
like a cluster. Nothing has to be installed for it: it is part of the librdkafka that
confluent-kafka brings along. Upstream calls its interface experimental and it lacks much of
a broker (compaction, fenced producers, transactional offsets, a bound for commit metadata):
good for demonstrations and fast tests, no proof of what a real broker does.

Clients do best with ``group.protocol=consumer`` (they join in well under a second) and
``fetch.wait.max.ms`` of 5 to 10 (a waiting fetch doesn't wake when records arrive).
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_int16, c_int32, c_size_t, c_void_p
from types import MappingProxyType
from typing import Any, Final

from confluent_kafka import cimpl

from trio_parallel_kafka.errors import ParallelKafkaError

ALL_BROKERS: Final = -1
"""How the C interface names every broker at once."""

FIRST_REBALANCE_DELAY: Final = 0.05
"""How long a classic group waits for more members when its first one joins, in seconds."""

HEARTBEAT_INTERVAL: Final = 0.1
"""How often a member with ``group.protocol=consumer`` asks for its share, in seconds."""

_PRODUCER: Final = 0
_ERROR_TEXT_SIZE: Final = 512

# The result and the arguments of every function used. Errors are C enums: int.
_PROTOTYPES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "rd_kafka_conf_new": (c_void_p, ()),
    "rd_kafka_conf_destroy": (None, (c_void_p,)),
    "rd_kafka_conf_set_log_cb": (None, (c_void_p, c_void_p)),
    "rd_kafka_new": (c_void_p, (c_int, c_void_p, c_char_p, c_size_t)),
    "rd_kafka_destroy": (None, (c_void_p,)),
    "rd_kafka_err2str": (c_char_p, (c_int,)),
    "rd_kafka_mock_cluster_new": (c_void_p, (c_void_p, c_int)),
    "rd_kafka_mock_cluster_destroy": (None, (c_void_p,)),
    "rd_kafka_mock_cluster_bootstraps": (c_char_p, (c_void_p,)),
    "rd_kafka_mock_set_controller_id": (c_int, (c_void_p, c_int32)),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, (c_void_p, c_int32)),
    "rd_kafka_mock_set_group_consumer_heartbeat_interval_ms": (None, (c_void_p, c_int)),
    "rd_kafka_mock_topic_create": (c_int, (c_void_p, c_char_p, c_int, c_int)),
    "rd_kafka_mock_broker_set_down": (c_int, (c_void_p, c_int32)),
    "rd_kafka_mock_broker_set_up": (c_int, (c_void_p, c_int32)),
    "rd_kafka_mock_broker_set_rtt": (c_int, (c_void_p, c_int32, c_int)),
    "rd_kafka_mock_push_request_errors_array": (None, (c_void_p, c_int16, c_size_t, POINTER(c_int))),
    # Variadic: pairs of an error and a delay in milliseconds follow.
    "rd_kafka_mock_broker_push_request_error_rtts": (c_int, (c_void_p, c_int32, c_int16, c_size_t)),
    "rd_kafka_mock_start_request_tracking": (None, (c_void_p,)),
    "rd_kafka_mock_clear_requests": (None, (c_void_p,)),
    "rd_kafka_mock_get_requests": (POINTER(c_void_p), (c_void_p, POINTER(c_size_t))),
    "rd_kafka_mock_request_api_key": (c_int16, (c_void_p,)),
    "rd_kafka_mock_request_destroy_array": (None, (POINTER(c_void_p), c_size_t)),
}

# Not in librdkafka 2.15. Without it the mock cluster names no controller, and AdminClient.describe_topics,
# which waits for one, times out.
_SET_CONTROLLER: Final = "rd_kafka_mock_set_controller_id"

API_KEYS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "Produce": 0,
        "Fetch": 1,
        "ListOffsets": 2,
        "Metadata": 3,
        "OffsetCommit": 8,
        "OffsetFetch": 9,
        "FindCoordinator": 10,
        "JoinGroup": 11,
        "Heartbeat": 12,
        "LeaveGroup": 13,
        "SyncGroup": 14,
        "ApiVersions": 18,
        "InitProducerId": 22,
        "OffsetForLeaderEpoch": 23,
        "AddPartitionsToTxn": 24,
        "AddOffsetsToTxn": 25,
        "EndTxn": 26,
        "TxnOffsetCommit": 28,
        "ConsumerGroupHeartbeat": 68,
        "GetTelemetrySubscriptions": 71,
        "PushTelemetry": 72,
        "ShareGroupHeartbeat": 76,
        "ShareFetch": 78,
        "ShareAcknowledge": 79,
    }
)
"""The requests that the embedded broker answers, by Kafka's name for each."""

_API_NAMES: Final[dict[int, str]] = {key: name for name, key in API_KEYS.items()}


class EmbeddedBrokerError(ParallelKafkaError):
    """The embedded broker can't be had, refused a call, or was used after its block had ended."""


class EmbeddedBroker:
    """A running embedded broker, or several; :func:`open_embedded_broker` makes it.

    Its methods may be called from any thread, and raise :exc:`EmbeddedBrokerError` when the
    broker that they name doesn't exist or the block has ended. Where ``broker`` is ``None``,
    every broker is meant; ids count from 1.
    """

    def __init__(self, library: ctypes.CDLL, cluster: int) -> None:
        self._library = library
        self._cluster: int | None = cluster
        # Held over every call, so that no thread still uses the cluster that another one destroys.
        self._lock = threading.Lock()
        #: Where clients find it, as their ``bootstrap.servers``.
        self.bootstrap_servers: str = self._call("rd_kafka_mock_cluster_bootstraps").decode()
        self._call("rd_kafka_mock_start_request_tracking")
        classic_delay, heartbeat = _milliseconds(FIRST_REBALANCE_DELAY), _milliseconds(HEARTBEAT_INTERVAL)
        self._call("rd_kafka_mock_group_initial_rebalance_delay_ms", classic_delay)
        self._call("rd_kafka_mock_set_group_consumer_heartbeat_interval_ms", heartbeat)
        if hasattr(library, _SET_CONTROLLER):
            self._checked_call(_SET_CONTROLLER, 1)

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Make a topic; one that a client names first is made by itself, with 4 partitions.

        Raises:
            EmbeddedBrokerError: The topic exists.
            ValueError: ``partitions`` is below 1.
        """
        if partitions < 1:
            raise ValueError(f"a topic has at least 1 partition, not {partitions}")
        self._checked_call("rd_kafka_mock_topic_create", name.encode(), partitions, 1)

    def down(self, broker: int | None = None) -> None:
        """Cut every connection and refuse new ones, until :meth:`up`; records and groups are kept."""
        self._checked_call("rd_kafka_mock_broker_set_down", _broker_id(broker))

    def up(self, broker: int | None = None) -> None:
        """Accept connections again, on the same ports."""
        self._checked_call("rd_kafka_mock_broker_set_up", _broker_id(broker))

    def fail_next(self, api: str, *error_codes: int, broker: int | None = None) -> None:
        """Answer the next requests of one kind with errors, one error a request.

        Args:
            api: Kafka's name of the request, one of :data:`.API_KEYS`.
            error_codes: Kafka's error codes, such as ``confluent_kafka.KafkaError.NOT_COORDINATOR``,
                in the order of use; 0 lets one request pass, and librdkafka's own ``_TRANSPORT`` cuts the
                connection. What earlier calls named is used up first.
            broker: Fail only requests to this one. From then on errors of that kind that are meant for
                every broker no longer reach it: don't mix the two.

        Raises:
            ValueError: ``api`` isn't known, or there are no ``error_codes``.
        """
        if api not in API_KEYS:
            raise ValueError(f"unknown request {api!r}; known are {', '.join(API_KEYS)}")
        if not error_codes:
            raise ValueError("name at least one error code")
        key, count = API_KEYS[api], len(error_codes)
        if broker is None:
            codes = (c_int * count)(*error_codes)
            self._call("rd_kafka_mock_push_request_errors_array", key, count, codes)
        else:
            pairs = [c_int(number) for code in error_codes for number in (code, 0)]
            self._checked_call("rd_kafka_mock_broker_push_request_error_rtts", broker, key, count, *pairs)

    def delay(self, seconds: float) -> None:
        """Send every answer this much later from now on (to the millisecond; 0 ends it)."""
        self._checked_call("rd_kafka_mock_broker_set_rtt", ALL_BROKERS, _milliseconds(seconds))

    def requests(self) -> Counter[str]:
        """Count the requests received since the start, or :meth:`clear_requests`, by Kafka's name of each.

        Each received request takes some bytes of memory until it is cleared.
        """
        count = c_size_t()
        with self._lock:
            received = self._locked_call("rd_kafka_mock_get_requests", ctypes.byref(count))
        try:
            keys = Counter(map(self._library.rd_kafka_mock_request_api_key, received[: count.value]))
        finally:
            self._library.rd_kafka_mock_request_destroy_array(received, count)
        return Counter({_API_NAMES.get(key, f"ApiKey {key}"): seen for key, seen in keys.items()})

    def clear_requests(self) -> None:
        """Forget the requests received so far."""
        self._call("rd_kafka_mock_clear_requests")

    def _close(self) -> None:
        """End the cluster; every later call raises."""
        with self._lock:
            self._locked_call("rd_kafka_mock_cluster_destroy")
            self._cluster = None

    def _checked_call(self, function: str, *arguments: object) -> None:
        """Call a function that returns an error code."""
        if code := self._call(function, *arguments):
            reason = self._library.rd_kafka_err2str(code).decode()
            raise EmbeddedBrokerError(f"the embedded broker refused {function}: {reason}")

    def _call(self, function: str, *arguments: object) -> Any:
        with self._lock:
            return self._locked_call(function, *arguments)

    def _locked_call(self, function: str, *arguments: object) -> Any:
        if self._cluster is None:
            raise EmbeddedBrokerError("the embedded broker's block has ended")
        return getattr(self._library, function)(self._cluster, *arguments)


@contextmanager
def open_embedded_broker(
    topics: Mapping[str, int] = MappingProxyType({}), *, brokers: int = 1
) -> Iterator[EmbeddedBroker]:
    """Run a Kafka cluster in this process for as long as the block lasts.

    Clients should be closed first; any that is left finds its connections refused. It takes a
    few milliseconds, so that each test can have its own.

    Args:
        topics: The topics to make, each with its number of partitions.
        brokers: How many brokers the cluster has.

    Raises:
        EmbeddedBrokerError: This machine's confluent-kafka doesn't offer librdkafka's mock
            cluster, or a topic couldn't be made.
        ValueError: ``brokers``, or a topic's number of partitions, is below 1.
    """
    if brokers < 1:
        raise ValueError(f"a cluster has at least 1 broker, not {brokers}")
    library = _load_librdkafka()
    with _handle(library) as handle:
        cluster = library.rd_kafka_mock_cluster_new(handle, brokers)
        if not cluster:
            raise EmbeddedBrokerError("librdkafka couldn't start its mock cluster")
        broker = EmbeddedBroker(library, cluster)
        try:
            for name, partitions in topics.items():
                broker.create_topic(name, partitions)
            yield broker
        finally:
            broker._close()  # noqa: SLF001 - its other half: only the opener ends it


@contextmanager
def _handle(library: ctypes.CDLL) -> Iterator[int]:
    """Make the client that a mock cluster hangs on; it has to outlive the cluster."""
    conf = library.rd_kafka_conf_new()
    # Or it writes to stderr that it has no bootstrap.servers, which it doesn't need.
    library.rd_kafka_conf_set_log_cb(conf, None)
    reason = ctypes.create_string_buffer(_ERROR_TEXT_SIZE)
    handle = library.rd_kafka_new(_PRODUCER, conf, reason, len(reason))
    if not handle:
        library.rd_kafka_conf_destroy(conf)
        raise EmbeddedBrokerError(f"librdkafka couldn't make a client: {reason.value.decode()}")
    try:
        yield handle
    finally:
        library.rd_kafka_destroy(handle)


def _load_librdkafka() -> ctypes.CDLL:
    """Reach the librdkafka that confluent-kafka itself uses.

    A look-up in a loaded extension module also searches the libraries it is linked with. So
    this finds the one copy in use, whatever the wheel calls its file, or that of the system, or
    the functions linked into the module itself; opening a file by name could load a second copy.
    """
    library = ctypes.CDLL(cimpl.__file__)
    present = {name for name in _PROTOTYPES if hasattr(library, name)}
    if missing := _PROTOTYPES.keys() - present - {_SET_CONTROLLER}:
        raise EmbeddedBrokerError(
            f"the embedded broker needs librdkafka's mock cluster; {cimpl.__file__} and the libraries it is "
            f"linked with lack {', '.join(sorted(missing))}: install confluent-kafka's wheel (Linux, macOS)"
        )
    for name in present:
        function = getattr(library, name)  # library[name] would be a new object each time
        function.restype, function.argtypes = _PROTOTYPES[name]
    return library


def _broker_id(broker: int | None) -> int:
    return ALL_BROKERS if broker is None else broker


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
