"""The port over the real client: what its calls answer, and what becomes of them when the client ends."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from confluent_kafka import KafkaError as ClientError, KafkaException, Message, TopicPartition as ClientPartition
from contract.members import next_of
from embedded.kit import PATIENCE, configured, send
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trio_parallel_kafka import AuthorizationError, KafkaError, ParallelKafkaError, TopicNotFoundError
from trio_parallel_kafka.control import kafka_client
from trio_parallel_kafka.control.client import (
    Assigned,
    Committed,
    Failed,
    Fetched,
    Lost,
    Revoked,
    StartAt,
    Trouble,
)
from trio_parallel_kafka.control.kafka_client import KafkaClient, open_kafka_client
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.testing import EmbeddedBroker

A, B = TopicPartition("orders", 0), TopicPartition("orders", 1)


@asynccontextmanager
async def opened(broker: EmbeddedBroker, **fields: Any) -> AsyncIterator[KafkaClient]:
    """A client that has found the cluster; its end has no problems."""
    problems: list[ParallelKafkaError] = []
    with trio.fail_after(PATIENCE):
        async with open_kafka_client(configured(broker, **fields), problems) as client:
            await client.connect()
            yield client
    assert problems == []


async def test_from_joining_to_leaving(embedded_broker: EmbeddedBroker) -> None:
    """Assigned, told where to start, fetching, committing, revoked: the whole way on the port alone."""
    send(embedded_broker, 20)
    async with opened(embedded_broker) as client:
        client.subscribe(["orders"])
        assigned = await next_of(client, Assigned)
        assert set(assigned.partitions) == {A, B}
        assert await client.committed([A, B]) == {A: Committed(), B: Committed()}
        assert await client.offset_range(A) == (0, 10)
        assigned.reply({A: StartAt(4, 1)})

        fetched = await next_of(client, Fetched)
        assert fetched.assignment_epochs[A] == 1
        records = [message for message in fetched.messages if message.error() is None]
        assert {(message.partition(), message.offset()) for message in records} <= {(0, n) for n in range(4, 10)}
        fetched.taken()
        await client.start(B, StartAt(9, 2))
        while True:
            fetched = await next_of(client, Fetched)
            fetched.taken()
            if any(message.partition() == 1 and message.error() is None for message in fetched.messages):
                break

        with assert_checkpoints():
            results = await client.commit([CommitEntry(A, 1, 7, "tpk"), CommitEntry(B, 1, 9, "")])
        assert results[A] is None
        error = results[B]
        assert error is not None
        assert error.code() == ClientError._STATE
        assert await client.committed([A, B]) == {A: Committed(7, "tpk"), B: Committed()}

        client.unsubscribe()
        revoked = await next_of(client, Revoked)
        assert set(revoked.partitions) == {A, B}
        assert await client.commit([CommitEntry(B, 2, 10, "")]) == {B: None}
        revoked.reply()
        assert await client.committed([B]) == {B: Committed(10, "")}
        assert client.poll_statistics().hop_max >= 0


async def test_paused_partitions_stand_still(embedded_broker: EmbeddedBroker) -> None:
    """Nothing of a paused partition comes; resumed, it goes on where it was."""
    async with opened(embedded_broker) as client:
        client.subscribe(["orders"])
        (await next_of(client, Assigned)).reply({A: StartAt(0, 1), B: StartAt(0, 1)})
        client.pause([A])
        await client.committed([A])  # served after the pause
        send(embedded_broker, 20)
        seen: list[tuple[int, int]] = []

        async def take_batches() -> None:
            while True:
                batch = await next_of(client, Fetched)
                seen.extend((each.partition(), each.offset()) for each in batch.messages if each.error() is None)
                batch.taken()

        async def seen_all_of(partition: int) -> None:
            while [offset for number, offset in seen if number == partition] != list(range(10)):
                await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_batches)
            await seen_all_of(1)
            assert [place for place in seen if place[0] == 0] == []
            client.resume({A: 0})
            await seen_all_of(0)
            nursery.cancel_scope.cancel()
        client.unsubscribe()
        (await next_of(client, Revoked)).reply()


async def test_topics_and_their_partitions(embedded_broker: EmbeddedBroker) -> None:
    """The ids of topics, as 16 bytes, and the numbers of partitions of those that are named, or of all; all names."""
    embedded_broker.create_topic("refunds", 3)
    async with opened(embedded_broker) as client:
        ids = await client.topic_ids(["orders", "refunds"])
        assert {len(each) for each in ids.values()} == {16}
        assert len(set(ids.values())) == 2
        assert await client.topic_ids(["orders"]) == {"orders": ids["orders"]}
        assert await client.partition_counts() == {"orders": 2}
        assert await client.topics() == {"orders", "refunds"}
    async with opened(embedded_broker, topics="^r", kafka={"group.protocol": "classic"}) as client:
        assert await client.partition_counts() == {"orders": 2, "refunds": 3}


async def test_no_answer_about_the_ids(embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ids aren't to be had in time, none are told, and nothing is raised."""
    monkeypatch.setattr(kafka_client, "REQUEST_TIMEOUT", 0.1)
    async with opened(embedded_broker) as client:
        assert await client.topic_ids(["orders"])
        embedded_broker.delay(5)
        assert await client.topic_ids(["orders"]) == {}
        embedded_broker.delay(0)


