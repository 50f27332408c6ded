"""Serialisers and deserialisers on a real broker."""

from __future__ import annotations

import json
from typing import Any

from broker.cluster import Cluster, NewRecord
from broker.scenario import committed_offsets, configured, running, topic_with, until

from trio_parallel_kafka import ProducerConfig, ProducerRecord, Record


def from_json(data: bytes | None, _context: object) -> Any:
    """Deserialise; what isn't JSON raises."""
    return json.loads(data or b"null")


def to_json(data: object, _context: object) -> bytes:
    """Serialise."""
    return json.dumps(data).encode()


async def test_what_cannot_be_decoded_is_buried_raw(kafka: Cluster) -> None:
    """Handlers get and return objects; a value that is no JSON goes to the dead letters with its bytes as they were."""
    topic = topic_with(kafka, [NewRecord(b"key", value, 0) for value in (b'{"n": 1}', b"{", b'{"n": 3}')])
    kafka.create_topic(f"{topic}.dlt")
    kafka.create_topic(f"{topic}-doubled")
    config = configured(
        kafka,
        topic,
        on_failure="dead_letter",
        deserialize_value=from_json,
        producer=ProducerConfig(bootstrap_servers=kafka.bootstrap_servers, serialize_value=to_json),
    )

    async def double(record: Record[bytes | None, dict[str, int]]) -> ProducerRecord:
        return ProducerRecord(f"{topic}-doubled", {"n": 2 * record.value["n"]}, key=record.key)

    async with running(config, double) as pc:
        await until(lambda: pc.statistics().totals.completed == 3)
    assert [each.value() for each in kafka.read(f"{topic}-doubled")] == [b'{"n": 2}', b'{"n": 6}']
    (buried,) = kafka.read(f"{topic}.dlt")
    assert (buried.key(), buried.value()) == (b"key", b"{")
    assert dict(buried.headers() or [])["kafka_dlt-exception-fqcn"] == b"trio_parallel_kafka.errors.SerializationError"
    assert committed_offsets(kafka, config) == {0: 3}
