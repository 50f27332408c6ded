"""The programs in examples/ work, as far as the embedded broker goes; tests/broker has those that need a real Kafka."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from confluent_kafka import Consumer, Message, Producer
from embedded.kit import send
from programs import drain, example, lines

from trio_parallel_kafka.testing import EmbeddedBroker, open_embedded_broker


def settings(broker: EmbeddedBroker, **more: str) -> Mapping[str, str]:
    """The environment of a program that reads the topic ``orders``."""
    return {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "KAFKA_CONSUMER_GROUP": "billing",
        "KAFKA_TOPICS": "orders",
        "PARALLEL_CONSUMER_KAFKA_GROUP_PROTOCOL": "consumer",
        **more,
    }


def test_graceful(embedded_broker: EmbeddedBroker) -> None:
    """It handles what is there, drains on SIGTERM and ends well."""
    send(embedded_broker, 20)
    with example("graceful.py", environment=settings(embedded_broker)) as process:
        handled = {line.split()[0] for line in lines(process, 20)}
        drain(process)
    assert handled == {f"orders[{number % 2}]@{number // 2}" for number in range(20)}


class Service(ThreadingHTTPServer):
    """A service that knows all customers but "unknown". Of six requests for one, it refuses one and hangs at one."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.failures = 0
        self.requests: Counter[str] = Counter()
        self.is_over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Service

    def do_GET(self) -> None:
        customer = unquote(self.path.removeprefix("/customers/"))
        self.server.requests[customer] += 1
        turn = (len(customer) + self.server.requests[customer]) % 6
        if customer == "unknown":
            self.answer(404, b"who?")
        elif turn == 1:
            self.server.failures += 1
            self.answer(503, b"busy")
        elif turn == 3:
            self.server.failures += 1
            self.server.is_over.wait()
        else:
            self.answer(200, json.dumps({"name": customer.upper()}).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Say nothing."""


@contextmanager
def open_service() -> Iterator[Service]:
    """Answer HTTP requests for the length of a block."""
    with Service() as service:
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield service
        finally:
            service.is_over.set()
            service.shutdown()
            thread.join()


def read(broker: EmbeddedBroker, topic: str, count: int) -> list[Message]:
    """Wait for so many records of a topic, and a moment longer for those that shouldn't come."""
    reader = Consumer(
        {"bootstrap.servers": broker.bootstrap_servers, "group.id": f"reader-of-{topic}", "log_level": 0}
        | {"auto.offset.reset": "earliest", "group.protocol": "consumer", "fetch.wait.max.ms": 5}
    )
    try:
        reader.subscribe([topic])
        return [*reader.consume(count, 60), *reader.consume(1, 0.3)]
    finally:
        reader.close()


def by_name(enriched: dict[str, Any]) -> str:
    """Whose order it is."""
    return str(enriched["customer"]["name"])


def test_enrichment() -> None:
    """Every order is enriched once, in the order of its key, though the service fails; what it refuses is kept."""
    orders = [{"order": number, "customer": "jo#" + "o" * (number % 20)} for number in range(120)]
    refused = [b'{"customer": "unknown"}', b"not JSON", b'{"customer": 7}']
    with open_service() as service, open_embedded_broker({"orders": 2, "orders.dlt": 1, "enriched": 2}) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
        for order in orders:
            producer.produce("orders", key=str(order["customer"]), value=json.dumps(order))
        for value in refused:
            producer.produce("orders", value=value)
        assert producer.flush(60) == 0
        with example(
            *("enrichment.py", "--service", service.url, "--output", "enriched", "--patience", "0.3"),
            environment=settings(broker, PARALLEL_CONSUMER_MAX_CONCURRENCY="32"),
        ) as process:
            results = read(broker, "enriched", len(orders))
            dead_letters = read(broker, "orders.dlt", len(refused))
            drain(process)

    enriched = [json.loads(message.value() or b"") for message in results]
    # Of one customer in order, of several in any.
    assert sorted(enriched, key=by_name) == sorted(
        ({**order, "customer": {"name": str(order["customer"]).upper()}} for order in orders), key=by_name
    )
    reasons = {message.value(): dict(message.headers() or ())["kafka_dlt-reason"] for message in dead_letters}
    assert sorted(message.value() or b"" for message in dead_letters) == sorted(refused)
    assert b"404" in (reasons[refused[0]] or b"")
    assert service.failures >= len(orders) / 3


def test_fingerprints() -> None:
    """Each document's fingerprint is made in a worker process and sent on, in the order of its key."""
    documents = [(f"customer-{number % 5}", f"document {number}") for number in range(30)]
    with open_embedded_broker({"orders": 2, "orders.dlt": 1, "prints": 1}) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
        for key, value in documents:
            producer.produce("orders", key=key, value=value)
        assert producer.flush(60) == 0
        with example("fingerprints.py", "--output", "prints", environment=settings(broker)) as process:
            results = read(broker, "prints", len(documents))
            drain(process)

    def print_of(value: str) -> bytes:
        return hashlib.scrypt(value.encode(), salt=b"fingerprints", n=2**13, r=8, p=1, dklen=16).hex().encode()

    made: dict[bytes | None, list[bytes | None]] = {}
    for message in results:
        made.setdefault(message.key(), []).append(message.value())
    expected: dict[bytes | None, list[bytes | None]] = {}
    for key, value in documents:
        expected.setdefault(key.encode(), []).append(print_of(value))
    assert made == expected
