"""What a producer's configuration takes, what it refuses and why, and what its client is created with."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
from config.known_names import names_that_text_can_set
from confluent_kafka import Producer

from trio_parallel_kafka.config import ProducerConfig
from trio_parallel_kafka.config.producer import producer_for, producer_properties
from trio_parallel_kafka.config.property_names import PRODUCER_PROPERTY_NAMES
from trio_parallel_kafka.errors import ConfigError


def config(kafka: dict[str, Any] | None = None, **fields: Any) -> ProducerConfig:
    """Make one with these properties."""
    return ProducerConfig(**{"bootstrap_servers": "localhost:1", "kafka": kafka or {}, **fields})


def problems(kafka: dict[str, Any] | None = None, **fields: Any) -> tuple[str, ...]:
    """Make one that is refused, and say why it is."""
    with pytest.raises(ConfigError) as caught:
        config(kafka, **fields)
    return caught.value.problems


def create_client(properties: dict[str, Any]) -> None:
    """Create a client of these properties, and close it."""
    with closing(Producer({"log_level": 0, **properties})):
        pass


def test_the_defaults() -> None:
    """Servers are all that has to be given; they may come as a sequence."""
    made = config(bootstrap_servers=["one:9092", " two "])
    assert made.bootstrap_servers == "one:9092,two"
    assert (made.delivery_timeout, made.connect_timeout, made.close_timeout) == (30.0, 15.0, 10.0)
    assert (made.serialize_key, made.serialize_value) == (None, None)
    assert hash(made) == hash(attrs.evolve(made))


def test_what_the_client_gets() -> None:
    """By default records are written once, in order, and a misspelt topic isn't made."""
    properties = producer_properties(config())
    assert properties["bootstrap.servers"] == "localhost:1"
    assert properties["enable.idempotence"] == "true"
    assert properties["allow.auto.create.topics"] == "false"
    assert properties["client.id"] == "trio-parallel-kafka"
    assert properties["message.timeout.ms"] == "30000"
    create_client(properties)


def test_what_the_user_sets_otherwise() -> None:
    """What is tuned gives way, in the spelling of librdkafka; the timeout is at least its smallest unit."""
    kafka = {"enable.idempotence": False, "acks": 1, "linger.ms": 5.0, "reconnect.backoff.ms": 5000}
    properties = producer_properties(config(kafka, delivery_timeout=0.0001))
    assert properties["enable.idempotence"] == "false"
    assert properties["linger.ms"] == "5"
    assert properties["message.timeout.ms"] == "1"
    assert "reconnect.backoff.max.ms" not in properties
    create_client({**properties, "message.timeout.ms": "6"})


def test_all_faults_at_once() -> None:
    """Each fault is named with its field, the value and the fix."""

    async def serialize(_data: object, _context: object) -> bytes:
        return b""

    found = problems(
        {"linger": 5, "linger.ms": "5s", "sasl.password": 3.5j},
        bootstrap_servers="a b",
        delivery_timeout=0,
        connect_timeout=-1,
        close_timeout="soon",
        serialize_key=serialize,
        serialize_value=b"",
    )
    assert [problem.partition(": ")[0] for problem in found] == [
        *("bootstrap_servers", "delivery_timeout", "connect_timeout", "close_timeout"),
        *("serialize_key", "serialize_value"),
        *("kafka['linger']", "kafka['linger.ms']", "kafka['sasl.password']"),
    ]
    assert found[4].startswith("serialize_key: must not be async")
    assert found[6].endswith("did you mean 'linger.ms'?")
    (problem,) = problems(kafka=["linger.ms"])  # type: ignore[arg-type]
    assert problem == "kafka: must be a mapping of librdkafka properties, is of type list"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bootstrap.servers", "use the field bootstrap_servers"),
        ("message.timeout.ms", "use the field delivery_timeout"),
        ("topic.delivery.timeout.ms", "use the field delivery_timeout"),
        ("transactional.id", "use delivery='exactly_once'"),
        ("delivery.report.only.error", "would wait for ever"),
        ("on_delivery", "the library needs this callback"),
        ("dr_cb", "the library needs this callback"),
        ("error_cb", "the library needs this callback"),
        ("group.id", "it is for consumers"),
        ("fetch.min.bytes", "it is for consumers"),
    ],
)
def test_what_is_refused(name: str, reason: str) -> None:
    """What would break a promise, or do nothing, is refused with the reason."""
    (problem,) = problems({name: "1"})
    assert problem.startswith(f"kafka['{name}']: is refused: ")
    assert reason in problem


@pytest.mark.parametrize(
    ("kafka", "needed"),
    [
        ({"acks": 1}, "all"),
        ({"request.required.acks": "0"}, "all"),
        ({"max.in.flight": 6}, "5 at most"),
        ({"max.in.flight.requests.per.connection": "6"}, "5 at most"),
        ({"retries": 0}, "1 at least"),
        ({"message.send.max.retries": 0}, "1 at least"),
        ({"queuing.strategy": "lifo"}, "fifo"),
    ],
)
def test_what_idempotence_needs(kafka: dict[str, Any], needed: str) -> None:
    """What the client would refuse with idempotence, and only then, is named by its field."""
    ((name, value),) = kafka.items()
    (problem,) = problems(kafka)
    assert problem.startswith(f"kafka['{name}']: must be {needed}, is {value!r}")
    assert problems({**kafka, "enable.idempotence": "TRUE"}) == (problem,)
    for off in (False, "False", "f", "0"):
        create_client(producer_properties(config({**kafka, "enable.idempotence": off})))


@pytest.mark.parametrize(
    "kafka",
    [
        {"acks": "all"},
        {"acks": -1},
        {"max.in.flight": 5},
        {"retries": 1},
        {"queuing.strategy": "fifo"},
        {"compression.type": "lz4", "partitioner": "murmur2_random"},
        {"queue.buffering.max.ms": 3},
    ],
)
def test_what_the_client_takes_is_not_refused(kafka: dict[str, Any]) -> None:
    """At the edge of the rules, the client and the configuration agree as well."""
    create_client(producer_properties(config(kafka)))


def test_secrets_do_not_show() -> None:
    """Neither a password nor a token's source is in the repr."""
    shown = repr(config({"sasl.password": "hunter2", "client.id": "me"}))
    assert "hunter2" not in shown
    assert "me" in shown


def test_a_producer_for_a_consumer() -> None:
    """It connects as the consumer does, and leaves to the broker what is too large; the rest is not its own."""
    made = producer_for("localhost:1", {"client.id": "me", "ssl.ca.pem": "x", "fetch.min.bytes": 2, "debug": "msg"})
    assert dict(made.kafka) == {"client.id": "me", "ssl.ca.pem": "x", "debug": "msg", "message.max.bytes": 10**9}
    assert producer_for("localhost:1", {"message.max.bytes": 5000}).kafka["message.max.bytes"] == 5000
    create_client(producer_properties(producer_for("localhost:1", {})))


@pytest.mark.skipif(sys.platform != "linux", reason="on Linux, the binding's library gives access to librdkafka's")
def test_the_known_names_are_those_of_librdkafka(tmp_path: Path) -> None:
    """Every name that is proposed exists, and none that text can set is missing."""
    assert names_that_text_can_set("P", tmp_path / "properties") == PRODUCER_PROPERTY_NAMES
