"""The transactional producer on a real broker: its outages, and what is wrong at the start."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from broker.cluster import Cluster
from broker.kafka_server import KafkaServer, StartKafka
from broker.scenario import PATIENCE
from confluent_kafka import Consumer, TopicPartition as ClientPartition
from contract.transacting import transaction

from trio_parallel_kafka import AuthenticationError, AuthorizationError, BrokerUnreachableError, ConsumerConfig
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.producing import transaction_thread
from trio_parallel_kafka.producing.transaction_thread import Ending, TransactionThread
from trio_parallel_kafka.producing.transactional import TransactionalProducer

SHORT = 3.0
"""Seconds after which the broker gives up a transaction, in tests that wait for it."""


class Scene:
    """A member of a group, and topics of its own."""

    def __init__(self, kafka: Cluster) -> None:
        self.source = TopicPartition(kafka.unique("orders"), 0)
        self.output = kafka.unique("results")
        kafka.create_topic(self.source.topic, 1)
        kafka.create_topic(self.output, 2)
        self._kafka = kafka
        self._group = kafka.unique("billing")
        self._identity = kafka.unique("identity")
        self._member: Consumer | None = None

    def thread(self) -> TransactionThread:
        """What the producer's thread does, with transactions that the broker gives up after :data:`SHORT` seconds."""
        return TransactionThread(
            {
                "bootstrap.servers": self._kafka.bootstrap_servers,
                "socket.timeout.ms": 1000,
                "reconnect.backoff.max.ms": 200,
            },
            transactional_id=self._identity,
            connect_timeout=15,
            transaction_timeout=SHORT,
        )

    async def metadata(self, entries: Sequence[CommitEntry]) -> object:
        return await trio.to_thread.run_sync(self._metadata)

    async def seen(self) -> list[bytes]:
        return await trio.to_thread.run_sync(self._seen)

    async def committed(self) -> tuple[int, str] | None:
        found = await trio.to_thread.run_sync(self._kafka.committed, self._group, self.source.topic)
        return found.get(0)

    def close(self) -> None:
        if self._member is not None:
            self._member.close()
            self._member = None

    def _metadata(self) -> object:
        if self._member is None:
            self._member = Consumer(
                {
                    "bootstrap.servers": self._kafka.bootstrap_servers,
                    "group.id": self._group,
                    "enable.auto.commit": False,
                    "log_level": 0,
                }
            )
            self._member.subscribe([self.source.topic])
        while not self._member.assignment():
            self._member.poll(0.05)
        return self._member.consumer_group_metadata()

    def _seen(self) -> list[bytes]:
        """Read up to where the log ended when this began."""
        reader = Consumer(
            {
                "bootstrap.servers": self._kafka.bootstrap_servers,
                "group.id": "none",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
                "log_level": 0,
            }
        )
        seen: list[bytes] = []
        try:
            reader.assign([ClientPartition(self.output, 0, 0)])
            while True:
                (message,) = reader.consume(1, 30)
                if message.error() is not None:  # the end
                    return seen
                seen.append(message.value() or b"")
        finally:
            reader.close()


async def test_outages(private_kafka: StartKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away just before a commit, for longer than a transaction may take, neither doubles nor loses it.

    Readers see what the outcome says, or the group's offsets where it can't tell. One that is restarted between two
    transactions doesn't hold up the second for ever.
    """
    monkeypatch.setattr(transaction_thread, "IDLE", SHORT)
    server = private_kafka(properties={"transaction.abort.timed.out.transaction.cleanup.interval.ms": "200"})
    scene = Scene(Cluster(server.bootstrap_servers))
    thread = scene.thread()
    expected: list[bytes] = []
    try:
        with trio.fail_after(PATIENCE):
            await trio.to_thread.run_sync(thread.open)
            for offset, begin in enumerate((_freeze, _kill), 1):
                values = [b"a%d" % offset, b"b%d" % offset]
                looks = iter([partial(begin, server)])
                given = await transaction(scene, offset, values, is_wanted=partial(_look, looks))
                outcome = await trio.to_thread.run_sync(thread.transact, given)
                is_committed = await scene.committed() == (offset, f"of {offset}")
                print(f"\n{begin.__name__}: {outcome}; {is_committed=}")
                if outcome.ending is not Ending.UNKNOWN:
                    assert is_committed == (outcome.ending is Ending.COMMITTED)
                expected += values if is_committed else []
                assert await scene.seen() == expected
            before = await transaction(scene, 3, [b"before"])
            while (await trio.to_thread.run_sync(thread.transact, before)).ending is not Ending.COMMITTED:
                pass
            await trio.to_thread.run_sync(server.kill)
            await trio.to_thread.run_sync(server.start_again)
            last = await transaction(scene, 4, [b"last"])
            transact = partial(trio.to_thread.run_sync, thread.transact, last, abandon_on_cancel=True)
            while (await transact()).ending is not Ending.COMMITTED:
                pass
            assert await scene.seen() == [*expected, b"before", b"last"]
    finally:
        scene.close()
        await trio.to_thread.run_sync(thread.close)  # noqa: ASYNC102 - it ends by itself


def _look(looks: Iterator[Callable[[], None]]) -> bool:
    """Whether a transaction is still wanted; the first who asks, which is just before the commit, finds an outage."""
    for begin in looks:
        begin()
        break
    return True


def _freeze(server: KafkaServer) -> None:
    server.freeze()
    threading.Timer(SHORT + 1, server.thaw).start()


def _kill(server: KafkaServer) -> None:
    server.kill()
    threading.Timer(SHORT, server.start_again).start()


# What is wrong at the start


async def test_nobody_answers() -> None:
    """Where there is no broker, opening fails within its bound, and says what the client reports."""
    async with producing("127.0.0.1:9", connect_timeout=1.0) as producer:
        with pytest.raises(BrokerUnreachableError, match=r"within 1.0 s \(connect_timeout\).*127.0.0.1:9"):
            await producer.open()


async def test_acl_is_missing(secured_kafka: KafkaServer) -> None:
    """Without the right to the identity, opening says which ACLs are missing."""
    async with producing(secured_kafka.bootstrap_servers, kafka=secured_kafka.login("alice")) as producer:
        with pytest.raises(AuthorizationError, match="WRITE and DESCRIBE on the transactional id"):
            await producer.open()


async def test_wrong_password(secured_kafka: KafkaServer) -> None:
    """A wrong password is named as such."""
    async with producing(secured_kafka.bootstrap_servers, kafka=secured_kafka.login("alice", "wrong")) as producer:
        with pytest.raises(AuthenticationError):
            await producer.open()


@asynccontextmanager
async def producing(bootstrap_servers: str, **fields: Any) -> AsyncIterator[TransactionalProducer]:
    """A producer for the length of a block; it isn't opened yet."""
    given = {"group_id": "billing", "topics": "orders", "transactional_id": "billing-0", **fields}
    kafka = {"log_level": 0, **given.pop("kafka", {})}
    producer = TransactionalProducer(
        ConsumerConfig(bootstrap_servers=bootstrap_servers, delivery="exactly_once", kafka=kafka, **given)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(producer.host)
        try:
            yield producer
        finally:
            await producer.close()  # noqa: ASYNC102 - it shields and bounds itself
    assert producer.problem is None
