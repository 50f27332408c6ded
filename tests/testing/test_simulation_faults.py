"""Faults at the simulated broker: errors, delays and outages, as a member and a producer meet them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from contract.members import Step, assigned, joined, until
from contract.simulated_stage import SimulatedStage
from contract.stage import consuming, sending, topic_with
from contract.transacting import Scene, transaction
from trio.testing import MockClock

from trio_parallel_kafka import (
    AuthorizationError,
    BrokerUnreachableError,
    ConsumerConfig,
    DeliveryError,
    KafkaError,
    ProducerClosedError,
    open_producer,
)
from trio_parallel_kafka.control.client import Committed, StartAt
from trio_parallel_kafka.control.cluster import current_cluster
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.producing.transaction_thread import Ending
from trio_parallel_kafka.testing import open_simulated_broker


@pytest.fixture
async def stage() -> AsyncIterator[SimulatedStage]:
    """A broker without topics, whose groups are of the consumer protocol."""
    async with open_simulated_broker() as broker:
        yield SimulatedStage(broker, "consumer")


async def seconds_of(awaitable: Any) -> float:
    """How long something takes."""
    began = trio.current_time()
    await awaitable
    return trio.current_time() - began


@asynccontextmanager
async def opening(config: ConsumerConfig) -> AsyncIterator[Any]:
    """A client that isn't connected yet."""
    async with current_cluster.get().open_client(config, []) as client:
        yield client


