"""Headers whose names aren't UTF-8: other clients write them, and they must not bring this one down."""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Sequence

from confluent_kafka import cimpl
from embedded.kit import Handled, configured, handle_all, running

from trio_parallel_kafka import Record
from trio_parallel_kafka.testing import EmbeddedBroker

STRANGE = [(b"before", b"1"), (b"\xff\xfe", b"2"), (b"\xed\xa0\x80", None), (b"\xff\xfe", b"4"), (b"after", b"5")]
AS_READ = (("before", b"1"), ("\ufffd", b"2"), ("\ufffd", None), ("\ufffd", b"4"), ("after", b"5"))

_END, _TOPIC, _PARTITION, _VALUE, _MESSAGE_FLAGS, _HEADER = map(ctypes.c_int, (0, 1, 3, 4, 7, 9))
_COPIED = ctypes.c_int(2)


def send_with_headers(broker: EmbeddedBroker, headers: Sequence[tuple[bytes, bytes | None]]) -> None:
    """Produce a record to partition 1 of ``orders`` past the Python client, which takes text for names."""
    library = ctypes.CDLL(cimpl.__file__)
    library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = ctypes.c_void_p
    conf = ctypes.c_void_p(library.rd_kafka_conf_new())
    reason = ctypes.create_string_buffer(512)
    for name, value in ((b"bootstrap.servers", broker.bootstrap_servers.encode()), (b"linger.ms", b"0")):
        assert library.rd_kafka_conf_set(conf, name, value, reason, ctypes.c_size_t(512)) == 0, reason.value
    producer = ctypes.c_void_p(library.rd_kafka_new(0, conf, reason, ctypes.c_size_t(512)))
    assert producer.value, reason.value
    parts: list[object] = []
    for header, content in headers:
        size = ctypes.c_ssize_t(len(content or b""))
        parts += [_HEADER, ctypes.c_char_p(header), ctypes.c_char_p(content), size]
    place = (_TOPIC, ctypes.c_char_p(b"orders"), _PARTITION, ctypes.c_int32(1))
    value_parts = (_VALUE, ctypes.c_char_p(b"v"), ctypes.c_size_t(1), _MESSAGE_FLAGS, _COPIED)
    assert library.rd_kafka_producev(producer, *place, *value_parts, *parts, _END) == 0
    assert library.rd_kafka_flush(producer, ctypes.c_int(30_000)) == 0
    library.rd_kafka_destroy(producer)


async def test_strange_names_can_be_read(embedded_broker: EmbeddedBroker) -> None:
    """Each such name is one character, every time that it is read; values, and all other headers, are whole."""
    for _ in range(1000):  # the interpreter then takes a short cut, and overlooks what the client says
        assert Record("orders", 0, 0).headers == ()
    send_with_headers(embedded_broker, STRANGE)
    (record,) = (await handle_all(configured(embedded_broker), 1)).records
    for _ in range(3):
        assert record.headers == AS_READ


async def test_strange_names_can_be_sent_to_a_process(embedded_broker: EmbeddedBroker) -> None:
    """A copy that was pickled has the same headers."""
    send_with_headers(embedded_broker, STRANGE)
    (record,) = (await handle_all(configured(embedded_broker), 1)).records
    assert pickle.loads(pickle.dumps(record)).headers == AS_READ
    assert record.headers == AS_READ


async def test_dead_letter_with_strange_names(embedded_broker: EmbeddedBroker) -> None:
    """A record that fails goes to the dead letters, though its handler and the dead letter look at its headers."""

    async def look(record: Record) -> None:
        raise ValueError(dict(record.headers))

    embedded_broker.create_topic("orders.dlt", 1)
    send_with_headers(embedded_broker, STRANGE)
    dead_letters = Handled()
    async with (
        running(configured(embedded_broker, on_failure="dead_letter"), look),
        running(configured(embedded_broker, topics="orders.dlt", group_id="dead"), dead_letters),
    ):
        await dead_letters.wait(1)
    assert dead_letters.records[0].headers[: len(AS_READ)] == AS_READ
