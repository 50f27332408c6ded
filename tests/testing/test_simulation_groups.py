"""Groups at the simulated broker: members that come, go, die and are expelled, under each protocol."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from contract.members import Step, connected, joined, next_of, until
from contract.simulated_stage import SimulatedStage
from contract.stage import PROTOCOLS, consuming, topic_with
from trio.testing import MockClock

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.control.client import Assigned, Fetched, Lost, Revoked, StartAt
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.testing import SimulatedBroker, open_simulated_broker, simulate
from trio_parallel_kafka.testing.simulation.client import SimulatedClient

PARTITIONS = 8
SESSION = 6.0


class Follower:
    """A member that does what it is told, after a while, and knows what it owns."""

    def __init__(self, client: SimulatedClient, others: list[Follower]) -> None:
        self.client = client
        self.owned: set[TopicPartition] = set()
        self.is_gone = self.was_expelled = False
        self._others = others
        others.append(self)

    async def serve(self) -> None:
        while True:
            event = await self.client.next_event()
            await trio.sleep(random.random() / 2)
            if isinstance(event, Assigned):
                owners = [each for each in self._others if not each.is_gone and each.owned & set(event.partitions)]
                assert owners == [] or any(each.was_expelled for each in self._others)
                self.owned |= set(event.partitions)
                event.reply({place: StartAt(0, 1) for place in event.partitions})
            elif isinstance(event, Revoked):
                self.owned -= set(event.partitions)
                event.reply()
            elif isinstance(event, Lost):
                self.owned -= set(event.partitions)
            elif isinstance(event, Fetched):
                event.taken()


def config(protocol: str, **kafka: Any) -> ConsumerConfig:
    """A member's configuration."""
    properties = {**PROTOCOLS[protocol], **kafka}
    if protocol != "consumer":
        properties["session.timeout.ms"] = int(SESSION * 1000)
    return ConsumerConfig(bootstrap_servers="any:1", group_id="billing", topics="orders", kafka=properties)


async def turmoil(protocol: str) -> None:
    """Members come, leave, are closed, die and are expelled; then there is quiet."""
    followers: list[Follower] = []

    async def live(broker: SimulatedBroker) -> None:
        async with connected(config(protocol)) as client, trio.open_nursery() as nursery:
            assert isinstance(client, SimulatedClient)
            follower = Follower(client, followers)
            client.subscribe(["orders"])
            nursery.start_soon(follower.serve)
            fate = random.choice(["leave", "close", "die", "expel", "stay", "stay"])
            await trio.sleep(random.random() * 10)
            if fate == "expel":
                follower.was_expelled = True
                broker.expel(client)
            elif fate == "leave":
                client.unsubscribe()
                await until(lambda: not follower.owned)
            elif fate == "die":
                client.kill()
            if fate in {"leave", "close", "die"}:
                follower.is_gone = True
                nursery.cancel_scope.cancel()

    async with open_simulated_broker({"orders": PARTITIONS}) as broker, trio.open_nursery() as nursery:
        broker.consumer_session_timeout = SESSION
        broker.network.latency = lambda _api: random.random() / 10
        for _ in range(6):
            nursery.start_soon(live, broker)
            await trio.sleep(random.random() * 3)
        await trio.sleep(60)
        living = [each for each in followers if not each.is_gone]
        assert set(broker.members("billing")) == {each.client for each in living}
        shares = sorted(len(each.owned) for each in living)
        if living:
            assert sum(shares) == PARTITIONS
            assert set().union(*(each.owned for each in living)) == set(broker.logs)
            assert shares[-1] - shares[0] <= 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_turmoil(protocol: str) -> None:
    """Nobody is given what another has still; once it is quiet, those who are left share everything evenly."""
    for seed in range(25):
        simulate(turmoil, protocol, seed=seed)


@pytest.fixture
async def broker() -> AsyncIterator[SimulatedBroker]:
    """A broker without topics."""
    async with open_simulated_broker() as made:
        yield made


