"""What Kafka refuses, and what users get wrong, on a real broker: a clear error in bounded time, nothing lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from broker.cluster import Cluster
from broker.kafka_server import KafkaServer
from broker.scenario import (
    PATIENCE,
    Notes,
    committed_offsets,
    configured,
    handled,
    numbered,
    running,
    topic_with,
    until,
    values,
)
from confluent_kafka import KafkaException

from trio_parallel_kafka import (
    AuthenticationError,
    AuthorizationError,
    BrokerUnreachableError,
    ConsumerBusyError,
    ConsumerClosedError,
    ConsumerConfig,
    InvalidHandlerError,
    KafkaError,
    Record,
    TopicNotFoundError,
    parallel_consumer,
)


@contextmanager
def refused(kind: type[KafkaError], match: str) -> Iterator[pytest.ExceptionInfo[KafkaError]]:
    """The block raises such an error within reasonable time, with the client's own as its cause if it has one."""
    with pytest.raises(kind, match=match) as caught, trio.fail_after(PATIENCE):
        yield caught
    assert type(caught.value) is kind
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, KafkaException)


async def consume(config: ConsumerConfig) -> None:
    """Consume until something ends it."""
    async with parallel_consumer(config) as pc:
        await pc.run(Notes())


# What isn't there


async def test_no_such_topic(kafka: Cluster) -> None:
    """A topic that doesn't exist is an error that names it, and isn't created."""
    there, missing = topic_with(kafka, []), kafka.unique("missing")
    with refused(TopicNotFoundError, f"topic '{missing}' isn't there") as caught:
        await consume(configured(kafka, there, missing))
    assert (caught.value.topic, caught.value.partition) == (missing, None)
    assert missing not in kafka.admin.list_topics(timeout=30).topics


async def test_no_broker() -> None:
    """Where nothing listens, the error names the address and the bound."""
    config = ConsumerConfig(
        bootstrap_servers="127.0.0.1:19", group_id="billing", topics="orders", connect_timeout=1, close_timeout=3
    )
    with refused(BrokerUnreachableError, r"127\.0\.0\.1:19 within 1(\.0)? s \(connect_timeout\)") as caught:
        await consume(config)
    assert isinstance(caught.value.__cause__, KafkaException)


