"""The embedded broker: what clients can do with it, the faults it plays, and what it leaves behind."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
    libversion,
)
from confluent_kafka.admin import AdminClient

from trio_parallel_kafka.testing import (
    EmbeddedBroker,
    EmbeddedBrokerError,
    open_embedded_broker,
)
from trio_parallel_kafka.testing.embedded_broker import (
    _API_NAMES,
    _PROTOTYPES,
    API_KEYS,
    _load_librdkafka,
)

OpenConsumer = Callable[..., Consumer]

DENIED = KafkaError.GROUP_AUTHORIZATION_FAILED
THREADS = Path("/proc/self/task")
FILES = Path("/proc/self/fd")


def produce(broker: EmbeddedBroker, count: int) -> None:
    """Send numbered records to both partitions of ``orders`` in turn."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 0})
    for number in range(count):
        producer.produce("orders", value=b"%d" % number, partition=number % 2)
    assert producer.flush(10) == 0


def poll_until(consumers: Iterable[Consumer], done: Callable[[], bool]) -> tuple[list[Message], float]:
    """Poll all of them in turn; give the messages and the seconds that it took, 10 at most."""
    start = time.monotonic()
    messages: list[Message] = []
    while not done() and time.monotonic() - start < 10:
        messages += [message for consumer in consumers if (message := consumer.poll(0.01))]
    return messages, time.monotonic() - start