@pytest.fixture(params=PROTOCOLS)
def stage(request: pytest.FixtureRequest, broker: SimulatedBroker) -> SimulatedStage:
    """The broker as a stage, under each protocol."""
    return SimulatedStage(broker, request.param)


async def test_a_dead_member(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """What a dead member had is given to others once its session is over, and not before."""
    topic = await topic_with(stage, 5, 5)
    given = consuming(stage, topic, kafka={} if stage.protocol == "consumer" else {"session.timeout.ms": 6000})
    stage.broker.consumer_session_timeout = SESSION
    journal: list[Step] = []
    async with joined("first", given, journal) as first:
        await until(lambda: len(first.owned) == 2)
        async with joined("second", given, journal, leaves=False) as second:
            await until(lambda: len(first.owned) == len(second.owned) == 1)
            assert isinstance(second.client, SimulatedClient)
            journal.clear()
            second.client.kill()
            died = trio.current_time()
        await trio.sleep(SESSION - 0.1)
        assert (len(first.owned), journal) == (1, [])
        assert len(stage.broker.members(given.group_id)) == 2
        await until(lambda: len(first.owned) == 2)
        assert SESSION <= trio.current_time() - died < SESSION + 0.1


async def test_a_member_that_dies_while_it_is_asked(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """So it is if it dies while the group waits for it to let go."""
    topic = await topic_with(stage, 5, 5)
    given = consuming(stage, topic, kafka={} if stage.protocol == "consumer" else {"session.timeout.ms": 6000})
    stage.broker.consumer_session_timeout = SESSION
    journal: list[Step] = []
    async with joined("second", given, journal) as second:
        second.client.unsubscribe()
        async with joined("first", given, journal, leaves=False) as first:
            await until(lambda: len(first.owned) == 2)
            first.hold = trio.sleep_forever
            second.client.subscribe([topic])
            await until(lambda: ("first", "revoked") in [step[:2] for step in journal])
            assert isinstance(first.client, SimulatedClient)
            first.client.kill()
        await trio.sleep(SESSION - 0.1)
        assert second.owned == {}
        await until(lambda: len(second.owned) == 2)


async def test_a_client_that_is_stuck(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A member that doesn't poll for ``max.poll.interval.ms`` loses all, and hears of it when it polls again."""
    topic = await topic_with(stage, 5, 5)
    given = consuming(stage, topic)
    journal: list[Step] = []
    async with joined("first", given, journal) as first, trio.open_nursery() as nursery:
        await until(lambda: len(first.owned) == 2)
        stage.broker.delay(400, "ListOffsets")
        nursery.start_soon(first.client.offset_range, TopicPartition(topic, 0))
        async with joined("second", given, journal) as second:
            await trio.sleep(299)
            assert second.owned == {}
            await until(lambda: len(second.owned) == 2)
            assert trio.current_time() < 310
            stage.broker.delay(0)
            await trio.sleep(100)  # what was asked is answered as late as it was to be
            await until(lambda: len(first.owned) == len(second.owned) == 1)
    assert [step.kind for step in journal if step.member == "first" and step.partitions][:3] == [
        *("assigned", "lost", "assigned")
    ]


async def test_a_commit_that_a_rebalance_overtakes(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A commit that arrives when the group has moved on is refused, as each protocol has it."""
    topic = await topic_with(stage, 5, 5)
    given = consuming(stage, topic)
    async with connected(given) as client:
        client.subscribe([topic])
        places = await next_of(client, Assigned)
        places.reply({place: StartAt(0, 1) for place in places.partitions})
        stage.broker.network.latency = lambda api: 5.0 if api == "OffsetCommit" else 0.0
        results: list[Any] = []

        async def commit() -> None:
            results.append(await client.commit([CommitEntry(places.partitions[0], 1, 3, "")]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit)
            await trio.sleep(1)
            async with joined("second", given, []):
                (await next_of(client, Revoked)).reply()
                await trio.sleep(10)
        (error,) = results[0].values()
        expected = ClientError.STALE_MEMBER_EPOCH if stage.protocol == "consumer" else ClientError.ILLEGAL_GENERATION
        assert error.code() == expected
        assert places.partitions[0] not in stage.broker.committed(given.group_id)


async def test_a_commit_that_the_end_overtakes(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """One that arrives when its member has left is refused, too; to expel who has left does nothing."""
    topic = await topic_with(stage, 5)
    async with connected(consuming(stage, topic)) as client:
        assert isinstance(client, SimulatedClient)
        client.subscribe([topic])
        (await next_of(client, Assigned)).reply({TopicPartition(topic, 0): StartAt(0, 1)})
        stage.broker.network.latency = lambda api: 5.0 if api == "OffsetCommit" else 0.0
        results: list[Any] = []

        async def commit() -> None:
            results.append(await client.commit([CommitEntry(TopicPartition(topic, 0), 1, 3, "")]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit)
            await trio.sleep(1)
            client.unsubscribe()
            (await next_of(client, Revoked)).reply()
        (error,) = results[0].values()
        assert error.code() == ClientError.UNKNOWN_MEMBER_ID
        stage.broker.expel(client)
        with trio.move_on_after(1):
            raise AssertionError(await client.next_event())


async def test_expelled_while_it_leaves(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """A member that is leaving anyway doesn't join again."""
    topic = await topic_with(stage, 5)
    given = consuming(stage, topic)
    async with connected(given) as client:
        assert isinstance(client, SimulatedClient)
        client.subscribe([topic])
        (await next_of(client, Assigned)).reply({TopicPartition(topic, 0): StartAt(0, 1)})
        client.unsubscribe()
        revoked = await next_of(client, Revoked)
        stage.broker.expel(client)
        revoked.reply()
        with trio.move_on_after(1):
            raise AssertionError(await client.next_event())
        assert list(stage.broker.members(given.group_id)) == []


async def test_new_partitions(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """What is new of a topic, or matches a pattern, is given to the members."""
    topic = await topic_with(stage, 5)
    journal: list[Step] = []
    async with joined("only", consuming(stage, f"^{topic}"), journal) as only:
        await until(lambda: len(only.owned) == 1)
        stage.broker.create_topic(topic, 3)
        await until(lambda: len(only.owned) == 3)
        stage.broker.create_topic(f"{topic}-too")
        await until(lambda: len(only.owned) == 4)


async def test_a_group_that_does_not_let_in(autojump_clock: MockClock, stage: SimulatedStage) -> None:
    """Errors of joining put off what is to be assigned."""
    topic = await topic_with(stage, 5)
    journal: list[Step] = []
    stage.broker.fail_next("JoinGroup", *[ClientError.COORDINATOR_LOAD_IN_PROGRESS] * 3)
    async with joined("only", consuming(stage, topic), journal) as only:
        await until(lambda: only.owned)
        assert 0.3 <= trio.current_time() < 0.4


async def test_an_operator_commits(autojump_clock: MockClock, broker: SimulatedBroker) -> None:
    """Who holds the broker sets and reads a group's offsets."""
    broker.create_topic("orders")
    assert broker.committed("billing") == {}
    broker.commit("billing", "orders", 0, 3, "m")
    broker.commit("shipping", "orders", 0, 9)
    assert broker.committed("billing") == {("orders", 0): (3, "m")}
    assert broker.committed("shipping") == {("orders", 0): (9, "")}
    assert list(broker.members("billing")) == []


async def test_members_have_names(autojump_clock: MockClock, broker: SimulatedBroker) -> None:
    """A member goes by its ``client.id``; others are told from one another all the same."""
    broker.create_topic("orders", 3)
    names = []
    named = config("consumer", **{"client.id": "mine"})
    async with connected(config("consumer")) as a, connected(named) as b, connected(config("consumer")) as c:
        for client in (a, b, c):
            assert isinstance(client, SimulatedClient)
            names.append(client.settings.member_id)
    assert names[1] == "mine"
    assert len(set(names)) == 3