async def test_delays(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """Answers to the requests that are named take longer, or to all; what the broker doesn't hear of takes none."""
    topic = await topic_with(stage, 5)
    place = TopicPartition(topic, 0)
    async with assigned(consuming(stage, topic), StartAt(0, 1)) as client:
        stage.broker.delay(2, "OffsetFetch", "ListOffsets")
        assert await seconds_of(client.committed([place])) == 2
        assert await seconds_of(client.offset_range(place)) == 2
        assert await seconds_of(client.topics()) == 0
        stage.broker.delay(3)
        assert await seconds_of(client.committed([place])) == 3
        assert await seconds_of(client.topics()) == 3
        assert await seconds_of(client.commit([CommitEntry(place, 1, 3, "")])) == 3
        assert await seconds_of(client.start(place, StartAt(0, 2))) == 0
        assert await seconds_of(client.group_metadata([])) == 0
        stage.broker.delay(0, "Metadata")
        assert await seconds_of(client.topics()) == 0
        assert await seconds_of(client.committed([place])) == 3
        with pytest.raises(ValueError, match="unknown request 'Metadatum'; known are AddOffsetsToTxn, "):
            stage.broker.delay(1, "Metadatum")
        stage.broker.delay(0)


async def test_requests_are_counted(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """What came to the broker is counted by name, until it is forgotten; calls of the client alone don't count."""
    topic = await topic_with(stage, 5)
    place = TopicPartition(topic, 0)
    async with assigned(consuming(stage, topic), StartAt(0, 1)) as client:
        stage.broker.clear_requests()
        for _ in range(2):
            await client.committed([place])
        await client.commit([CommitEntry(place, 1, 3, "")])
        await client.start(place, StartAt(0, 2))
        counted = stage.broker.requests()
        assert counted == {"OffsetFetch": 2, "OffsetCommit": 1}
        counted.clear()
        assert stage.broker.requests().total() == 3
        stage.broker.clear_requests()
        assert stage.broker.requests() == {}


async def test_answers_by_script(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """Each question can be refused: by an error in its answer, by one that is raised, or by knowing nothing."""
    topic = await topic_with(stage, 5)
    place = TopicPartition(topic, 0)
    refusal = ClientError.TOPIC_AUTHORIZATION_FAILED
    async with assigned(consuming(stage, topic), StartAt(0, 1)) as client:
        for api in ("OffsetFetch", "DescribeTopicPartitions", "ListOffsets"):
            stage.broker.fail_next(api, refusal, 0)
        error = (await client.committed([place]))[place].error
        assert error is not None
        assert error.code() == refusal
        assert await client.topic_ids([topic]) == {}
        with pytest.raises(KafkaError, match="ListOffsets is refused"):
            await client.offset_range(place)
        for call in (client.topics, client.partition_counts):
            stage.broker.fail_next("Metadata", refusal)
            with pytest.raises(KafkaError, match="Metadata is refused"):
                await call()
        assert await client.committed([place]) == {place: Committed()}
        assert (await client.topic_ids([topic])).keys() == {topic}
        assert await client.offset_range(place) == (0, 5)


async def test_connecting(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """Errors that may pass are outlived within ``connect_timeout``; one that is final is raised at once."""
    topic = await topic_with(stage, 5)
    passing = ClientError.REQUEST_TIMED_OUT
    async with opening(consuming(stage, topic, connect_timeout=2.0)) as client:
        stage.broker.fail_next("Metadata", *[passing] * 3)
        assert await seconds_of(client.connect()) == pytest.approx(0.3)
        stage.broker.fail_next("Metadata", ClientError.TOPIC_AUTHORIZATION_FAILED)
        with pytest.raises(AuthorizationError):
            await client.connect()
        stage.broker.fail_next("Metadata", *[passing] * 100)
        with pytest.raises(BrokerUnreachableError, match="no answer from the simulated broker"):
            await client.connect()
        stage.broker.network.errors.clear()
        stage.broker.down()
        with pytest.raises(BrokerUnreachableError):
            await client.connect()
        stage.broker.up()
        await client.connect()


async def test_a_topic_that_comes_late(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A topic that is made within the patience for missing ones is found."""
    async with opening(consuming(stage, "late")) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.connect)
        await trio.sleep(1)
        stage.broker.create_topic("late")


async def test_questions_while_it_is_down(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A question isn't waited for as long as a commit is; both get through if the broker is back before that."""
    topic = await topic_with(stage, 5)
    place = TopicPartition(topic, 0)
    stage.broker.consumer_session_timeout = 100.0
    async with assigned(consuming(stage, topic), StartAt(0, 1)) as client, trio.open_nursery() as nursery:
        entry = CommitEntry(place, 1, 3, "")
        stage.broker.down()
        found = (await client.committed([place]))[place]
        assert found.error is not None
        assert (found.error.code(), trio.current_time()) == (ClientError._TRANSPORT, 3.0)
        error = (await client.commit([entry]))[place]
        assert error is not None
        assert (error.code(), trio.current_time()) == (ClientError._TRANSPORT, 63.0)

        async def be_back_soon() -> None:
            await trio.sleep(2)
            stage.broker.up()

        nursery.start_soon(be_back_soon)
        assert (await client.committed([place]))[place] == Committed()
        assert trio.current_time() == 65.0
        assert await client.commit([entry]) == {place: None}


async def test_an_outage_and_the_session(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A member loses all once it couldn't be heard of for a session in one piece; two outages aren't one."""
    topic = await topic_with(stage, 5)
    stage.broker.consumer_session_timeout = 10.0
    journal: list[Step] = []
    async with joined("only", consuming(stage, topic), journal) as only:
        await until(lambda: only.owned)
        for _ in range(2):
            stage.broker.down()
            await trio.sleep(9)
            stage.broker.up()
            await trio.sleep(0.5)
        await trio.sleep(10)
        assert [step.kind for step in journal] == ["assigned"]
        stage.broker.down()
        await trio.sleep(9.9)
        assert [step.kind for step in journal] == ["assigned"]
        await trio.sleep(0.2)
        assert [step.kind for step in journal] == ["assigned", "lost"]
        await trio.sleep(5)
        assert only.owned == {}
        stage.broker.up()
        await until(lambda: only.owned)


async def test_a_member_that_left_before_the_session_was_over(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """Who is in the group no longer has nothing to lose."""
    topic = await topic_with(stage, 5)
    stage.broker.consumer_session_timeout = 10.0
    journal: list[Step] = []
    async with joined("only", consuming(stage, topic), journal) as only:
        await until(lambda: only.owned)
        stage.broker.down()
        only.client.unsubscribe()
        only.is_late = True
        await trio.sleep(20)
        assert [step.kind for step in journal] == ["assigned", "revoked", "let go"]
        stage.broker.up()


async def test_nothing_is_read_while_it_is_down(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """What is written meanwhile comes when the broker is back."""
    topic = await topic_with(stage, 1)
    async with joined("only", consuming(stage, topic), []) as only:
        await until(lambda: list(only.positions.values()) == [1])
        stage.broker.down()
        await stage.produce(topic, [b"1"], 0)
        await trio.sleep(5)
        assert list(only.positions.values()) == [1]
        stage.broker.up()
        await until(lambda: list(only.positions.values()) == [2])


# Producers


async def test_records_wait_for_one_another(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """One that isn't acknowledged in time may be there all the same; those behind it have their own time."""
    topic = await topic_with(stage, 0)
    async with open_producer(sending(stage, delivery_timeout=5.0)) as producer:
        stage.broker.delay(4, "Produce")
        assert await seconds_of(producer.send(topic, b"0")) == 4
        pending = [producer.send_nowait(topic, b"%d" % number) for number in (1, 2, 3)]
        assert (await pending[0].wait()).offset == 1
        for each in pending[1:]:
            with pytest.raises(DeliveryError, match="within delivery_timeout; it is unknown"):
                await each.wait()
        assert trio.current_time() == 9.0
    assert [message.value() for message in await stage.read(topic, 0)] == [b"0", b"1", b"2"]


async def test_an_end_in_good_time(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """The end of a producer's block waits for what is outstanding, for ``close_timeout`` at most."""
    topic = await topic_with(stage, 0)
    stage.broker.delay(1, "Produce")
    began = trio.current_time()

    async def use() -> None:
        async with open_producer(sending(stage, close_timeout=3.5)) as producer:
            for number in range(5):
                producer.send_nowait(topic, b"%d" % number)

    with pytest.raises(DeliveryError, match=r"2 of the records sent.*\n.*not sent before the producer ended"):
        await use()
    assert trio.current_time() - began == 3.5
    assert len(await stage.read(topic, 0)) == 4


async def test_an_end_while_others_wait(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """Who waits for a record that isn't sent any more is told."""
    topic = await topic_with(stage, 0)
    stage.broker.down()
    errors: list[Exception] = []

    async with trio.open_nursery() as nursery, open_producer(sending(stage, close_timeout=1.0)) as producer:

        async def send() -> None:
            try:
                await producer.send(topic, b"1")
            except DeliveryError as error:
                errors.append(error)

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
    assert [str(error).split(" (")[0] for error in errors] == ["not sent before the producer ended"]
    with pytest.raises(ProducerClosedError):
        await producer.flush()


# Transactions


async def test_errors_of_transactions(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """An error in the midst of a transaction aborts it, wherever it comes; one at the start that stays is raised."""
    scene = Scene(stage)
    async with scene.opened():
        refused = current_cluster.get().transactional_producer(scene.config)
        stage.broker.fail_next("InitProducerId", ClientError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
        with pytest.raises(AuthorizationError, match="transactional id"):
            await refused.open()
        stage.broker.fail_next("InitProducerId", *[ClientError.CONCURRENT_TRANSACTIONS] * 10_000)
        with pytest.raises(BrokerUnreachableError, match="no answer about transactions"):
            await refused.open()
        tries = stage.broker.requests()["InitProducerId"]
        stage.broker.network.errors.clear()
        stage.broker.fail_next("InitProducerId", ClientError.REQUEST_TIMED_OUT, ClientError.NOT_COORDINATOR)
        await refused.open()
        assert stage.broker.requests()["InitProducerId"] == tries + 3
        async with scene.producer() as producer:
            for api in ("AddOffsetsToTxn", "EndTxn"):
                stage.broker.fail_next(api, ClientError.COORDINATOR_LOAD_IN_PROGRESS)
                outcome = await producer.transact(await transaction(scene, 3, [b"a"]))
                assert outcome.ending is Ending.ABORTED
                assert outcome.error is not None
                assert outcome.error.code() == ClientError.COORDINATOR_LOAD_IN_PROGRESS
                assert await scene.committed() is None
            await producer.transact(await transaction(scene, 3, [b"b"]))
            assert await scene.seen() == [b"b"]
            assert await scene.committed() == (3, "of 3")
