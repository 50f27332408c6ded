"""Sending on a real broker: what it refuses, an outage, and how few crossings 100,000 sends need."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from typing import Any

import pytest
import trio
from broker.cluster import ANSWER_TIMEOUT, Cluster
from broker.kafka_server import KafkaServer, StartKafka
from broker.scenario import PATIENCE
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType
from embedded.producer_kit import sender_of

from trio_parallel_kafka.config import ProducerConfig
from trio_parallel_kafka.errors import AuthenticationError, DeliveryError, KafkaError, RecordTooLargeError
from trio_parallel_kafka.producer import Producer, open_producer

FAST = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200}


def sending(kafka: Cluster, /, **fields: Any) -> ProducerConfig:
    """A configuration for this cluster."""
    return ProducerConfig(bootstrap_servers=kafka.bootstrap_servers, **fields)


def read(kafka: Cluster, topic: str) -> dict[int, list[Message]]:
    """All that was written to a topic, by partition."""
    reader = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "reader", "log_level": 0})
    ends = kafka.end_offsets(topic)
    found: dict[int, list[Message]] = {partition: [] for partition in ends}
    try:
        reader.assign([TopicPartition(topic, partition, 0) for partition in ends])
        while any(len(found[partition]) < end for partition, end in ends.items()):
            message = reader.poll(ANSWER_TIMEOUT)
            assert message is not None, "the broker is silent"
            if message.error() is None:
                found[message.partition() or 0].append(message)
    finally:
        reader.close()
    return found


async def test_a_record_arrives(kafka: Cluster) -> None:
    """The broker has the record with all its parts, and send() says where and when."""
    topic = kafka.unique("sent")
    kafka.create_topic(topic, 2, {"retention.ms": "-1"})  # or the broker may delete a record from 1970 at once
    began = time.time()
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(kafka)) as producer:
            headers = [("trace", b"1"), ("trace", None)]
            first = await producer.send(topic, b"v", key=b"k", headers=headers, partition=1, timestamp=1234.5)
            second = await producer.send(topic, partition=1)
    assert (first.topic, first.partition, first.offset, first.timestamp) == (topic, 1, 0, 1234.5)
    assert second.offset == 1
    assert second.timestamp is not None
    assert began - 1 <= second.timestamp <= time.time() + 1
    message, empty = read(kafka, topic)[1]
    assert (message.key(), message.value(), message.headers()) == (b"k", b"v", headers)
    assert (empty.key(), empty.value()) == (None, None)


async def test_what_the_broker_refuses(kafka: Cluster) -> None:
    """A missing topic, a partition that isn't there and a record too large for its topic are told by name."""
    topic, missing = kafka.unique("small"), kafka.unique("missing")
    kafka.create_topic(topic, 1, {"max.message.bytes": "1000"})
    with trio.fail_after(PATIENCE):
        async with open_producer(sending(kafka)) as producer:
            with pytest.raises(DeliveryError, match=f"the topic isn't there; make it, .*{missing}"):
                await producer.send(missing, b"1")
            with pytest.raises(DeliveryError, match="has no such partition"):
                await producer.send(topic, b"1", partition=1)
            with pytest.raises(RecordTooLargeError, match="of the topic allows") as caught:
                await producer.send(topic, b"x" * 2000)
            kafka.create_topic(missing)
            deadline = trio.current_time() + PATIENCE
            while trio.current_time() < deadline:
                try:
                    await producer.send(missing, b"made meanwhile")
                except DeliveryError:
                    await trio.sleep(0.05)
                else:
                    break
            await producer.send(topic, b"1")
    assert isinstance(caught.value, DeliveryError)
    assert (caught.value.topic, caught.value.partition) == (topic, 0)
    assert [message.value() for message in read(kafka, missing)[0]] == [b"made meanwhile"]


def allow_writing(kafka: Cluster, user: str, topic: str) -> None:
    """Let a user write to a topic."""
    rule = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, f"User:{user}", "*")
    granted = AclBinding(*rule, AclOperation.WRITE, AclPermissionType.ALLOW)
    for future in kafka.admin.create_acls([granted]).values():
        future.result(ANSWER_TIMEOUT)