async def test_ids_that_are_none(embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic whose id is all zeros has none: so a broker says that knows no ids."""
    monkeypatch.setattr(kafka_client, "_topic_id", lambda _identity: bytes(16))
    async with opened(embedded_broker) as client:
        assert await client.topic_ids(["orders"]) == {}


async def test_questions_that_find_no_answer(embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the broker doesn't answer in time is an error of each partition, or raised, with the client's behind it."""
    monkeypatch.setattr(kafka_client, "REQUEST_TIMEOUT", 0.1)
    async with opened(embedded_broker) as client:
        embedded_broker.delay(5)
        committed = await client.committed([A, B])
        assert [each.error is not None and each.offset is None for each in committed.values()] == [True, True]
        assert committed.keys() == {A, B}
        with pytest.raises(KafkaError, match=r"no answer about the offsets \(orders\[1\]\)") as caught:
            await client.offset_range(B)
        assert (caught.value.topic, caught.value.partition) == ("orders", 1)
        assert isinstance(caught.value.__cause__, KafkaException)
        with pytest.raises(KafkaError, match="no answer about the topics") as caught:
            await client.partition_counts()
        assert isinstance(caught.value.__cause__, KafkaException)
        embedded_broker.delay(0)


async def test_a_start_that_the_client_refuses(
    embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused start is raised with its place, and the client's error behind it."""
    refusal = KafkaException(ClientError(ClientError._INVALID_ARG))
    async with opened(embedded_broker) as client:

        def refuse(_partition: TopicPartition, _at: StartAt) -> None:
            raise refusal

        monkeypatch.setattr(client._thread, "start", refuse)
        with pytest.raises(KafkaError, match=r"can't start reading \(orders\[0\]\)") as caught:
            await client.start(A, StartAt(5, 1))
        assert caught.value.__cause__ is refusal


@pytest.mark.parametrize(
    ("offset", "expected"), [(-1001, Committed()), (0, Committed(0, "m")), (5, Committed(5, "m")), (-1, Committed())]
)
def test_what_is_committed(offset: int, expected: Committed) -> None:
    """A logical offset means that nothing is committed."""
    assert kafka_client._committed(ClientPartition("orders", 0, offset, "m")) == expected


class Answer:
    """One partition of an answer whose metadata another client wrote."""

    error: ClientError | None = None
    offset = 5

    @property
    def metadata(self) -> str:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


def test_metadata_that_isnt_text() -> None:
    """Metadata that the client can't decode is no reason to lose the offset beside it."""
    assert kafka_client._committed(cast("ClientPartition", Answer())) == Committed(5, None)


def test_an_error_of_one_partition() -> None:
    """An error of one partition is its answer."""
    answer = Answer()
    answer.error = ClientError(ClientError.UNSTABLE_OFFSET_COMMIT)
    assert kafka_client._committed(cast("ClientPartition", answer)) == Committed(error=answer.error)


@pytest.mark.parametrize(
    ("code", "expected"),
    [(ClientError.TOPIC_AUTHORIZATION_FAILED, AuthorizationError), (ClientError.UNKNOWN_TOPIC_OR_PART, None)],
)
def test_what_is_wrong_with_a_topic(code: int, expected: type[KafkaError] | None) -> None:
    """A missing right is raised at once; anything else may mean that the topic isn't there yet."""
    if expected is None:
        problem = KafkaClient._topic_problem("orders", ClientError(code))
        assert isinstance(problem, TopicNotFoundError)
        assert problem.topic == "orders"
        return
    with pytest.raises(expected) as caught:
        KafkaClient._topic_problem("orders", ClientError(code))
    assert caught.value.topic == "orders"


CALLS: dict[str, Callable[[KafkaClient], Any]] = {
    "commit": lambda client: client.commit([CommitEntry(A, 1, 5, "")]),
    "committed": lambda client: client.committed([A]),
    "offset_range": lambda client: client.offset_range(A),
    "partition_counts": lambda client: client.partition_counts(),
    "start": lambda client: client.start(A, StartAt(0, 1)),
    "topic_ids": lambda client: client.topic_ids(["orders"]),
    "topics": lambda client: client.topics(),
}


@pytest.mark.parametrize("name", CALLS)
async def test_calls_after_the_end(embedded_broker: EmbeddedBroker, name: str) -> None:
    """A call that is made after the client has ended is an error, at once."""
    async with opened(embedded_broker) as client:
        pass
    with trio.fail_after(PATIENCE), pytest.raises(KafkaError, match="the Kafka client has ended"):
        await CALLS[name](client)
    client.pause([A])
    client.resume({A: 0})
    client.unsubscribe()
    assert client._unanswered == set()


@pytest.mark.parametrize("name", CALLS)
async def test_calls_that_the_end_overtakes(embedded_broker: EmbeddedBroker, name: str) -> None:
    """A call that waits when the client ends is an error, too: nobody waits for ever."""
    is_queued = threading.Event()

    def end() -> None:
        assert is_queued.wait(PATIENCE)
        raise ZeroDivisionError

    async with opened(embedded_broker) as client:
        client._thread.submit(end)

        async def call() -> None:
            with pytest.raises(KafkaError, match="the Kafka client has ended"):
                await CALLS[name](client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await wait_all_tasks_blocked()
            is_queued.set()


async def test_a_commit_that_the_end_overtakes(
    embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose acknowledgement never comes is an error when the client has ended."""
    async with opened(embedded_broker) as client:
        monkeypatch.setattr(client._thread, "commit", lambda _entries, _done: client._thread.stop())
        with pytest.raises(KafkaError, match="before the commit was acknowledged"):
            await client.commit([CommitEntry(A, 1, 5, "")])


async def test_what_ended_the_client(embedded_broker: EmbeddedBroker) -> None:
    """The reason for which the thread has ended is the last event; during the start it is raised."""
    error = ZeroDivisionError("in the thread")

    def fail() -> None:
        raise error

    async with opened(embedded_broker) as client:
        client._thread.submit(fail)
        event = await next_of(client, Failed)
        assert event.error is error
        with pytest.raises(KafkaError, match="the Kafka client has ended"):
            await client.connect()

    async with opened(embedded_broker) as client:
        client._thread.submit(fail)
        with pytest.raises(KafkaError, match="the Kafka client ended: in the thread") as caught:
            await client.connect()
        assert caught.value.__cause__ is error


async def test_an_error_that_comes_as_a_message(embedded_broker: EmbeddedBroker) -> None:
    """A fatal error, which the client reports but once and like a record, is seen during the start, too."""
    fatal = Message(error=ClientError(ClientError._FATAL, "fenced for good"))
    async with opened(embedded_broker) as client:

        async def connect_again_and_again() -> None:
            while True:
                await client.connect()

        client._thread.submit(lambda: client._thread._stash.append(fatal))
        with pytest.raises(KafkaError, match="fatal error: fenced for good"):
            await connect_again_and_again()


async def test_other_events_during_the_start(embedded_broker: EmbeddedBroker) -> None:
    """Events that hold no error are no obstacle to the start."""
    async with opened(embedded_broker) as client:
        client._deliver(Lost((A,)))
        client._deliver(Trouble(ClientError(ClientError._ALL_BROKERS_DOWN)))
        client._deliver(Trouble(ClientError(ClientError._TRANSPORT)))
        await client.connect()


async def test_a_call_that_fails(embedded_broker: EmbeddedBroker) -> None:
    """What a call raises in the thread reaches its caller, and the thread goes on."""
    async with opened(embedded_broker) as client:
        with pytest.raises(ZeroDivisionError):
            await client._call(lambda: 1 // 0)
        assert await client._call(lambda: 7) == 7


async def test_a_cancelled_call(embedded_broker: EmbeddedBroker) -> None:
    """A call that is cancelled is left behind; nothing waits for it any more."""
    async with opened(embedded_broker) as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.committed([A])
        assert scope.cancelled_caught
        assert client._unanswered == set()


async def test_events_after_the_end(embedded_broker: EmbeddedBroker) -> None:
    """What the thread posts when nobody listens any more is dropped."""
    async with opened(embedded_broker) as client:
        pass
    client._post(Trouble(ClientError(ClientError.UNKNOWN)))
    await wait_all_tasks_blocked()


def test_events_after_the_run() -> None:
    """The same when the Trio run is over, as a thread that was left behind would."""
    clients: list[KafkaClient] = []

    async def main() -> None:
        clients.append(KafkaClient(configured(cast("EmbeddedBroker", _Nowhere()))))

    trio.run(main)
    clients[0]._post(Trouble(ClientError(ClientError.UNKNOWN)))


class _Nowhere:
    bootstrap_servers = "127.0.0.1:1"


async def test_what_the_thread_is_told() -> None:
    """The bounds of what runs in the poll thread follow from the configuration."""
    config = configured(
        cast("EmbeddedBroker", _Nowhere()),
        revoke_grace=2,
        close_timeout=3,
        connect_timeout=4,
        max_buffered_records=40,
        kafka={"group.protocol": "classic", "max.poll.interval.ms": 9000, "session.timeout.ms": 6000},
    )
    settings = KafkaClient(config)._thread._settings
    assert (settings.revoke_timeout, settings.assign_timeout, settings.max_poll_interval) == (5, 4, 9)
    assert settings.batch_size == 10
    assert settings.is_incremental
    assert KafkaClient(configured(cast("EmbeddedBroker", _Nowhere())))._thread._settings.max_poll_interval == 300