def subscribe(consumer: Consumer) -> list[TopicPartition]:
    """Subscribe to ``orders``; the list given follows what is assigned."""
    assigned: list[TopicPartition] = []

    def on_assign(_: Consumer, partitions: list[TopicPartition]) -> None:
        assigned.extend(partitions)

    def on_revoke(_: Consumer, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            assigned.remove(partition)

    consumer.subscribe(["orders"], on_assign=on_assign, on_revoke=on_revoke)
    return assigned


def entries(folder: Path) -> int:
    """How many there are."""
    return len(list(folder.iterdir()))


def partition_count(broker: EmbeddedBroker, topic: str) -> int:
    """Ask the broker how many partitions a topic has."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    return len(admin.list_topics(timeout=10).topics[topic].partitions)


def committed_error(consumer: Consumer) -> int:
    """Ask for a committed offset; give the code of the error, 0 if there is none."""
    try:
        consumer.committed([TopicPartition("orders", 0)], timeout=5)
    except KafkaException as error:
        return cast("int", error.args[0].code())
    return 0


def can_connect(bootstrap_servers: str) -> bool:
    """Tell whether a new client gets an answer within half a second."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        admin.list_topics(timeout=0.5)
    except KafkaException:
        return False
    return True


class StandIn:
    """librdkafka with some functions exchanged, or gone where they are ``None``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any] | None) -> None:
        self.functions = functions
        self.real = _load_librdkafka()
        self.calls: list[str] = []
        monkeypatch.setattr(ctypes, "CDLL", lambda _: self)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = self.functions.get(name, getattr(self.real, name))
        if function is None:
            raise AttributeError(name)

        def recorded(*arguments: object) -> Any:
            result = function(*arguments)
            self.calls.append(name)
            return result

        return recorded


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_member_joins_fast_and_reads_everything(
    embedded_broker: EmbeddedBroker, open_consumer: OpenConsumer, protocol: str
) -> None:
    """The first member of a group, of either protocol, is assigned all within 2 s and reads every record."""
    produce(embedded_broker, 100)
    consumer = open_consumer({"group.protocol": protocol})
    assigned = subscribe(consumer)
    early, seconds = poll_until([consumer], lambda: len(assigned) == 2)
    values = {message.value() for message in early}
    while len(values) < 100:
        (message,) = consumer.consume(1, 10)
        assert message.error() is None
        values.add(message.value())
    print(f"{protocol}: assigned after {seconds:.3f} s")
    assert values == {b"%d" % number for number in range(100)}
    assert seconds < 2


def test_second_member_gets_its_share_fast(open_consumer: OpenConsumer) -> None:
    """A second member of a group with the new protocol owns its partition within 2 s."""
    consumers = [open_consumer(), open_consumer()]
    first = subscribe(consumers[0])
    poll_until(consumers[:1], lambda: len(first) == 2)
    second = subscribe(consumers[1])
    _, seconds = poll_until(consumers, lambda: len(first) == len(second) == 1)
    print(f"second member: assigned after {seconds:.3f} s")
    assert first + second in ([first[0], second[0]], [second[0], first[0]])
    assert {partition.partition for partition in first + second} == {0, 1}
    assert seconds < 2


def test_commit_metadata_is_kept(embedded_broker: EmbeddedBroker, open_consumer: OpenConsumer) -> None:
    """Another consumer of the group finds a commit's offset and metadata, even after the broker was down."""
    consumer = open_consumer()
    assigned = subscribe(consumer)
    poll_until([consumer], lambda: len(assigned) == 2)
    consumer.commit(offsets=[TopicPartition("orders", 0, 7, metadata="1-3,5")], asynchronous=False)
    embedded_broker.down()
    embedded_broker.up()
    partitions = [TopicPartition("orders", number) for number in range(2)]
    found, nothing = open_consumer().committed(partitions, timeout=10)
    assert (found.offset, found.metadata) == (7, "1-3,5")
    assert (nothing.offset, nothing.metadata) == (-1001, None)


def test_topics_have_the_partitions_asked_for() -> None:
    """Topics are made with their number of partitions, at the start and later, each once."""
    with open_embedded_broker({"one": 1, "six": 6}) as broker:
        broker.create_topic("sixteen", 16)
        assert [partition_count(broker, topic) for topic in ("one", "six", "sixteen")] == [1, 6, 16]
        with pytest.raises(EmbeddedBrokerError, match=r"topic_create: .*already exists"):
            broker.create_topic("six", 6)


def test_numbers_below_one_are_refused(embedded_broker: EmbeddedBroker) -> None:
    """A topic without partitions or a cluster without brokers is an error before C sees it."""
    with pytest.raises(ValueError, match="at least 1 partition, not 0"):
        embedded_broker.create_topic("empty", 0)
    with pytest.raises(ValueError, match="at least 1 broker, not 0"), open_embedded_broker(brokers=0):
        pass


@pytest.mark.skipif(libversion()[1] < 0x02_10_00_00, reason="only from librdkafka 2.16 on")
def test_topics_have_ids(embedded_broker: EmbeddedBroker) -> None:
    """The admin client can describe a topic, with an id that differs between topics."""
    embedded_broker.create_topic("refunds", 1)
    admin = AdminClient({"bootstrap.servers": embedded_broker.bootstrap_servers})
    described = admin.describe_topics(TopicCollection(["orders", "refunds"]), request_timeout=5)
    ids = {str(future.result(10).topic_id) for future in described.values()}
    assert len(ids) == 2


def test_down_and_up(embedded_broker: EmbeddedBroker) -> None:
    """A broker that is down refuses connections; up again, it answers at the same address."""
    embedded_broker.down()
    assert not can_connect(embedded_broker.bootstrap_servers)
    embedded_broker.up()
    assert can_connect(embedded_broker.bootstrap_servers)


def test_one_of_two_brokers_down() -> None:
    """Only the broker named goes down and comes up."""
    with open_embedded_broker(brokers=2) as broker:
        addresses = broker.bootstrap_servers.split(",")
        broker.down(2)
        assert [can_connect(address) for address in addresses] == [True, False]
        broker.up(2)
        assert [can_connect(address) for address in addresses] == [True, True]


def test_errors_are_answered_in_order(embedded_broker: EmbeddedBroker, open_consumer: OpenConsumer) -> None:
    """Each error named fails one request, 0 lets one pass, and then all is well again."""
    consumer = open_consumer()
    unknown = KafkaError.UNKNOWN_MEMBER_ID
    embedded_broker.fail_next("OffsetFetch", DENIED, 0, unknown)
    assert [committed_error(consumer) for _ in range(4)] == [DENIED, 0, unknown, 0]


def test_errors_of_one_broker(embedded_broker: EmbeddedBroker, open_consumer: OpenConsumer) -> None:
    """Errors for one broker fail its requests in order, too."""
    consumer = open_consumer()
    unknown = KafkaError.UNKNOWN_MEMBER_ID
    embedded_broker.fail_next("OffsetFetch", DENIED, 0, unknown, broker=1)
    assert [committed_error(consumer) for _ in range(4)] == [DENIED, 0, unknown, 0]


def test_errors_of_the_other_broker_do_not_matter() -> None:
    """Errors for one broker leave the requests to another alone."""
    with open_embedded_broker({"orders": 1}, brokers=2) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
        leader = admin.list_topics(timeout=10).topics["orders"].partitions[0].leader
        consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "billing"})
        orders = TopicPartition("orders", 0)
        broker.fail_next("ListOffsets", *[KafkaError.TOPIC_AUTHORIZATION_FAILED] * 50, broker=3 - leader)
        assert consumer.get_watermark_offsets(orders, timeout=10) == (0, 0)
        broker.fail_next("ListOffsets", *[KafkaError.TOPIC_AUTHORIZATION_FAILED] * 50, broker=leader)
        with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
            consumer.get_watermark_offsets(orders, timeout=10)
        consumer.close()


