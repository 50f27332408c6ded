"""Members of a group, on the level of the port: clients whose events a clause takes, and one that serves itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio
from confluent_kafka import Message

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.control.client import Assigned, Client, Committed, Event, Fetched, Lost, Revoked, StartAt
from trio_parallel_kafka.control.cluster import current_cluster
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.errors import ParallelKafkaError


@asynccontextmanager
async def connected(config: ConsumerConfig) -> AsyncIterator[Client]:
    """A client that has found the cluster; its end has no problems."""
    problems: list[ParallelKafkaError] = []
    async with current_cluster.get().open_client(config, problems) as client:
        await client.connect()
        yield client
    assert problems == []


@asynccontextmanager
async def assigned(config: ConsumerConfig, *starts: StartAt | None) -> AsyncIterator[Client]:
    """A client that was given a whole topic, with the starts of partitions 0, 1, ...; leaves as it should."""
    (topic,) = config.topics
    async with connected(config) as client:
        client.subscribe([topic])
        client.hurry()
        event = await next_of(client, Assigned)
        assert set(event.partitions) == {TopicPartition(topic, number) for number in range(len(starts))}
        event.reply({TopicPartition(topic, number): at for number, at in enumerate(starts) if at is not None})
        yield client
        client.unsubscribe()
        (await next_of(client, Revoked)).reply()


async def next_of(client: Client, kind: type[Event]) -> Any:
    """Wait for an event of a kind; others are passed over, and batches taken."""
    while True:
        event = await client.next_event()
        if isinstance(event, kind):
            return event
        if isinstance(event, Fetched):
            event.taken()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    while not condition():
        await trio.sleep(0.005)


class Read(NamedTuple):
    """What came of a partition: a record, or an error in its place."""

    partition: int
    offset: int
    error: int | None
    epoch: int | None


class Reader:
    """Takes batches."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.seen: list[Read] = []

    async def read(self, is_enough: Callable[[], object]) -> None:
        """Take batches until there is enough."""
        while not is_enough():
            event = await next_of(self._client, Fetched)
            self.seen += [_read(message, event) for message in event.messages]
            event.taken()

    async def idle(self, seconds: float) -> None:
        """Take what comes within a while."""
        with trio.move_on_after(seconds):
            await self.read(lambda: False)

    def offsets(self, partition: int, epoch: int | None = None) -> list[int]:
        """Of the records that came, in their order; of one assignment, or of all."""
        return [
            each.offset
            for each in self.seen
            if each.partition == partition and each.error is None and epoch in {None, each.epoch}
        ]

    def errors(self, partition: int) -> list[tuple[int, int]]:
        """Codes of the errors that came, each with its offset."""
        return [(each.error, each.offset) for each in self.seen if each.partition == partition and each.error]


def _read(message: Message, batch: Fetched) -> Read:
    place = TopicPartition(message.topic() or "", message.partition() or 0)
    error = message.error()
    code = None if error is None else error.code()
    return Read(place.partition, message.offset() or 0, code, batch.assignment_epochs.get(place))


class Step(NamedTuple):
    """What a member was told, and of which partitions of the topic."""

    member: str
    kind: str
    partitions: frozenset[int]


class Member:
    """Looks after itself: reads on from what is committed, and commits what it has read when it lets go.

    Attributes:
        name: its own.
        client: the port.
        owned: its partitions, each with the assignment epoch.
        positions: what it reads next of each.
        hold: awaited before a revoke is answered.
        is_late: what it would commit isn't its own any more.
    """

    def __init__(self, name: str, client: Client, journal: list[Step]) -> None:
        self.name = name
        self.client = client
        self.owned: dict[TopicPartition, int] = {}
        self.positions: dict[TopicPartition, int] = {}
        self.hold: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint
        self.is_late = False
        self._journal = journal
        self._epoch = 0

    async def serve(self) -> None:
        """Do what events ask for."""
        while True:
            event = await self.client.next_event()
            if isinstance(event, Assigned):
                self._note("assigned", event.partitions)
                event.reply(await self._starts(event.partitions))
            elif isinstance(event, Revoked):
                self._note("revoked", event.partitions)
                await self.hold()
                if not self.is_late:
                    await self.commit(event.partitions)
                self._note("let go", event.partitions)
                self._drop(event.partitions)
                event.reply()
            elif isinstance(event, Lost):
                self._note("lost", event.partitions)
                self._drop(event.partitions)
            elif isinstance(event, Fetched):
                for each in (_read(message, event) for message in event.messages):
                    if each.error is None:
                        self.positions.update({at: each.offset + 1 for at in self.owned if at[1] == each.partition})
                event.taken()

    async def leave(self) -> None:
        """Leave the group."""
        self.client.unsubscribe()
        await until(lambda: not self.owned)

    async def commit(self, partitions: Iterable[TopicPartition]) -> None:
        """Commit how far it has read."""
        entries = [CommitEntry(each, self.owned[each], self.positions[each], self.name) for each in partitions]
        if entries:
            results = await self.client.commit(entries)
            assert results == dict.fromkeys((each.partition for each in entries), None)

    async def _starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, StartAt]:
        self._epoch += 1
        found = await self.client.committed(partitions) if partitions else {}
        for partition in partitions:
            self.owned[partition] = self._epoch
            self.positions[partition] = _offset(found[partition])
        return {each: StartAt(self.positions[each], self._epoch) for each in partitions}

    def _drop(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            del self.owned[partition]
            del self.positions[partition]

    def _note(self, kind: str, partitions: Iterable[TopicPartition]) -> None:
        self._journal.append(Step(self.name, kind, frozenset(each.partition for each in partitions)))


def _offset(committed: Committed) -> int:
    assert committed.error is None
    return committed.offset or 0


@asynccontextmanager
async def joined(
    name: str, config: ConsumerConfig, journal: list[Step], *, leaves: bool = True
) -> AsyncIterator[Member]:
    """A member for the length of a block; it ``leaves`` the group, or is closed without a word."""
    async with connected(config) as client, trio.open_nursery() as nursery:
        member = Member(name, client, journal)
        client.subscribe(config.topics)
        client.hurry()
        nursery.start_soon(member.serve)  # noqa: ASYNC113 - its end is waited for
        yield member
        if leaves:
            await member.leave()
        nursery.cancel_scope.cancel()
