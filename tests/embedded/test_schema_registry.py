"""confluent-kafka's serialisers and deserialisers, as they are, with a schema registry that takes its time."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs
import pytest
import trio
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import SerializationContext, StringDeserializer
from embedded.kit import PATIENCE, Handled, configured, handle_all, running
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from trio_parallel_kafka import Record, parallel_consumer
from trio_parallel_kafka.errors import SerializationError
from trio_parallel_kafka.execution.decoding import Decoder
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producing.encoding import Encoder
from trio_parallel_kafka.testing import EmbeddedBroker

ANSWER_TAKES = 1.0
"""Seconds that the slow registry takes for each answer."""

BLOCKED = 0.5
"""Seconds for which only a call that waits for the registry holds the loop up; a busy machine's gaps are far below."""

AVRO = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "item", "type": "string"}]})
JSON = json.dumps({"title": "Order", "type": "object", "properties": {"item": {"type": "string"}}})


Field = descriptor_pb2.FieldDescriptorProto


def _protobuf_order() -> Any:
    """The class that a compiler makes of ``message Order { string item = 1; }``."""
    field = Field(name="item", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    order = descriptor_pb2.DescriptorProto(name="Order", field=[field])
    file = descriptor_pb2.FileDescriptorProto(name="order.proto", syntax="proto3", message_type=[order])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Order"))


Order = _protobuf_order()


class Registry(ThreadingHTTPServer):
    """As much of a schema registry as the client asks for."""

    daemon_threads = True

    def __init__(self, delay: float) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.delay = delay
        self.requests: list[str] = []
        self.schemas: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._is_closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def client(self) -> SchemaRegistryClient:
        """A client that knows no schema yet."""
        return SchemaRegistryClient({"url": self.url, "timeout": PATIENCE})

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        """What the registry says, after a while."""
        with self._lock:
            self.requests.append(f"{method} {path.partition('?')[0]}")
        self._is_closing.wait(self.delay)
        with self._lock:
            match method, *path.partition("?")[0].strip("/").split("/"):
                case "POST", "subjects", subject, "versions":
                    number = len(self.schemas) + 1
                    guid = str(uuid.UUID(int=number))
                    self.schemas.append({**body, "id": number, "guid": guid, "subject": subject, "version": 1})
                    return 200, self.schemas[-1]
                case "GET", "schemas", "ids" | "guids", named:
                    for schema in self.schemas:
                        if named in {str(schema["id"]), schema["guid"]}:
                            return 200, schema
        return 404, {"error_code": 40401, "message": "there is none"}

    def close(self) -> None:
        self._is_closing.set()
        self.shutdown()
        self.server_close()


class Requests(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self._answer("GET", None)

    def do_POST(self) -> None:
        self._answer("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, method: str, body: Any) -> None:
        status, content = self.server.answer(method, self.path, body)
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def open_registry() -> Iterator[Callable[[float], Registry]]:
    """Start registries that take so many seconds for each answer."""
    started: list[tuple[Registry, threading.Thread]] = []

    def start(delay: float) -> Registry:
        registry = Registry(delay)
        thread = threading.Thread(target=registry.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        started.append((registry, thread))
        return registry

    yield start
    for registry, thread in started:
        registry.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


Serialize = Callable[[Any, SerializationContext], bytes | None]
Deserialize = Callable[[bytes | None, SerializationContext], Any]


@attrs.frozen
class Format:
    """One of confluent-kafka's formats."""

    value: Any
    serializer: Callable[..., Serialize]
    deserializer: Callable[[SchemaRegistryClient], Deserialize]


FORMATS = {
    "avro": Format(
        {"item": "green tea"}, lambda client, **more: AvroSerializer(client, AVRO, **more), AvroDeserializer
    ),
    "json": Format(
        {"item": "green tea"},
        lambda client, **more: JSONSerializer(JSON, client, **more),
        lambda client: JSONDeserializer(None, schema_registry_client=client),
    ),
    "protobuf": Format(
        Order(item="green tea"),
        lambda client, **more: ProtobufSerializer(Order, client, **more),
        lambda client: ProtobufDeserializer(Order, schema_registry_client=client),
    ),
}


class Heart:
    """Beats all the time, and remembers its longest pause."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def beat(self) -> None:
        last = trio.current_time()
        while True:
            await trio.sleep(0.002)
            now = trio.current_time()
            self.worst = max(self.worst, now - last)
            last = now


def produce(broker: EmbeddedBroker, *records: ProducerRecord) -> None:
    """Send raw records."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 0, "log_level": 0})
    for record in records:
        producer.produce(record.topic, key=record.key, value=record.value, headers=list(record.headers), partition=0)
    assert producer.flush(PATIENCE) == 0


async def there_and_back(broker: EmbeddedBroker, name: str, serialize: Serialize, deserialize: Deserialize) -> None:
    """Serialise 100 records of 10 keys, produce and consume them; both sides start without any schema."""
    value = FORMATS[name].value
    encode = Encoder(None, serialize)
    sent = [await encode(ProducerRecord(name, value, key=b"%d" % (number % 10))) for number in range(100)]
    await trio.to_thread.run_sync(produce, broker, *sent)
    handled = Handled()
    config = configured(
        broker, topics=name, group_id=name, deserialize_key=StringDeserializer(), deserialize_value=deserialize
    )
    async with running(config, handled):
        await handled.wait(100)
    records: list[Record[Any, Any]] = [*handled.records]
    assert [record.value for record in records] == [value] * 100
    assert {record.key for record in records} == {str(number) for number in range(10)}
    assert {record.raw_value for record in records} == {sent[0].value}


async def test_the_loop_runs_while_the_registry_is_asked(
    embedded_broker: EmbeddedBroker, open_registry: Callable[[float], Registry]
) -> None:
    """No look-up of a schema, a second each, blocks the Trio loop, whatever the format, and none is repeated."""
    registry = open_registry(ANSWER_TAKES)
    # Making a client reads certificates, which takes 20 ms and more and isn't what is measured here.
    made = {
        name: (form.serializer(registry.client()), form.deserializer(registry.client()))
        for name, form in FORMATS.items()
    }
    heart = Heart()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heart.beat)
            async with trio.open_nursery() as formats:
                for name, both in made.items():
                    formats.start_soon(there_and_back, embedded_broker, name, *both)
            nursery.cancel_scope.cancel()
    print(f"worst gap of the heartbeat: {heart.worst * 1000:.1f} ms, registry asked {len(registry.requests)} times")
    assert heart.worst < BLOCKED
    for request in ("POST /subjects/", "GET /schemas/ids/"):
        assert len([each for each in registry.requests if each.startswith(request)]) == len(FORMATS)


async def test_a_plain_function_that_blocks(embedded_broker: EmbeddedBroker) -> None:
    """Neither does a function of the user's own that blocks for a second at its first call."""
    produce(embedded_broker, *(ProducerRecord("orders", b"%d" % number) for number in range(20)))
    calls: list[bytes | None] = []

    def number_of(data: bytes | None, _context: SerializationContext) -> int:
        calls.append(data)
        if len(calls) == 1:
            threading.Event().wait(ANSWER_TAKES)
        return int(data or 0)

    heart = Heart()
    handled = Handled()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heart.beat)
        async with running(configured(embedded_broker, deserialize_value=number_of), handled):
            await handled.wait(20)
        nursery.cancel_scope.cancel()
    print(f"worst gap of the heartbeat: {heart.worst * 1000:.1f} ms")
    assert heart.worst < BLOCKED
    records: list[Record[Any, Any]] = [*handled.records]
    assert sorted(record.value for record in records) == list(range(20))


@pytest.mark.parametrize("name", ["avro", "json"])
async def test_the_schema_in_a_header(name: str, open_registry: Callable[[float], Registry]) -> None:
    """A serialiser that names its schema in a header works, and so does the deserialiser that finds it there."""
    registry = open_registry(0.0)
    form = FORMATS[name]
    conf = {"schema.id.serializer": header_schema_id_serializer}
    sent = await Encoder(None, form.serializer(registry.client(), conf=conf))(ProducerRecord("orders", form.value))
    assert [header for header, _ in sent.headers] == ["__value_schema_id"]
    decode = Decoder(None, form.deserializer(registry.client()))
    for offset in range(2):
        record = await decode(Record("orders", 0, offset, value=sent.value, headers=sent.headers))
        assert record.value == form.value
    assert [request for request in registry.requests if "guids" in request] == [
        f"GET /schemas/guids/{uuid.UUID(int=1)}"
    ]


async def test_what_was_not_made_by_the_serialiser(
    embedded_broker: EmbeddedBroker, open_registry: Callable[[float], Registry]
) -> None:
    """A value that the deserialiser can't read is the attempt's failure: without a policy, run() ends with it."""
    registry = open_registry(0.0)
    produce(embedded_broker, ProducerRecord("orders", b"no avro", key=b"k"))
    handled = Handled()
    config = configured(embedded_broker, deserialize_value=AvroDeserializer(registry.client()))
    with trio.fail_after(PATIENCE), pytest.RaisesGroup(SerializationError) as caught:
        async with parallel_consumer(config) as pc:
            await pc.run(handled)
    (error,) = caught.value.exceptions
    assert str(error) == "the value of orders[0]@0 can't be deserialised"
    assert error.__cause__ is not None
    assert not handled.records


async def test_its_dead_letter(embedded_broker: EmbeddedBroker, open_registry: Callable[[float], Registry]) -> None:
    """Its dead letter has the raw key and value, whatever became of the key; later records are handled."""
    registry = open_registry(0.0)
    form = FORMATS["avro"]
    good = await Encoder(None, form.serializer(registry.client()))(ProducerRecord("orders", form.value, key="k"))
    produce(
        embedded_broker,
        ProducerRecord("orders.dlt", b"there is such a topic", key=b"first"),
        ProducerRecord("orders", b"no avro", key=b"k"),
        good,
    )
    config = configured(
        embedded_broker,
        deserialize_key=StringDeserializer(),
        deserialize_value=form.deserializer(registry.client()),
        on_failure="dead_letter",
    )
    records: list[Record[Any, Any]] = [*(await handle_all(config, 1)).records]
    assert [(record.offset, record.key, record.value) for record in records] == [(1, "k", form.value)]
    dead = await handle_all(configured(embedded_broker, topics="orders.dlt", group_id="undertaker"), 2)
    assert {(record.key, record.value) for record in dead.records} == {
        (b"first", b"there is such a topic"),
        (b"k", b"no avro"),
    }


async def test_a_schema_that_the_registry_lacks(open_registry: Callable[[float], Registry]) -> None:
    """A value that names an unknown schema can't be deserialised; once the schema is there, it can."""
    registry = open_registry(0.0)
    form = FORMATS["avro"]
    sent = await Encoder(None, form.serializer(registry.client()))(ProducerRecord("orders", form.value))
    schemas, registry.schemas = registry.schemas, []
    decode = Decoder(None, form.deserializer(registry.client()))
    with pytest.raises(SerializationError):
        await decode(Record("orders", 0, 0, value=sent.value))
    registry.schemas = schemas
    assert (await decode(Record("orders", 0, 0, value=sent.value))).value == form.value
