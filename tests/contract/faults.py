"""Clauses: faults by script, which only brokers that are made for tests know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeAlias

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from contract.members import Step, assigned, connected, joined, until
from contract.stage import QUIET, Stage, consuming, sending, topic_with

from trio_parallel_kafka.control.client import Committed, StartAt
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.errors import DeliveryError, RecordTooLargeError
from trio_parallel_kafka.producer import open_producer


class Scriptable(Protocol):
    """A broker that can be told what to get wrong."""

    def fail_next(self, api: str, *error_codes: int) -> None:
        """Answer the next requests of a name with errors; 0 lets one pass."""

    def delay(self, seconds: float) -> None:
        """Let all take longer."""

    def down(self) -> None:
        """Answer nothing."""

    def up(self) -> None:
        """Answer again."""

    def requests(self) -> Counter[str]:
        """How many came, by name."""

    def clear_requests(self) -> None:
        """Forget them."""


class ScriptableStage(Stage, Protocol):
    """A stage whose broker is one."""

    @property
    def broker(self) -> Scriptable:
        """The broker."""


FaultClause: TypeAlias = Callable[[ScriptableStage], Awaitable[None]]


async def a_commit_is_refused(stage: ScriptableStage) -> None:
    """An error that is scripted is the answer to the next commit, to that alone, and only after what is to pass."""
    topic = await topic_with(stage, 5)
    place = TopicPartition(topic, 0)
    async with assigned(consuming(stage, topic), StartAt(0, 1)) as client:
        stage.broker.clear_requests()
        stage.broker.fail_next("OffsetCommit", 0, ClientError.GROUP_AUTHORIZATION_FAILED)
        assert await client.commit([CommitEntry(place, 1, 1, "")]) == {place: None}
        error = (await client.commit([CommitEntry(place, 1, 2, "")]))[place]
        assert error is not None
        assert error.code() == ClientError.GROUP_AUTHORIZATION_FAILED
        assert (await client.committed([place]))[place].offset == 1
        assert await client.commit([CommitEntry(place, 1, 3, "")]) == {place: None}
        assert stage.broker.requests()["OffsetCommit"] == 3
        assert stage.broker.requests()["OffsetFetch"] == 1


async def a_question_is_refused(stage: ScriptableStage) -> None:
    """What can't be said of a group's offsets is answered with an error for each partition."""
    topic = await topic_with(stage, 5, 5)
    places = [TopicPartition(topic, number) for number in range(2)]
    async with connected(consuming(stage, topic)) as client:
        stage.broker.fail_next("OffsetFetch", ClientError.GROUP_AUTHORIZATION_FAILED)
        found = await client.committed(places)
        codes = [each.error.code() for each in found.values() if each.error]
        assert codes == [ClientError.GROUP_AUTHORIZATION_FAILED] * 2
        assert await client.committed(places) == dict.fromkeys(places, Committed())


async def a_record_is_refused(stage: ScriptableStage) -> None:
    """An error that is final fails the record, and no other."""
    topic = await topic_with(stage, 0)
    async with open_producer(sending(stage)) as producer:
        await producer.send(topic, b"0")
        stage.broker.fail_next("Produce", ClientError.MSG_SIZE_TOO_LARGE)
        with pytest.raises(RecordTooLargeError):
            await producer.send(topic, b"1")
        await producer.send(topic, b"2")
    assert [message.value() for message in await stage.read(topic, 0)] == [b"0", b"2"]


async def a_record_is_not_acknowledged(stage: ScriptableStage) -> None:
    """What isn't acknowledged in time fails, and nobody knows whether it is there; so does what is behind it."""
    topic = await topic_with(stage, 0)
    async with open_producer(sending(stage, delivery_timeout=0.5)) as producer:
        await producer.send(topic, b"0")
        stage.broker.down()
        pending = producer.send_nowait(topic, b"1")
        for wait in (producer.send(topic, b"2"), pending.wait()):
            with pytest.raises(DeliveryError, match="not acknowledged within delivery_timeout; it is unknown"):
                await wait
        stage.broker.up()


async def away_for_a_moment(stage: ScriptableStage) -> None:
    """A member outlives a broker that is away for a moment: it keeps its partitions, reads on and commits."""
    topic = await topic_with(stage, 5, 5)
    config = consuming(stage, topic)
    journal: list[Step] = []
    async with joined("only", config, journal) as only:
        await until(lambda: list(only.positions.values()) == [5, 5])
        stage.broker.down()
        await trio.sleep(QUIET)
        stage.broker.up()
        for partition in range(2):
            await stage.produce(topic, [b"5"], partition)
        await until(lambda: list(only.positions.values()) == [6, 6])
        await only.commit(only.owned)
        assert [step.kind for step in journal if step.partitions] == ["assigned"]
    assert await stage.committed(config.group_id, topic) == {0: (6, "only"), 1: (6, "only")}


async def answers_are_slow(stage: ScriptableStage) -> None:
    """Answers that take long come all the same."""
    topic = await topic_with(stage, 5)
    place = TopicPartition(topic, 0)
    async with assigned(consuming(stage, topic), StartAt(0, 1)) as client:
        began = trio.current_time()
        stage.broker.delay(0.1)
        assert await client.commit([CommitEntry(place, 1, 2, "")]) == {place: None}
        assert trio.current_time() - began >= 0.1
        stage.broker.delay(0)
        assert (await client.committed([place]))[place].offset == 2


async def no_such_request(stage: ScriptableStage) -> None:
    """A script that names no request, or no error, is a mistake."""
    with pytest.raises(ValueError, match=r"unknown request 'Nonsense'; known are .*OffsetCommit"):
        stage.broker.fail_next("Nonsense", ClientError.UNKNOWN)
    with pytest.raises(ValueError, match="name at least one error code"):
        stage.broker.fail_next("OffsetCommit")


FAULTS: Final[Sequence[FaultClause]] = (
    a_commit_is_refused,
    a_question_is_refused,
    a_record_is_refused,
    a_record_is_not_acknowledged,
    away_for_a_moment,
    answers_are_slow,
    no_such_request,
)
