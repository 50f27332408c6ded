"""Processes of the simulation, and the producers, transactions and clients that end with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from confluent_kafka import KafkaError as ClientError
from contract.members import Reader, connected, next_of
from contract.simulated_stage import SimulatedStage
from contract.stage import consuming, sending, topic_with
from contract.transacting import Scene, transaction
from trio.testing import MockClock

from trio_parallel_kafka import (
    CloseTimeoutError,
    ConsumerConfig,
    KafkaError,
    ParallelKafkaError,
    ProducerClosedError,
    ProducerRecord,
    Record,
    open_producer,
    parallel_consumer,
)
from trio_parallel_kafka.control.client import Assigned, Failed, Fetched, Revoked, StartAt, Trouble
from trio_parallel_kafka.control.cluster import current_cluster
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.producing.transaction_thread import Ending, Outcome, Transaction
from trio_parallel_kafka.testing import AtLeastOnce, KeyOrder, SimulatedProcess, open_simulated_broker
from trio_parallel_kafka.testing.events import Died
from trio_parallel_kafka.testing.simulation.client import SimulatedClient
from trio_parallel_kafka.testing.simulation.transactions import Silence


@pytest.fixture
async def stage() -> AsyncIterator[SimulatedStage]:
    """A broker without topics, whose groups are of the consumer protocol."""
    async with open_simulated_broker() as broker:
        yield SimulatedStage(broker, "consumer")


# Processes


async def test_a_process_that_lives(autojump_clock: MockClock) -> None:
    """It gets its arguments, and what it raises leaves it."""
    process = SimulatedProcess()

    async def fail(number: int) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError(number)

    with pytest.raises(ZeroDivisionError, match="7"):
        await process.run(fail, 7)
    assert not process.is_dead


async def test_a_process_that_is_killed(autojump_clock: MockClock) -> None:
    """What it does goes nowhere: it is cancelled, and what it raises then is nobody's; the rest goes on."""
    process = SimulatedProcess()

    async def never_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.run, never_end)
        await trio.testing.wait_all_tasks_blocked()
        process.kill()
    assert process.is_dead