async def test_topic_deleted_while_running(kafka: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """A topic that is deleted under a consumer is logged; the consumer stays up, and other topics go on."""
    gone, stays = topic_with(kafka, numbered(0, 5)), topic_with(kafka, numbered(0, 5))
    config = configured(kafka, gone, stays, kafka={"topic.metadata.refresh.interval.ms": 500})
    notes = Notes()
    async with running(config, notes) as pc:
        await notes.wait_done(10)
        caplog.clear()
        await trio.to_thread.run_sync(kafka.delete_topic, gone)
        await until(lambda: gone in caplog.text)
        await trio.to_thread.run_sync(kafka.produce, stays, numbered(5, 10))
        await notes.wait_done(15)
        assert pc.statistics().state == "running"
        await until(lambda: [each.topic for each in pc.statistics().partitions] == [stays])
    assert values(record for record in notes.done if record.topic == stays) == list(range(10))
    assert kafka.committed(config.group_id, stays)[0][0] == 10


# Who may not

SECRET = "wrong-secret-5f1c"


def as_alice(
    secured: KafkaServer, group: str, topic: str, password: str | None = None, **fields: Any
) -> ConsumerConfig:
    """Alice's configuration for a topic."""
    return ConsumerConfig(
        bootstrap_servers=secured.bootstrap_servers,
        group_id=group,
        topics=topic,
        kafka={**secured.login("alice", password), **fields},
        connect_timeout=5,
    )


@pytest.mark.parametrize("user", ["alice", "nobody"], ids=["wrong password", "unknown user"])
async def test_wrong_credentials(secured_kafka: KafkaServer, user: str, caplog: pytest.LogCaptureFixture) -> None:
    """Credentials that the broker refuses are an error; the password is in no message, repr or log line."""
    caplog.set_level(logging.DEBUG)
    kafka = Cluster(secured_kafka.admin_bootstrap_servers)
    config = as_alice(secured_kafka, kafka.unique("billing"), topic_with(kafka, []), SECRET, **{"sasl.username": user})
    with refused(AuthenticationError, "the brokers refused the credentials") as caught:
        await consume(config)
    assert isinstance(caught.value.__cause__, KafkaException)
    said = [repr(config), str(config), repr(caught.value), str(caught.value), repr(caught.value.__cause__), caplog.text]
    assert not [each for each in said if SECRET in each]


async def test_missing_permissions(secured_kafka: KafkaServer, caplog: pytest.LogCaptureFixture) -> None:
    """A missing ACL, for the group or a topic, is an error that says which; once granted, all is well."""
    caplog.set_level(logging.DEBUG)
    kafka = Cluster(secured_kafka.admin_bootstrap_servers)
    topic, group = topic_with(kafka, numbered(0, 10)), kafka.unique("billing")
    kafka.allow_reading("alice", group=group)
    config = as_alice(secured_kafka, group, topic)
    with refused(AuthorizationError, f"an ACL is missing: READ and DESCRIBE on the topic.*{topic}") as caught:
        await consume(config)
    assert (caught.value.topic, caught.value.partition) == (topic, None)

    kafka.allow_reading("alice", topic=topic)
    with refused(AuthorizationError, "an ACL is missing: READ on the consumer group") as caught:
        await consume(as_alice(secured_kafka, kafka.unique("refused"), topic))
    assert isinstance(caught.value.__cause__, KafkaException)

    assert values(await handled(config, 10)) == list(range(10))
    assert committed_offsets(kafka, config) == {0: 10}
    assert "alice-secret" not in caplog.text


async def test_refusal_that_comes_early(secured_kafka: KafkaServer) -> None:
    """A group's missing ACL, which the client reports once, isn't missed while a topic is looked for."""
    kafka = Cluster(secured_kafka.admin_bootstrap_servers)
    topic = kafka.unique("orders")
    kafka.allow_reading("alice", topic=topic)
    with refused(AuthorizationError, "an ACL is missing: READ on the consumer group"):
        await consume(as_alice(secured_kafka, kafka.unique("billing"), topic))


# Who doesn't fit in


async def test_members_that_disagree(kafka: Cluster) -> None:
    """A member whose assignor the others don't use ends with an error that says so; the others go on."""
    topic = topic_with(kafka, numbered(0, 5))
    config = configured(kafka, topic)
    notes = Notes()
    async with running(config, notes):
        await notes.wait_done(5)
        other = configured(kafka, topic, group_id=config.group_id, kafka={"partition.assignment.strategy": "range"})
        with refused(KafkaError, r"another partition\.assignment\.strategy or group\.protocol"):
            await consume(other)
        await trio.to_thread.run_sync(kafka.produce, topic, numbered(5, 10))
        await notes.wait_done(10)
    assert values(notes.done) == list(range(10))


@pytest.mark.parametrize("waiting", [0, 200], ids=["nothing more to read", "more to read"])
async def test_loop_blocked_beyond_the_poll_interval(
    kafka: Cluster, waiting: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that blocks the loop for too long loses the partitions, loudly; they come back, nothing is lost."""
    caplog.set_level(logging.INFO, "trio_parallel_kafka")
    topic = topic_with(kafka, numbered(0, 10))
    config = configured(
        kafka,
        topic,
        revoke_grace=0.5,
        close_timeout=3,
        shutdown_timeout=PATIENCE,
        kafka={"session.timeout.ms": 4000, "max.poll.interval.ms": 4000},
    )
    blocked = False
    notes = Notes()

    async def handle(record: Record) -> None:
        nonlocal blocked
        if record.offset == 5 and not blocked:
            blocked = True
            kafka.produce(topic, numbered(10, 10 + waiting))
            time.sleep(12)  # noqa: ASYNC251 - the fault under test
        await notes(record)

    async with running(config, handle) as pc:
        await until(lambda: [each.assignment_epoch for each in pc.statistics().partitions] == [2])
        await until(lambda: pc.statistics().partitions[0].committed == 10 + waiting)
    assert f"lost: {topic}[0]" in caplog.text
    assert "the Trio loop has been blocked for" in caplog.text
    assert "time.sleep(12)" in caplog.text
    assert set(values(notes.done)) == set(range(10 + waiting))
    assert committed_offsets(kafka, config) == {0: 10 + waiting}


# Misuse


async def test_handlers_that_are_none(kafka: Cluster) -> None:
    """What isn't an async function is refused before anything is handled; the block can still run a right one."""
    config = configured(kafka, topic_with(kafka, numbered(0, 3)))
    notes = Notes()
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc:
            for wrong in (print, lambda _record: None, None, 5):
                with pytest.raises(InvalidHandlerError, match="has to be an async function"):
                    await pc.run(wrong)  # type: ignore[arg-type]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pc.run, notes)
                await notes.wait_done(3)
                with pytest.raises(ConsumerBusyError, match="once"):
                    await pc.run(notes)
                pc.stop()
        pc.stop()
        with pytest.raises(ConsumerClosedError, match="block has ended"):
            await pc.run(notes)
        with pytest.raises(ConsumerClosedError, match="block has ended"):
            await pc.wait_assigned()
    assert pc.statistics().state == "closed"
    assert values(notes.done) == [0, 1, 2]
    assert committed_offsets(kafka, config) == {0: 3}


def _header(record: Record) -> Any:
    return record.headers[0]


def _unhashable(record: Record) -> Any:
    return [record.key]


@pytest.mark.parametrize(("key_of", "kind"), [(_header, IndexError), (_unhashable, TypeError)])
async def test_key_that_cannot_be_had(kafka: Cluster, key_of: Any, kind: type[Exception]) -> None:
    """A key_of that raises, or returns what can't be hashed, is a failure of its record; nothing is lost."""
    topic = topic_with(kafka, numbered(0, 3))
    config = configured(kafka, topic, key_of=key_of)
    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(PATIENCE):
        await consume(config)
    assert {type(error) for error in caught.value.exceptions} == {kind}
    notes = [note for error in caught.value.exceptions for note in error.__notes__]
    assert f"while handling topic={topic!r} partition=0 offset=0 key=b'key-0' attempt=1" in notes
    assert values(await handled(configured(kafka, topic, group_id=config.group_id), 3)) == [0, 1, 2]