def test_faults_that_cannot_be_are_refused(embedded_broker: EmbeddedBroker) -> None:
    """A misspelt request, no error at all, or a broker that doesn't exist is named."""
    with pytest.raises(ValueError, match="unknown request 'OffsetComit'; known are Produce, Fetch"):
        embedded_broker.fail_next("OffsetComit", DENIED)
    with pytest.raises(ValueError, match="at least one error code"):
        embedded_broker.fail_next("OffsetCommit")
    with pytest.raises(EmbeddedBrokerError, match=r"request_error_rtts: .*broker"):
        embedded_broker.fail_next("OffsetCommit", DENIED, broker=9)
    with pytest.raises(EmbeddedBrokerError, match=r"set_down: .*not available"):
        embedded_broker.down(9)
    with pytest.raises(EmbeddedBrokerError, match=r"set_up: .*not available"):
        embedded_broker.up(9)


def test_delay(embedded_broker: EmbeddedBroker) -> None:
    """Every answer takes the delay, until it is 0 again."""
    admin = AdminClient({"bootstrap.servers": embedded_broker.bootstrap_servers})

    def seconds() -> float:
        start = time.monotonic()
        admin.list_topics(timeout=10)
        return time.monotonic() - start

    seconds()
    embedded_broker.delay(0.5)
    assert seconds() >= 0.5
    embedded_broker.delay(0)
    assert seconds() < 0.5


def test_requests_are_counted_by_name(
    embedded_broker: EmbeddedBroker, open_consumer: OpenConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests count from the start and from each clearing; an unknown kind shows as its number."""
    consumer = open_consumer()
    assert embedded_broker.requests()["OffsetFetch"] == 0
    for _ in range(3):
        committed_error(consumer)
    assert embedded_broker.requests()["OffsetFetch"] == 3
    embedded_broker.clear_requests()
    committed_error(consumer)
    assert embedded_broker.requests()["OffsetFetch"] == 1
    monkeypatch.delitem(_API_NAMES, API_KEYS["OffsetFetch"])
    assert embedded_broker.requests()["ApiKey 9"] == 1


def test_counting_frees_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copies that librdkafka makes of its requests are given back."""
    library = StandIn(monkeypatch)
    with open_embedded_broker() as broker:
        assert can_connect(broker.bootstrap_servers)
        assert broker.requests()["Metadata"] > 0
        assert library.calls[-1] == "rd_kafka_mock_request_destroy_array"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("create_topic", ("late", 1)),
        ("down", ()),
        ("up", ()),
        ("fail_next", ("Fetch", DENIED)),
        ("delay", (0,)),
        ("requests", ()),
        ("clear_requests", ()),
    ],
)
def test_use_after_the_end_is_refused(method: str, arguments: tuple[object, ...]) -> None:
    """After its block every method raises, instead of reaching for freed memory."""
    with open_embedded_broker() as broker:
        pass
    with pytest.raises(EmbeddedBrokerError, match="block has ended"):
        getattr(broker, method)(*arguments)