async def test_a_killed_consumer(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """Another takes over once the session is over, and finds all that wasn't committed; no record is lost."""
    topic = await topic_with(stage, 20)
    history = stage.broker.history
    stage.broker.consumer_session_timeout = 10.0
    process = SimulatedProcess()

    async def handle(record: Record) -> None:
        await trio.sleep(1)

    async def consume(config: ConsumerConfig, name: str) -> None:
        async with parallel_consumer(config) as pc:
            await pc.run(history.watch(handle, name, config=config))

    given = consuming(stage, topic, commit_interval=1.0, max_concurrency=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.run, consume, given, "first")
        await trio.sleep(5.5)
        process.kill()
        committed = stage.broker.committed(given.group_id)
        nursery.start_soon(consume, given, "second")
        await trio.sleep(9)
        assert stage.broker.committed(given.group_id) == committed
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    AtLeastOnce(history).check()
    KeyOrder(history).check()
    assert len([event for event in history.events if isinstance(event, Died)]) == 1
    assert stage.broker.committed(given.group_id)[topic, 0][0] == 20


async def test_what_is_opened_too_late(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """What is opened in a process that is dead already is so, too."""
    topic = await topic_with(stage, 1)
    process = SimulatedProcess()
    problems: list[str] = []

    async def go_on() -> None:
        with trio.CancelScope(shield=True):
            try:
                async with open_producer(sending(stage)) as producer:
                    await producer.send(topic, b"1")
            except ProducerClosedError:
                problems.append("producer")
            async with opening(consuming(stage, topic)) as client:
                try:
                    await client.connect()
                except KafkaError:
                    problems.append("consumer")

    process.kill()
    await process.run(go_on)
    assert problems == ["producer", "consumer"]
    assert len(await stage.read(topic, 0)) == 1


async def test_a_killed_client(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """Its calls end with an error, what it asked for reaches nobody, and its last event says why."""
    topic = await topic_with(stage, 5)
    place = TopicPartition(topic, 0)
    given = consuming(stage, topic)
    stage.broker.delay(5, "OffsetFetch")
    async with connected(given) as client:
        assert isinstance(client, SimulatedClient)
        client.subscribe([topic])
        (await next_of(client, Assigned)).reply({place: StartAt(0, 1)})

        async def ask() -> None:
            with pytest.raises(KafkaError, match="the Kafka client has ended"):
                await client.committed([place])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            client.kill()
        with pytest.raises(KafkaError, match="the Kafka client has ended"):
            await client.commit([CommitEntry(place, 1, 3, "")])
        assert isinstance((await next_of(client, Failed)).error, KafkaError)
        assert client.ended.is_set()
    assert stage.broker.committed(given.group_id) == {}


async def test_killed_after_all() -> None:
    """To kill what is over changes nothing."""
    process = SimulatedProcess()

    async def consume() -> None:
        async with opening(ConsumerConfig(bootstrap_servers="any:1", group_id="g", topics="orders")):
            await trio.lowlevel.checkpoint()

    async with open_simulated_broker({"orders": 1}):
        await process.run(consume)
    process.kill()
    assert process.is_dead


async def test_a_killed_producer(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """What a process had sent and wasn't written when it was killed never is."""
    topic = await topic_with(stage, 0)
    stage.broker.delay(1, "Produce")
    process = SimulatedProcess()

    async def send() -> None:
        async with open_producer(sending(stage)) as producer:
            await producer.send_all([ProducerRecord(topic, b"%d" % number) for number in range(5)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.run, send)
        await trio.sleep(2.5)
        process.kill()
    await trio.sleep(10)
    assert [message.value() for message in await stage.read(topic, 0)] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("api", ["AddOffsetsToTxn", "EndTxn"])
async def test_a_killed_transaction(autojump_clock: MockClock, stage: SimulatedStage, api: str) -> None:
    """A transaction whose end hadn't reached the broker when its process was killed is never seen."""
    scene = Scene(stage)
    process = SimulatedProcess()
    stage.broker.network.latency = lambda name: 5.0 if name == api else 0.0

    async def transact() -> None:
        async with scene.producer() as producer:
            await producer.transact(await transaction(scene, 3, [b"a"]))

    async with scene.opened():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.run, transact)
            await trio.sleep(2)
            process.kill()
        await trio.sleep(20)
        assert await scene.seen() == []
        assert await scene.committed() is None
        async with scene.producer() as producer:
            assert (await producer.transact(await transaction(scene, 4, [b"b"]))).ending is Ending.COMMITTED
        assert await scene.seen() == [b"b"]


async def test_closed_before_it_is_begun(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A transaction that was asked for and not begun when its producer is closed is aborted."""
    scene = Scene(stage)
    outcomes: list[Outcome] = []
    async with scene.opened(), trio.open_nursery() as nursery:
        producer = current_cluster.get().transactional_producer(scene.config)
        await producer.open()
        given = await transaction(scene, 3, [b"a"])

        async def transact() -> None:
            outcomes.append(await producer.transact(given))

        nursery.start_soon(transact)
        await trio.testing.wait_all_tasks_blocked()
        await producer.close()
        nursery.start_soon(producer.host)
    assert [outcome.ending for outcome in outcomes] == [Ending.ABORTED]
    assert stage.broker.transactions.aborted == [given]
    assert await scene.seen() == []


async def test_transactions_by_script(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A transaction can be aborted, decided in silence either way, or be the end of its producer."""
    scene = Scene(stage)
    script = stage.broker.transactions.script
    async with scene.opened(), scene.producer() as producer:
        script += [ClientError(ClientError.UNKNOWN_MEMBER_ID), Silence(is_committed=True), Silence(is_committed=False)]
        script += [None, KafkaError("the end")]
        endings = [
            (await producer.transact(await transaction(scene, number, [b"%d" % number]))).ending for number in range(4)
        ]
        assert endings == [Ending.ABORTED, Ending.UNKNOWN, Ending.UNKNOWN, Ending.COMMITTED]
        with pytest.raises(KafkaError, match="the end"):
            await producer.transact(await transaction(scene, 4, [b"4"]))
        assert await scene.seen() == [b"1", b"3"]
        assert [record.value for record in stage.broker.transactions.outputs] == [b"1", b"3"]
    with pytest.raises(KafkaError, match="the transactional client has ended"):
        await producer.transact(Transaction([], [], None, lambda: True))


# Clients


async def test_what_a_client_reports(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A test has errors come among the records, with a partition or without, or beside them, or as the client's end."""
    topic = await topic_with(stage, 1)
    place = TopicPartition(topic, 0)
    async with opening(consuming(stage, topic)) as client:
        client.subscribe([topic])
        (await next_of(client, Assigned)).reply({place: StartAt(0, 1)})
        await trio.testing.wait_all_tasks_blocked()
        client.send_error(ClientError.TOPIC_AUTHORIZATION_FAILED, place)
        client.send_error(ClientError._FATAL)
        client.report(ClientError._ALL_BROKERS_DOWN)
        errors: list[tuple[str | None, int]] = []
        while len(errors) < 4:
            event = await client.next_event()
            if isinstance(event, Fetched):
                found = [(message.topic(), message.error()) for message in event.messages]
                errors += [(name, error.code()) for name, error in found if error is not None]
                event.taken()
            elif isinstance(event, Trouble):
                errors.append(("beside", event.error.code()))
        assert set(errors) == {
            (topic, ClientError._PARTITION_EOF),
            (topic, ClientError.TOPIC_AUTHORIZATION_FAILED),
            ("beside", ClientError._ALL_BROKERS_DOWN),
            (None, ClientError._FATAL),
        }
        client.fail(ZeroDivisionError("broken"))
        (await next_of(client, Revoked)).reply()
        assert isinstance((await next_of(client, Failed)).error, ZeroDivisionError)


async def test_a_log_that_goes_back(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A test has a partition go on at a lower offset, without a word."""
    topic = await topic_with(stage, 3)
    place = TopicPartition(topic, 0)
    async with opening(consuming(stage, topic)) as client:
        client.subscribe([topic])
        (await next_of(client, Assigned)).reply({place: StartAt(0, 1)})
        reader = Reader(client)
        await reader.read(lambda: len(reader.offsets(0)) == 3)
        client.rewind(place, 1)
        await reader.read(lambda: len(reader.offsets(0)) == 5)
        assert reader.offsets(0) == [0, 1, 2, 1, 2]


async def test_a_client_that_does_not_close(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A client that overruns ``close_timeout`` is left behind; its group learns of it when the session is over."""
    topic = await topic_with(stage, 3)
    stage.broker.consumer_session_timeout = 10.0
    given = consuming(stage, topic, close_timeout=2.0)
    problems: list[ParallelKafkaError] = []
    async with current_cluster.get().open_client(given, problems) as client:
        client.subscribe([topic])
        (await next_of(client, Assigned)).reply({})
        stage.broker.network.delays["close"] = 100
        began = trio.current_time()
    assert trio.current_time() - began == 2.0
    assert [type(problem) for problem in problems] == [CloseTimeoutError]
    assert len(stage.broker.members(given.group_id)) == 1
    await trio.sleep(10.1)
    assert len(stage.broker.members(given.group_id)) == 0


async def test_closed_while_it_is_asked(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A client that is closed while nobody answers its events ends all the same, and has left."""
    topic = await topic_with(stage, 3)
    given = consuming(stage, topic)
    async with opening(given) as client:
        client.subscribe([topic])
        await next_of(client, Assigned)
        assert await client.close()
        assert await client.close()
    assert len(stage.broker.members(given.group_id)) == 0


@asynccontextmanager
async def opening(config: ConsumerConfig) -> AsyncIterator[SimulatedClient]:
    """A client that isn't connected yet."""
    async with current_cluster.get().open_client(config, []) as client:
        assert isinstance(client, SimulatedClient)
        yield client


async def test_a_member_that_does_not_close_in_time(autojump_clock: MockClock) -> None:
    """Its group doesn't wait for it any longer than for one that died."""
    config = ConsumerConfig(
        bootstrap_servers="simulated:9092", group_id="billing", topics=["orders"], close_timeout=1.0
    )
    async with open_simulated_broker({"orders": 1}) as broker:
        with pytest.raises(CloseTimeoutError):  # noqa: PT012 - it is the block's end that raises
            async with parallel_consumer(config) as consumer:
                await consumer.wait_assigned()
                broker.network.delays["close"] = 1000.0
                broker.members("billing")[0].unsubscribe = lambda: None  # type: ignore[method-assign]
        assert broker.members("billing")
        await trio.sleep(50)
        assert not broker.members("billing")
