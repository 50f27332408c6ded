"""The programs in examples/ that need a real Kafka keep what they promise, killed in the middle or not."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import pytest
from broker.cluster import ANSWER_TIMEOUT, Cluster, NewRecord
from broker.postgres_server import INSTALL_HINT, connect, find_programs, open_postgres
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition
from programs import PATIENCE, drain, example, lines

PARTITIONS = 4


def settings(kafka: Cluster, topic: str, group: str, **more: str) -> Mapping[str, str]:
    """The environment of a program."""
    return {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KAFKA_CONSUMER_GROUP": group,
        "KAFKA_TOPICS": topic,
        # A static member that was killed comes back at once; the broker needn't give it up first.
        "PARALLEL_CONSUMER_KAFKA_GROUP_INSTANCE_ID": group,
        **more,
    }


def new_topic(kafka: Cluster, name: str) -> str:
    """Make a topic, and return its name."""
    topic = kafka.unique(name)
    kafka.create_topic(topic, PARTITIONS)
    return topic


def new_dead_letter_topic(kafka: Cluster, topic: str) -> str:
    """Make the topic of a topic's dead letters, and return its name."""
    name = f"{topic}.dlt"
    kafka._names.add(name)
    kafka.create_topic(name, PARTITIONS)
    return name


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask again and again until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.02)


def count(kafka: Cluster, topic: str) -> int:
    """Offsets that a topic has used: records, and the marks of transactions."""
    return sum(kafka.end_offsets(topic).values())


def is_done(kafka: Cluster, topic: str, group: str) -> bool:
    """Whether a group has committed all that a topic holds."""
    committed = kafka.committed(group, topic)
    return {partition: offset for partition, (offset, _) in committed.items()} == kafka.end_offsets(topic)


def read_committed(kafka: Cluster, topic: str) -> list[Message]:
    """All that a topic holds but what was aborted, in the order of the partitions' offsets."""
    reader = Consumer(
        {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "reader", "enable.auto.commit": False}
        | {"isolation.level": "read_committed", "enable.partition.eof": True, "fetch.wait.max.ms": 5, "log_level": 0}
    )
    found: list[Message] = []
    left = set(range(PARTITIONS))
    try:
        reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        while left:
            message = reader.poll(ANSWER_TIMEOUT)
            assert message is not None, f"the ends of {left} weren't reached"
            error = message.error()
            if error is None:
                found.append(message)
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                left.discard(message.partition() or 0)
    finally:
        reader.close()
    return found


class Content(NamedTuple):
    """What a record says, and in which partition."""

    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[object, ...]


def contents(messages: list[Message]) -> Counter[Content]:
    """How often there is a record with this content."""
    return Counter(
        Content(each.partition(), each.key(), each.value(), tuple(each.headers() or ())) for each in messages
    )


def numbers_by_key(messages: list[Message], field: str) -> dict[bytes, list[int]]:
    """A field of the records' values, in order, by key."""
    found: dict[bytes, list[int]] = {}
    for message in messages:
        found.setdefault(message.key() or b"", []).append(json.loads(message.value() or b"")[field])
    return found


def test_exactly_once(kafka: Cluster) -> None:
    """Killed twice in the middle, it has made each invoice once for those who read what is committed, in key order."""
    orders = [{"id": number, "net": 100 * number} for number in range(3_000)]
    topic, output, group = new_topic(kafka, "orders"), new_topic(kafka, "invoices"), kafka.unique("invoices")
    kafka.produce(topic, [(b"customer-%d" % (each["id"] % 50), json.dumps(each).encode()) for each in orders])
    command = ("exactly_once.py", "--output", output, "--transactional-id", group)
    # Four at once, 5 ms each: after the second kill there are two seconds of work left for certain.
    slowly = settings(
        kafka, topic, group, PARALLEL_CONSUMER_MAX_CONCURRENCY="4", PARALLEL_CONSUMER_COMMIT_INTERVAL="0.1"
    )
    for enough in (200, 1_000):
        with example(*command, environment=slowly) as process:
            wait_until(lambda: count(kafka, output) >= enough)  # noqa: B023 - called before it changes
            assert process.poll() is None
            process.kill()
        assert len(read_committed(kafka, output)) < len(orders)
    with example(*command, environment=settings(kafka, topic, group)) as process:
        wait_until(lambda: is_done(kafka, topic, group))
        assert drain(process) == []

    invoices = read_committed(kafka, output)
    assert numbers_by_key(invoices, "order") == {b"customer-%d" % n: list(range(n, 3_000, 50)) for n in range(50)}
    assert sum(json.loads(each.value() or b"")["gross"] for each in invoices) == sum(120 * n for n in range(3_000))


