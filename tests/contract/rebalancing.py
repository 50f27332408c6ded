"""Clauses: members come, go and are expelled; to be kept under each protocol."""

from __future__ import annotations

from collections.abc import Sequence, Set as AbstractSet
from typing import Final

import trio
from confluent_kafka import KafkaError as ClientError
from contract.members import Member, Reader, Step, connected, joined, next_of, until
from contract.stage import QUIET, Clause, Stage, consuming, topic_with

from trio_parallel_kafka.control.client import Assigned, Revoked, StartAt
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry

ALL: Final = frozenset(range(4))


async def one_comes_and_goes(stage: Stage) -> None:
    """Who gives partitions away is asked first, and who gets them is told last; what it has committed is there by then.

    Eager members let go of everything each time, others of what moves alone.
    """
    topic = await topic_with(stage, 5, 5, 5, 5)
    config = consuming(stage, topic)
    journal: list[Step] = []
    async with joined("first", config, journal) as first:
        await until(lambda: _has_read(first, ALL))
        async with joined("second", config, journal) as second:
            await until(lambda: len(first.owned) == len(second.owned) == 2 and _has_read(second, _parts(second)))
            moved = _parts(second)
            given_up = ALL if stage.protocol == "range" else moved
            came = _told(journal)
            journal.clear()
            await second.leave()
            await until(lambda: len(first.owned) == 4)
            went = _told(journal)
            assert first.positions == dict.fromkeys(first.owned, 5)
            committed = await stage.committed(config.group_id, topic)
            assert {number: committed[number] for number in moved} == dict.fromkeys(moved, (5, "second"))
    assert came[:3] == [("first", "assigned", ALL), ("first", "revoked", given_up), ("first", "let go", given_up)]
    back = [("first", "assigned", ALL - moved)] if stage.protocol == "range" else []
    assert sorted(came[3:]) == sorted([*back, ("second", "assigned", moved)])
    assert went[:2] == [("second", "revoked", moved), ("second", "let go", moved)]
    if stage.protocol == "range":
        rest = ALL - moved
        assert went[2:] == [("first", "revoked", rest), ("first", "let go", rest), ("first", "assigned", ALL)]
    else:
        assert went[2:] == [("first", "assigned", moved)]


async def a_revoke_waits(stage: Stage) -> None:
    """Until a revoke is answered nobody else gets the partitions; questions and commits are served in it."""
    topic = await topic_with(stage, 5, 5)
    config = consuming(stage, topic)
    journal: list[Step] = []
    may_go, is_held = trio.Event(), trio.Event()
    async with joined("first", config, journal) as first:
        await until(lambda: _has_read(first, {0, 1}))

        async def hold() -> None:
            is_held.set()
            await may_go.wait()

        first.hold = hold
        async with joined("second", config, journal) as second:
            await is_held.wait()
            place = TopicPartition(topic, 0)
            assert await first.client.offset_range(place) == (0, 5)
            entry = CommitEntry(place, first.owned[place], 3, "held")
            assert await first.client.commit([entry]) == {place: None}
            assert (await first.client.committed([place]))[place].offset == 3
            assert await first.client.group_metadata([entry]) is not None
            await trio.sleep(QUIET)
            assert second.owned == {}
            may_go.set()
            await until(lambda: len(first.owned) == len(second.owned) == 1)
            assert second.positions == dict.fromkeys(second.owned, 5)


async def closed_without_a_word(stage: Stage) -> None:
    """A member that is closed without having unsubscribed has left; what it hadn't committed is read again."""
    topic = await topic_with(stage, 5, 5)
    config = consuming(stage, topic, close_timeout=2.0)
    journal: list[Step] = []
    async with joined("first", config, journal) as first:
        await until(lambda: _has_read(first, {0, 1}))
        async with joined("second", config, journal, leaves=False) as second:
            await until(lambda: len(first.owned) == len(second.owned) == 1 and _has_read(second, _parts(second)))
            await stage.produce(topic, [b"5"], *_parts(second))
            await until(lambda: 6 in second.positions.values())
            (moved,) = _parts(second)
            steps = len(journal)
        await until(lambda: len(first.owned) == 2)
        assert first.positions[TopicPartition(topic, moved)] in {5, 6}
        await until(lambda: first.positions[TopicPartition(topic, moved)] == 6)
    assert "second" not in {step.member for step in journal[steps:]}


