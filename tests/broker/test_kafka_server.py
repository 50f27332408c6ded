"""The broker for tests does what the tests that lean on it believe."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from broker import kafka_server
from broker.cluster import Cluster, NewRecord
from broker.kafka_jars import BrokerChoice, choose_broker
from broker.kafka_server import BrokerStartError, KafkaServer, StartKafka
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient


@pytest.mark.parametrize(
    ("bootstrap_servers", "startable", "ci", "private", "choice"),
    [
        ("broker:9092", False, True, False, "cluster"),
        ("broker:9092", True, False, False, "cluster"),
        (None, True, True, False, "start"),
        (None, False, False, False, "skip"),
        (None, False, True, False, "fail"),
        ("", False, True, False, "fail"),
        ("broker:9092", True, False, True, "start"),
        ("broker:9092", False, False, True, "skip"),
        ("broker:9092", False, True, True, "skip"),
        (None, False, True, True, "fail"),
    ],
)
def test_choice_of_broker(
    bootstrap_servers: str | None, startable: bool, ci: bool, private: bool, choice: BrokerChoice
) -> None:
    """A named cluster goes first, then a broker started here; without, CI fails and a person's run skips."""
    chosen = choose_broker(bootstrap_servers=bootstrap_servers, startable=startable, ci=ci, private=private)
    assert chosen == choice