@pytest.fixture(scope="module")
def postgres() -> Iterator[Mapping[str, str]]:
    """The variables by which libpq finds a database."""
    programs = find_programs()
    if programs is None:
        pytest.skip(INSTALL_HINT)
    with open_postgres(programs) as variables:
        yield variables


def test_orders_to_postgres(kafka: Cluster, postgres: Mapping[str, str]) -> None:
    """Killed in the middle of a transaction, with nothing committed to Kafka, it still counts each order once."""
    orders = [{"customer": f"customer-{number % 100}", "cents": number} for number in range(5_000)]
    orders[2_500]["customer"] = "customer-held"
    topic, group = new_topic(kafka, "orders"), kafka.unique("billing")
    dead_letters = new_dead_letter_topic(kafka, topic)
    environment = settings(kafka, topic, group, **postgres)
    never_commits = {**environment, "PARALLEL_CONSUMER_COMMIT_INTERVAL": "3600"}

    with connect(postgres) as database:

        def stored(table: str = "orders") -> int:
            (found,) = database.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)
            return int(found)

        with example("orders_to_postgres.py", environment=never_commits) as process:
            wait_until(lambda: stored("pg_tables WHERE tablename = 'customers'") == 1)
            # Whoever stores an order of this customer has to wait, in the middle of a transaction.
            with database.transaction(force_rollback=True):
                database.execute("INSERT INTO customers VALUES ('customer-held', 0)")
                kafka.produce(topic, [(str(each["customer"]).encode(), json.dumps(each).encode()) for each in orders])
                kafka.produce(topic, [(b"customer-0", b"not an order")])
                wait_until(lambda: stored() >= 2_000)
                process.kill()
                process.wait()
            assert 0 < stored() < len(orders)
        assert {offset for offset, _ in kafka.committed(group, topic).values()} == {0}  # where it started
        with example("orders_to_postgres.py", environment=environment) as process:
            wait_until(lambda: stored() == len(orders) and count(kafka, dead_letters) > 0)
            assert drain(process) == []

        assert is_done(kafka, topic, group)
        spent: Counter[str] = Counter()
        for each in orders:
            spent[str(each["customer"])] += int(str(each["cents"]))
        assert dict(database.execute("SELECT customer, spent FROM customers").fetchall()) == spent
        assert stored('(SELECT DISTINCT topic, partition, "offset" FROM orders) AS places') == len(orders)
    assert {each.value() for each in read_committed(kafka, dead_letters)} == {b"not an order"}


def test_dead_letters_and_their_replay(kafka: Cluster) -> None:
    """What can't be handled is put aside, and brought back as it was: once, in key order, whoever replays again."""
    payments = {number: "USD" if number % 3 == 0 else "EUR" for number in range(90)}
    topic, group, replay = new_topic(kafka, "payments"), kafka.unique("payments"), kafka.unique("replay")
    dead_letters = new_dead_letter_topic(kafka, topic)
    trace = [("trace", b"7")]
    kafka.produce(
        topic,
        [
            NewRecord(
                b"customer-%d" % (number % 10), json.dumps({"id": number, "currency": currency}).encode(), headers=trace
            )
            for number, currency in payments.items()
        ],
    )
    originals = contents(read_committed(kafka, topic))
    environment = settings(kafka, topic, group)

    with example("dead_letters.py", "--currencies", "EUR", environment=environment) as process:
        paid = lines(process, 60)
        wait_until(lambda: count(kafka, dead_letters) == 30)
        paid += drain(process)
    assert sorted(paid) == sorted(f"paid {number}" for number in payments if payments[number] == "EUR")

    replaying = ("replay_dead_letters.py", "--transactional-id", replay)
    with example("dead_letters.py", "--currencies", "EUR", "USD", environment=environment) as process:
        for brought_back in (30, 0):
            with example(*replaying, environment=settings(kafka, dead_letters, replay)) as tool:
                assert lines(tool, 1) == [f"brought back {brought_back}"]
                assert tool.wait(PATIENCE) == 0
        paid = lines(process, 30)
        paid += drain(process)
    numbers = [int(line.removeprefix("paid ")) for line in paid]
    assert sorted(numbers) == list(range(0, 90, 3))
    for customer in range(10):
        of_one = [number for number in numbers if number % 10 == customer]
        assert of_one == sorted(of_one)
    again = contents(read_committed(kafka, topic)) - originals
    assert again == Counter(each for each in originals if b"USD" in (each.value or b""))