def test_two_at_once_are_separate() -> None:
    """Two embedded brokers in one process share nothing, and one outlives the other."""
    with open_embedded_broker({"orders": 3}) as outer:
        with open_embedded_broker({"orders": 5}) as inner:
            assert partition_count(inner, "orders") == 5
        assert partition_count(outer, "orders") == 3


@pytest.mark.skipif(not THREADS.exists(), reason="counts threads in /proc, which only Linux has")
def test_nothing_is_left_behind() -> None:
    """Fifty times opened, used and left, normally or by an error, leave no thread and no file handle.

    Threads of earlier tests may end meanwhile, so there can be fewer than before.
    """

    def once(number: int) -> None:
        with open_embedded_broker({"orders": 2}, brokers=2) as broker:
            assert partition_count(broker, "orders") == 2
            if number % 2:
                raise KeyError(number)

    once(0)
    threads, files = entries(THREADS), entries(FILES)
    for number in range(50):
        with nullcontext() if number % 2 == 0 else pytest.raises(KeyError):
            once(number)
    assert entries(THREADS) <= threads
    assert entries(FILES) <= files


def test_a_failure_while_opening_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a topic can't be made, the cluster and its client are freed before the error leaves."""
    library = StandIn(monkeypatch)
    with pytest.raises(ValueError, match="at least 1 partition"), open_embedded_broker({"empty": 0}):
        pass
    assert library.calls[-2:] == ["rd_kafka_mock_cluster_destroy", "rd_kafka_destroy"]


def test_it_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """The broker itself never writes to the terminal."""
    with open_embedded_broker({"orders": 1}) as broker:
        broker.down()
        broker.up()
    assert capfd.readouterr() == ("", "")


def test_older_librdkafka(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the function that names a controller, which librdkafka 2.15 lacks, the rest works."""
    StandIn(monkeypatch, rd_kafka_mock_set_controller_id=None)
    with open_embedded_broker({"orders": 3}) as broker:
        assert partition_count(broker, "orders") == 3


def test_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """When librdkafka can't make a client, its reason is in the error, and the settings are freed."""

    def refuse(_kind: int, _conf: int, reason: ctypes.Array[ctypes.c_char], _size: int) -> None:
        reason.value = b"no more threads"

    library = StandIn(monkeypatch, rd_kafka_new=refuse)
    with pytest.raises(EmbeddedBrokerError, match="client: no more threads"), open_embedded_broker():
        pass
    assert library.calls[-1] == "rd_kafka_conf_destroy"


def test_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """When librdkafka can't start the cluster, that is said, and the client is freed."""
    library = StandIn(monkeypatch, rd_kafka_mock_cluster_new=lambda _client, _brokers: None)
    with pytest.raises(EmbeddedBrokerError, match="couldn't start"), open_embedded_broker():
        pass
    assert library.calls[-1] == "rd_kafka_destroy"


def test_the_end_waits_for_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster is freed only when no other thread is inside a call, and before its client."""
    entered = threading.Event()

    def slow(_cluster: int, _broker: int) -> int:
        entered.set()
        time.sleep(0.2)
        return 0

    library = StandIn(monkeypatch, rd_kafka_mock_broker_set_down=slow)
    with open_embedded_broker() as broker:
        thread = threading.Thread(target=broker.down)
        thread.start()
        assert entered.wait(10)
    thread.join(10)
    assert library.calls[-3:] == [
        "rd_kafka_mock_broker_set_down",
        "rd_kafka_mock_cluster_destroy",
        "rd_kafka_destroy",
    ]


def test_without_mock_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A librdkafka that lacks a function is refused with the function's name and what to install."""
    monkeypatch.setitem(_PROTOTYPES, "rd_kafka_mock_of_tomorrow", (None, ()))
    with pytest.raises(EmbeddedBrokerError, match=r"lack rd_kafka_mock_of_tomorrow: install "):
        open_embedded_broker().__enter__()