@pytest.fixture(scope="module")
def server(can_start_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One broker that the tests of outages share; each leaves it running."""
    with KafkaServer.start(tmp_path_factory.mktemp("kafka") / "outages") as server:
        yield server


def test_records_are_read_back(kafka: Cluster) -> None:
    """Every record arrives in its partition, in order, with key, value and headers."""
    topic = kafka.unique("orders")
    kafka.create_topic(topic, 2)
    records = [NewRecord(b"k", b"%d" % n, n % 2, [("n", b"%d" % n), ("none", None)]) for n in range(1000)]

    assert kafka.produce(topic, records) == 1000
    assert kafka.end_offsets(topic) == {0: 500, 1: 500}
    read = _read(kafka.bootstrap_servers, topic, {0: 500, 1: 500})
    assert [m.value() for m in read if m.partition() == 1] == [b"%d" % n for n in range(1, 1000, 2)]
    assert read[0].key() == b"k"
    assert read[0].headers() == [("n", read[0].value()), ("none", None)]


def test_bulk_produce_is_fast(kafka: Cluster) -> None:
    """A hundred thousand keyed records are produced in seconds, each key in one partition."""
    topic = kafka.unique("bulk")
    kafka.create_topic(topic, 16)
    began = time.monotonic()
    kafka.produce(topic, ((b"%d" % (n % 1000), b"x" * 100) for n in range(100_000)))
    seconds = time.monotonic() - began
    print(f"\n100,000 records produced in {seconds:.2f} s")
    assert sum(kafka.end_offsets(topic).values()) == 100_000
    assert seconds < 30


def test_produce_reports_what_is_refused(kafka: Cluster) -> None:
    """A record that the broker refuses is an error, not a count."""
    topic = kafka.unique("small")
    kafka.create_topic(topic, 1, {"max.message.bytes": "1000"})
    with pytest.raises(KafkaException) as caught:
        kafka.produce(topic, [(b"k", b"fits"), (b"k", os.urandom(5000))])
    assert caught.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE


def test_committed_offsets_come_and_go(kafka: Cluster) -> None:
    """What is committed is read back with its metadata, by partition, until it is deleted."""
    topic, group = kafka.unique("orders"), kafka.unique("billing")
    kafka.create_topic(topic, 3)
    assert kafka.committed(group, topic) == {}
    kafka.commit(group, topic, {0: (5, "map"), 2: (7, "")})
    assert kafka.committed(group, topic) == {0: (5, "map"), 2: (7, "")}
    kafka.delete_offsets(group)
    assert kafka.committed(group, topic) == {}


def test_metadata_bound(kafka: Cluster) -> None:
    """Commit metadata of 4,095 characters is accepted, one more is refused."""
    topic, group = kafka.unique("orders"), kafka.unique("billing")
    kafka.create_topic(topic)
    kafka.commit(group, topic, {0: (1, "m" * 4095)})
    assert kafka.committed(group, topic) == {0: (1, "m" * 4095)}
    with pytest.raises(KafkaException) as caught:
        kafka.commit(group, topic, {0: (2, "m" * 4096)})
    assert caught.value.args[0].code() == KafkaError.OFFSET_METADATA_TOO_LARGE
    assert kafka.committed(group, topic) == {0: (1, "m" * 4095)}


def test_a_topic_made_again_has_another_id(kafka: Cluster) -> None:
    """Deleting a topic and making it again starts at offset 0 under another id."""
    topic = kafka.unique("orders")
    kafka.create_topic(topic)
    kafka.produce(topic, [(None, b"v")])
    first = kafka.topic_id(topic)
    kafka.delete_topic(topic)
    kafka.create_topic(topic)
    assert kafka.topic_id(topic) != first
    assert kafka.end_offsets(topic) == {0: 0}


def test_records_deleted_from_the_start(kafka: Cluster) -> None:
    """Deleting the records before an offset moves the start of that partition and nothing else."""
    topic = kafka.unique("orders")
    kafka.create_topic(topic, 2)
    kafka.produce(topic, [NewRecord(None, b"v", n % 2) for n in range(20)])
    kafka.delete_records_before(topic, {1: 4})
    assert kafka.start_offsets(topic) == {0: 0, 1: 4}
    assert kafka.end_offsets(topic) == {0: 10, 1: 10}


def test_clean_up_leaves_other_names_alone(kafka: Cluster) -> None:
    """Cleaning up deletes the topics and groups of one user of the cluster, not those of another."""
    topic, group = kafka.unique("kept"), kafka.unique("kept")
    kafka.create_topic(topic)
    kafka.commit(group, topic, {0: (1, "")})
    other = Cluster(kafka.bootstrap_servers)
    gone = other.unique("gone")
    other.create_topic(gone)
    other.commit(gone, gone, {0: (1, "")})
    other.clean_up()
    _eventually(lambda: gone not in kafka.admin.list_topics(timeout=5).topics)
    assert gone not in {listed.group_id for listed in kafka.admin.list_consumer_groups().result(5).valid}
    assert kafka.committed(group, topic) == {0: (1, "")}


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_groups_rebalance_quickly(server: KafkaServer, protocol: str) -> None:
    """With three-second sessions, two members share a topic within seconds under both protocols."""
    kafka = Cluster(server.bootstrap_servers)
    topic = kafka.unique("orders")
    kafka.create_topic(topic, 4)
    settings: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "group.id": kafka.unique("billing"),
        "group.protocol": protocol,
    }
    if protocol == "classic":
        settings |= {"session.timeout.ms": 3000, "heartbeat.interval.ms": 300}
    began = time.monotonic()
    with Consumer(settings) as one, Consumer(settings) as two:

        def shared() -> bool:
            for member in (one, two):
                member.poll(0.05)
            return len(one.assignment()) == len(two.assignment()) == 2

        for member in (one, two):
            member.subscribe([topic])
        _eventually(shared)
        print(f"\n{protocol}: two members shared the topic after {time.monotonic() - began:.2f} s")


def test_restart_keeps_ports_and_data(server: KafkaServer) -> None:
    """A broker that was stopped comes back at the same address with topics, records and offsets."""
    print(f"\nfirst start {server.start_seconds:.2f} s")
    with _data_survives(server):
        server.restart()
        print(f"restart {server.start_seconds:.2f} s")


def test_kill_and_start_again(server: KafkaServer) -> None:
    """A broker killed outright refuses connections, and comes back at the same address with its data."""
    with _data_survives(server):
        pid = server.pid
        server.kill()
        assert not _exists(pid)
        assert not _answers(server)
        server.start_again()
        print(f"\nstart after a kill {server.start_seconds:.2f} s")


def test_freeze_and_thaw(server: KafkaServer) -> None:
    """A frozen broker answers nothing; thawed, it goes on with its data."""
    with _data_survives(server):
        server.freeze()
        server.freeze()
        assert not _answers(server)
        server.thaw()
        _eventually(lambda: _answers(server))


async def test_broker_outlives_the_thread_that_started_it(server: KafkaServer) -> None:
    """A frozen broker can be restarted from a worker thread, and goes on when that thread has ended."""
    server.freeze()
    thread = threading.Thread(target=server.restart)
    thread.start()
    await trio.to_thread.run_sync(thread.join)
    await trio.sleep(0.5)
    assert await trio.to_thread.run_sync(_answers, server)


def test_misuse_is_named(server: KafkaServer) -> None:
    """Starting a running broker and asking a stopped one for its process are errors; stopping twice isn't."""
    with pytest.raises(RuntimeError, match="still running"):
        server.start_again()
    server.stop()
    server.stop()
    with pytest.raises(RuntimeError, match="isn't running"):
        _ = server.pid
    server.start_again()


@pytest.mark.usefixtures("can_start_kafka")
def test_exit_leaves_nothing(tmp_path: Path) -> None:
    """After the block neither the process nor its guard nor the folder exists, even if the body raised."""
    directory = tmp_path / "kafka"

    def fail_inside() -> None:
        with KafkaServer.start(directory):
            assert len(_processes_about(directory)) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert not directory.exists()
    assert _processes_about(directory) == []


@pytest.mark.usefixtures("can_start_kafka")
def test_killed_test_run_leaves_nothing(tmp_path: Path) -> None:
    """When the test process itself is killed, the broker, its guard and its folder go too."""
    directory = tmp_path / "kafka"
    program = (
        "import sys, time, pathlib\n"
        f"sys.path.insert(0, {str(Path(__file__).resolve().parent.parent)!r})\n"
        "from broker.kafka_server import KafkaServer\n"
        f"with KafkaServer.start(pathlib.Path({str(directory)!r})) as server:\n"
        "    print('started', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        assert tests.stdout.readline() == b"started\n"
        # The broker, its guard, and the program itself, which names the folder.
        assert len(_processes_about(directory)) == 3
        tests.send_signal(signal.SIGKILL)
    _eventually(lambda: not _processes_about(directory) and not directory.exists())


def test_wrong_settings_are_an_error(private_kafka: StartKafka) -> None:
    """Settings that Kafka doesn't take are reported with Kafka's own words."""
    with pytest.raises(BrokerStartError, match=r"Invalid value none for configuration num\.io\.threads"):
        private_kafka(properties={"num.io.threads": "none"})


def test_broker_that_dies_is_an_error_at_once(private_kafka: StartKafka) -> None:
    """A broker that can't start is reported long before the time is up, with what it logged."""
    began = time.monotonic()
    with pytest.raises(BrokerStartError, match=r"(?s)ended with status \d+ while starting.*Xno-such"):
        private_kafka(java_options=["-Xno-such-option"])
    assert time.monotonic() - began < 15


def test_port_taken_meanwhile(private_kafka: StartKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that somebody takes before the broker does leads to a start on others."""
    free_ports = kafka_server._free_ports
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        picks = [[*free_ports(1), taken.getsockname()[1]], free_ports(2)]
        chosen = list(picks[1])
        monkeypatch.setattr(kafka_server, "_free_ports", lambda _count: picks.pop(0))
        server = private_kafka()
    assert picks == []
    assert server.bootstrap_servers == f"127.0.0.1:{chosen[0]}"
    assert _answers(server)


def test_wrong_password_is_refused(secured_kafka: KafkaServer) -> None:
    """The right password opens the secured listener, a wrong one is reported as a failed login."""
    errors: list[KafkaError] = []
    settings: dict[str, Any] = {
        "bootstrap.servers": secured_kafka.bootstrap_servers,
        "error_cb": errors.append,
        "log_level": 0,
    }
    assert AdminClient({**settings, **secured_kafka.login("alice")}).list_topics(timeout=10).brokers
    assert errors == []
    refused = AdminClient({**settings, **secured_kafka.login("alice", "wrong")})
    with pytest.raises(KafkaException):
        refused.list_topics(timeout=2)
    refused.poll(0)
    assert KafkaError._AUTHENTICATION in {error.code() for error in errors}


def test_acls_decide_what_a_user_may_do(secured_kafka: KafkaServer) -> None:
    """Without an ACL a user can't read a topic, with it she can; the plaintext listener allows everything."""
    kafka = Cluster(secured_kafka.admin_bootstrap_servers)
    topic, group = kafka.unique("orders"), kafka.unique("billing")
    kafka.create_topic(topic)
    kafka.produce(topic, [(None, b"v")])
    alice = {**secured_kafka.login("alice"), "group.id": group}
    with pytest.raises(KafkaException) as caught:
        _read(secured_kafka.bootstrap_servers, topic, {0: 1}, alice)
    assert caught.value.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    admin = AdminClient({"bootstrap.servers": secured_kafka.bootstrap_servers, **secured_kafka.login("alice")})
    refusal = admin.list_topics(topic, timeout=10).topics[topic].error
    assert refusal is not None
    assert refusal.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    kafka.allow_reading("alice", topic=topic, group=group)
    assert [m.value() for m in _read(secured_kafka.bootstrap_servers, topic, {0: 1}, alice)] == [b"v"]


@contextmanager
def _data_survives(server: KafkaServer) -> Iterator[None]:
    kafka = Cluster(server.bootstrap_servers)
    topic, group = kafka.unique("orders"), kafka.unique("billing")
    kafka.create_topic(topic, 4)
    kafka.produce(topic, [NewRecord(b"k", b"%d" % n, n % 4) for n in range(1000)])
    kafka.commit(group, topic, {0: (3, "map")})
    yield
    assert server.bootstrap_servers == kafka.bootstrap_servers
    assert kafka.committed(group, topic) == {0: (3, "map")}
    assert kafka.produce(topic, [NewRecord(b"k", b"after", partition) for partition in range(4)]) == 4
    values = [m.value() or b"" for m in _read(server.bootstrap_servers, topic, dict.fromkeys(range(4), 251))]
    assert sorted(values) == sorted([b"%d" % n for n in range(1000)] + [b"after"] * 4)


def _read(
    bootstrap_servers: str,
    topic: str,
    ends: Mapping[int, int],
    properties: Mapping[str, Any] | None = None,
) -> list[Message]:
    settings = {
        "bootstrap.servers": bootstrap_servers,
        "group.id": "reads alone",
        "enable.auto.commit": False,
        **(properties or {}),
    }
    messages: list[Message] = []
    with Consumer(settings) as consumer:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        deadline = time.monotonic() + 20
        while len(messages) < sum(ends.values()):
            assert time.monotonic() < deadline, f"only {len(messages)} records arrived"
            for message in consumer.consume(500, 0.1):
                error = message.error()
                if error is not None:
                    raise KafkaException(error)
                messages.append(message)
    return messages


def _answers(server: KafkaServer) -> bool:
    try:
        client = AdminClient({"bootstrap.servers": server.bootstrap_servers, "log_level": 0})
        return bool(client.list_topics(timeout=1).brokers)
    except KafkaException:
        return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _processes_about(directory: Path) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if str(directory) in line]


def _eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)