async def expelled(stage: Stage) -> None:
    """A member that the group took for gone is told that all is lost, mayn't commit it, and joins again."""
    topic = await topic_with(stage, 5, 5)
    config = consuming(stage, topic)
    journal: list[Step] = []
    async with joined("only", config, journal) as only:
        await until(lambda: _has_read(only, {0, 1}))
        before = dict(only.owned)
        await stage.expel(only.client, config.group_id)
        await until(lambda: len(journal) >= 3 and len(only.owned) == 2)
        both = frozenset({0, 1})
        assert _told(journal) == [("only", kind, both) for kind in ("assigned", "lost", "assigned")]
        results = await only.client.commit([CommitEntry(place, epoch, 5, "") for place, epoch in before.items()])
        assert [error.code() for error in results.values() if error] == [ClientError._STATE] * 2
        assert await stage.committed(config.group_id, topic) == {}
        await until(lambda: _has_read(only, {0, 1}))
        await only.commit(only.owned)
        assert await stage.committed(config.group_id, topic) == {0: (5, "only"), 1: (5, "only")}


async def a_revoke_without_an_answer(stage: Stage) -> None:
    """A revoke isn't waited for longer than handlers and the last commit may take: then others get the partitions."""
    topic = await topic_with(stage, 5, 5)
    config = consuming(stage, topic, revoke_grace=0.1, close_timeout=1.0, connect_timeout=1.5)
    journal: list[Step] = []
    may_go = trio.Event()
    async with joined("first", config, journal) as first:
        await until(lambda: _has_read(first, {0, 1}))
        before = dict(first.owned)
        first.hold = may_go.wait
        async with joined("second", config, journal) as second:
            await until(lambda: second.owned)
            assert ("first", "let go", _parts(second)) not in journal
            refused = await first.client.commit([CommitEntry(each, before[each], 5, "") for each in second.owned])
            assert [error.code() for error in refused.values() if error] == [ClientError._STATE]
            first.is_late = True
            may_go.set()
            await until(lambda: len(first.owned) == 1)


async def an_answer_that_comes_late(stage: Stage) -> None:
    """Where to start may be said so late that nobody waits for it any more."""
    topic = await topic_with(stage, 3)
    config = consuming(stage, topic, connect_timeout=1.0)
    async with connected(config) as client:
        client.subscribe([topic])
        client.hurry()
        event = await next_of(client, Assigned)
        await trio.sleep(config.connect_timeout + QUIET)
        await client.committed(event.partitions)
        event.reply({TopicPartition(topic, 0): StartAt(1, 4)})
        reader = Reader(client)
        await reader.read(lambda: len(reader.offsets(0)) == 2)
        assert reader.offsets(0, epoch=4) == [1, 2]
        client.unsubscribe()
        (await next_of(client, Revoked)).reply()


REBALANCING: Final[Sequence[Clause]] = (one_comes_and_goes, a_revoke_waits, closed_without_a_word, expelled)

WAITING: Final[Sequence[Clause]] = (a_revoke_without_an_answer, an_answer_that_comes_late)


def _has_read(member: Member, partitions: AbstractSet[int]) -> bool:
    """Whether it owns just these, and has read the five records of each."""
    return _parts(member) == partitions and set(member.positions.values()) == {5}


def _parts(member: Member) -> frozenset[int]:
    return frozenset(place.partition for place in member.owned)


def _told(journal: Sequence[Step]) -> list[Step]:
    """What was told of any partition: that there is nothing new is told now and then, and not by each broker."""
    return [step for step in journal if step.partitions]