async def test_who_may_not(secured_kafka: KafkaServer) -> None:
    """A wrong password is told at the start; a missing ACL with the record, and once it is there, it works."""
    kafka = Cluster(secured_kafka.admin_bootstrap_servers)
    topic, other = kafka.unique("allowed"), kafka.unique("forbidden")
    kafka.create_topic(topic)
    kafka.create_topic(other)

    def as_alice(password: str | None = None) -> ProducerConfig:
        login = secured_kafka.login("alice", password)
        return ProducerConfig(bootstrap_servers=secured_kafka.bootstrap_servers, kafka=login)

    with trio.fail_after(PATIENCE), pytest.raises(AuthenticationError, match=r"sasl\.password"):
        async with open_producer(as_alice("wrong")):
            pytest.fail("it opened")
    allow_writing(kafka, "alice", topic)
    with trio.fail_after(PATIENCE):
        while True:  # the broker hears of the ACL a little later
            try:
                async with open_producer(as_alice()) as producer:
                    await producer.send(topic, b"1")
                    with pytest.raises(DeliveryError, match="an ACL is missing: WRITE on the topic"):
                        await producer.send(other, b"2")
            except KafkaError:
                await trio.sleep(0.1)
            else:
                break
    assert [message.value() for message in read(kafka, topic)[0]] == [b"1"]


async def test_an_outage(private_kafka: StartKafka) -> None:
    """A broker that is killed and comes back: what was acknowledged is there, once and in order; no topic is made."""
    server = private_kafka(properties={"auto.create.topics.enable": "true"})
    kafka = Cluster(server.bootstrap_servers)
    kafka.create_topic("orders", 2)
    acknowledged = dict.fromkeys(range(10), 0)
    stopping = trio.Event()

    async def send(producer: Producer, key: int) -> None:
        number = 0
        while not stopping.is_set():
            await producer.send("orders", b"%d" % number, key=b"%d" % key)
            acknowledged[key] = number = number + 1

    async def progress() -> None:
        goals = {key: acknowledged[key] + 20 for key in acknowledged}
        while any(acknowledged[key] < goal for key, goal in goals.items()):
            await trio.sleep(0.01)

    with trio.fail_after(PATIENCE):
        async with open_producer(sending(kafka, kafka=FAST)) as producer:
            with pytest.raises(DeliveryError, match="the topic isn't there"):
                await producer.send("misspelt", b"1")
            async with trio.open_nursery() as nursery:
                for key in acknowledged:
                    nursery.start_soon(send, producer, key)
                await progress()
                await trio.to_thread.run_sync(server.kill)
                await trio.to_thread.run_sync(server.start_again)
                await progress()
                stopping.set()
    found: defaultdict[int, list[int]] = defaultdict(list)
    for message in [message for partition in read(kafka, "orders").values() for message in partition]:
        found[int(message.key() or b"")].append(int(message.value() or b""))
    assert found == {key: list(range(count)) for key, count in acknowledged.items()}
    with pytest.raises(KeyError):
        kafka.admin.list_topics(timeout=ANSWER_TIMEOUT).topics["misspelt"]


@pytest.mark.performance
async def test_sends_per_second(kafka: Cluster) -> None:
    """100,000 sends at once cross from the client's thread fewer than 1,000 times."""
    topic = kafka.unique("many")
    kafka.create_topic(topic, 8)
    with trio.fail_after(4 * PATIENCE):
        async with open_producer(sending(kafka)) as producer:
            await producer.send(topic, b"warm")
            for tasks, each in ((1, 200), (1000, 20), (100_000, 1)):
                crossings, began = sender_of(producer).crossings, time.perf_counter()
                async with trio.open_nursery() as nursery:
                    for _ in range(tasks):
                        nursery.start_soon(functools.partial(_send, producer, topic, each))
                crossings, seconds = sender_of(producer).crossings - crossings, time.perf_counter() - began
                print(f"{tasks} tasks: {tasks * each / seconds:.0f} sends/s, {crossings} crossings")
                assert crossings < 1000
    assert sum(kafka.end_offsets(topic).values()) == 120_201


async def _send(producer: Producer, topic: str, count: int) -> None:
    for _ in range(count):
        await producer.send(topic, bytes(100))
