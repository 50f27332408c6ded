"""A broker and the client of one group member, within the test's own tasks and in virtual time.

It keeps the contract of :class:`~trio_parallel_kafka.control.client.Client` as the poll thread does: calls are
made one after another in the order asked for; a batch is out until it is taken; a rebalance holds everything up
until it is answered, and calls are served meanwhile, commits then synchronously; acknowledgements of other
commits come between rebalances; nothing is committed but what is owned in the tenure of its entry.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio
from confluent_kafka import KafkaError as ClientError, Message

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.control.client import (
    Assigned,
    Committed,
    Event,
    Failed,
    Fetched,
    Lost,
    Revoked,
    StartAt,
    Trouble,
)
from trio_parallel_kafka.control.failures import as_error
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.errors import CloseTimeoutError, KafkaError
from trio_parallel_kafka.statistics import PollStatistics

T = TypeVar("T")
Results = dict[TopicPartition, ClientError | None]


@attrs.define
class Log:
    """One partition: the first offset that is there, the next to be written, and records with gaps."""

    first: int = 0
    end: int = 0
    records: dict[int, Message] = attrs.field(factory=dict)


class FakeBroker:
    """Topics, and what one group has committed.

    ``delays`` (seconds) and ``errors`` (used up one by one; ``None``: this time there is none) are scripted by the
    name of the call. ``share`` is what a member gets when it joins.
    """

    def __init__(self, **topics: int) -> None:
        self.logs = {TopicPartition(name, n): Log() for name, count in topics.items() for n in range(count)}
        self.topic_ids = {name: bytes([number]) * 16 for number, name in enumerate(topics, 1)}
        self.group: dict[TopicPartition, tuple[int, str | None]] = {}
        self.commits: list[CommitEntry] = []
        self.share: list[TopicPartition] = list(self.logs)
        self.delays: dict[str, float] = defaultdict(float)
        self.errors: dict[str, deque[ClientError | None]] = defaultdict(deque)
        self.max_metadata = 4095
        self.clients: list[FakeClient] = []
        self._ids = itertools.count(len(topics) + 1)

    @property
    def client(self) -> FakeClient:
        """The newest member."""
        return self.clients[-1]

    def produce(self, partition: TopicPartition, keys: Iterable[str | None], value: bytes = b"secret") -> None:
        """Append a record for each key."""
        log = self.logs[partition]
        for key in keys:
            raw = None if key is None else key.encode()
            log.records[log.end] = Message(*partition, log.end, raw, value, timestamp=(1, 1000))
            log.end += 1
        self._tell()

    def truncate(self, partition: TopicPartition, *, first: int | None = None, end: int | None = None) -> None:
        """Delete what is below ``first`` (retention), and from ``end`` on (an unclean leader election)."""
        log = self.logs[partition]
        log.first = log.first if first is None else first
        log.end = log.end if end is None else end
        log.records = {offset: each for offset, each in log.records.items() if log.first <= offset < log.end}
        self._tell()

    def recreate(self, topic: str) -> None:
        """Delete a topic and make it anew, empty."""
        self.topic_ids[topic] = bytes([next(self._ids)]) * 16
        for partition in self.logs:
            if partition.topic == topic:
                self.logs[partition] = Log()

    def take(self, entries: Sequence[CommitEntry]) -> Results:
        """A commit arrives; say what becomes of each entry."""
        error = self.next_error("commit")
        results: Results = {}
        for entry in entries:
            too_large = len(entry.metadata) > self.max_metadata
            results[entry.partition] = ClientError(ClientError.OFFSET_METADATA_TOO_LARGE) if too_large else error
            if results[entry.partition] is None:
                self.group[entry.partition] = (entry.offset, entry.metadata)
                self.commits.append(entry)
        return results

    def next_error(self, call: str) -> ClientError | None:
        return self.errors[call].popleft() if self.errors[call] else None

    def _tell(self) -> None:
        for client in self.clients:
            client.look()


class FakeClient:
    """The member; the methods above "The port" are what a test does to it."""

    def __init__(self, broker: FakeBroker, config: ConsumerConfig) -> None:
        self.broker = broker
        self.owned: dict[TopicPartition, int | None] = {}
        self.positions: dict[TopicPartition, int | None] = {}
        self.paused: set[TopicPartition] = set()
        self.calls: list[tuple[str, Any]] = []
        self.unanswered_at_close: tuple[TopicPartition, ...] = ()
        self.ended = trio.Event()
        self._batch_size = FlowLimits(config.max_buffered_records, config.max_buffered_bytes).batch_size
        self._events_in, self._events = trio.open_memory_channel[Event](math.inf)
        self._jobs: deque[Callable[[], Awaitable[None]]] = deque()
        self._callbacks: deque[Callable[[], Awaitable[None]]] = deque()
        self._messages: list[Message] = []
        self._told_end: dict[TopicPartition, int] = {}
        self._waiting: set[trio.Event] = set()
        self._awake = trio.lowlevel.ParkingLot()
        self._is_subscribed = self._is_in_callback = self._is_batch_out = self._is_closing = False
        self._late: trio.Nursery

    async def rebalance(
        self,
        *,
        assign: Sequence[TopicPartition] = (),
        revoke: Sequence[TopicPartition] = (),
        lose: Sequence[TopicPartition] = (),
    ) -> None:
        """The group takes and gives; returns once that has been answered."""
        done = trio.Event()

        async def callback() -> None:
            if revoke:
                await self._on_revoke(revoke)
            if lose:
                self._disown(lose)
                self._post(Lost(tuple(lose)))
            if assign and self._is_subscribed:
                await self._on_assign(assign)
            done.set()

        self._callbacks.append(callback)
        self.look()
        await done.wait()

    def send_error(self, code: int, partition: TopicPartition | None = None) -> None:
        """An error comes among the records."""
        topic, number = partition or (None, None)
        self._messages.append(Message(topic, number, error=ClientError(code)))
        self.look()

    def report(self, code: int) -> None:
        """An error comes that concerns no partition."""
        self._post(Trouble(ClientError(code)))

    def fail(self, error: Exception) -> None:
        """The client breaks down."""

        async def job() -> None:
            raise error

        self._submit(job)

    def rewind(self, partition: TopicPartition, offset: int) -> None:
        """The log goes on at a lower offset, and nobody says so."""
        self.positions[partition] = offset
        self.look()

    def look(self) -> None:
        """See whether there is something to do."""
        self._awake.unpark_all()

    # The port

    async def connect(self) -> None:
        await self._call("connect", lambda: None)

    async def next_event(self) -> Event:
        return await self._events.receive()

    def subscribe(self, topics: Sequence[str]) -> None:
        self._tell("subscribe", topics, lambda: self._subscribed(topics))

    def unsubscribe(self) -> None:
        self._tell("unsubscribe", None, self._unsubscribed)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._tell("pause", list(partitions), lambda: self.paused.update(each for each in partitions if each in self.owned))

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self._tell("resume", list(partitions), lambda: self.paused.difference_update(partitions))

    def hurry(self) -> None:
        self._tell("hurry", None, lambda: None)

    def poll_statistics(self) -> PollStatistics:
        return PollStatistics()

    async def start(self, partition: TopicPartition, at: StartAt) -> None:
        await self._call("start", lambda: self._started(partition, at))

    async def offset_range(self, partition: TopicPartition) -> tuple[int, int]:
        return await self._call("offset_range", lambda: attrs.astuple(self.broker.logs[partition])[:2])

    async def topic_ids(self, topics: Collection[str]) -> Mapping[str, bytes]:
        return await self._call("topic_ids", lambda: {each: self.broker.topic_ids[each] for each in topics})

    async def partition_counts(self) -> Mapping[str, int]:
        return await self._call("partition_counts", lambda: _counts(self.broker.logs))

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        try:
            return await self._call(
                "committed", lambda: {each: Committed(*self.broker.group.get(each, ())) for each in partitions}
            )
        except KafkaError as error:
            if error.__cause__ is None:
                raise
            return dict.fromkeys(partitions, Committed(error=error.__cause__.args[0]))

    async def commit(self, entries: Sequence[CommitEntry]) -> Mapping[TopicPartition, ClientError | None]:
        results: list[Results] = []
        answered = trio.Event()

        async def job() -> None:
            owned = [each for each in entries if self.owned.get(each.partition) == each.assignment_epoch]
            stale = {each.partition: ClientError(ClientError._STATE) for each in entries if each not in owned}
            if self._is_in_callback or not owned:
                await send(owned, stale)
            else:
                self._late.start_soon(send_later, owned, stale)

        async def send(owned: Sequence[CommitEntry], stale: Results) -> None:
            if owned:
                await trio.sleep(self.broker.delays["commit"])
            results.append(self.broker.take(owned) | stale if owned else stale)
            answered.set()

        async def send_later(owned: Sequence[CommitEntry], stale: Results) -> None:
            await trio.sleep(self.broker.delays["commit"])
            results.append(self.broker.take(owned) | stale)

            async def acknowledge() -> None:
                answered.set()

            self._callbacks.append(acknowledge)
            self.look()

        self._submit(job)
        await self._wait(answered)
        return results[0]

    # The task in which calls are made and callbacks run

    async def host(self, scope: trio.CancelScope) -> None:
        """Run until closed."""
        with scope:
            async with trio.open_nursery() as self._late:
                try:
                    await self._poll()
                except Exception as error:
                    await self._on_revoke(tuple(self.owned))
                    self._post(Failed(error))
                self._late.cancel_scope.cancel()
        self._disown(tuple(self.owned))
        self.ended.set()
        for each in self._waiting:
            each.set()

    def close(self) -> None:
        async def job() -> None:
            self.unanswered_at_close = tuple(self.owned)
            self._is_closing = True

        self._submit(job)

    async def _poll(self) -> None:
        while not self._is_closing:
            await trio.lowlevel.checkpoint()
            if self._jobs:
                await self._jobs.popleft()()
            elif self._callbacks:
                await self._callbacks.popleft()()
            elif not self._is_batch_out and (messages := self._fetch()):
                self._is_batch_out = True
                self._post(Fetched(messages, lambda: self._tell("taken", None, self._taken)))
            else:
                await self._awake.park()

    def _fetch(self) -> list[Message]:
        messages, self._messages = self._messages, []
        for partition in tuple(self.positions):
            if len(messages) < self._batch_size and partition not in self.paused:
                messages += self._read(partition, self._batch_size - len(messages))
        return messages

    def _read(self, partition: TopicPartition, count: int) -> list[Message]:
        position, log = self.positions[partition], self.broker.logs[partition]
        if position is None:
            return []
        self.positions[partition] = self.positions.pop(partition)  # the next batch begins with another
        if not log.first <= position <= log.end:
            self.positions[partition] = None
            return [Message(*partition, position, error=ClientError(ClientError._AUTO_OFFSET_RESET))]
        there = (log.records[offset] for offset in range(position, log.end) if offset in log.records)
        found = list(itertools.islice(there, count))
        if len(found) == count:
            offset = found[-1].offset()
            assert offset is not None
            self.positions[partition] = offset + 1
            return found
        self.positions[partition] = log.end
        if self._told_end.get(partition) != log.end:
            self._told_end[partition] = log.end
            found.append(Message(*partition, log.end, error=ClientError(ClientError._PARTITION_EOF)))
        return found

    def _taken(self) -> None:
        self._is_batch_out = False

    def _subscribed(self, topics: Sequence[str]) -> None:
        self._is_subscribed = True
        share = [each for each in self.broker.share if each.topic in topics]
        if share:
            self._late.start_soon(lambda: self.rebalance(assign=share))

    def _unsubscribed(self) -> None:
        self._is_subscribed = False
        if self.owned:
            self._callbacks.append(lambda: self._on_revoke(tuple(self.owned)))

    def _started(self, partition: TopicPartition, at: StartAt) -> None:
        if partition in self.owned:
            self.owned[partition] = at.assignment_epoch
            self.positions[partition] = at.offset
            self._told_end.pop(partition, None)
            self.paused.discard(partition)

    async def _on_assign(self, partitions: Sequence[TopicPartition]) -> None:
        answers = await self._ask(lambda reply: Assigned(tuple(partitions), reply))
        starts: Mapping[TopicPartition, StartAt] = answers[0] if answers else {}
        for partition in partitions:
            self.owned[partition] = None
            self.positions[partition] = None
            self.paused.add(partition)
            if partition in starts:
                self._started(partition, starts[partition])

    async def _on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        if partitions:
            await self._ask(lambda reply: Revoked(tuple(partitions), lambda: reply(None)))
            self._disown(partitions)

    async def _ask(self, event: Callable[[Callable[[Any], None]], Event]) -> list[Any]:
        """Post an event and serve calls until it is answered; nobody answers once the client is closing."""
        answers: list[Any] = []
        self._is_in_callback = True
        self._post(event(lambda answer: self._tell("reply", answer, lambda: answers.append(answer))))
        while not answers and not self._is_closing:
            if self._jobs:
                await self._jobs.popleft()()
            else:
                await self._awake.park()
        self._is_in_callback = False
        return answers

    def _disown(self, partitions: Collection[TopicPartition]) -> None:
        for partition in partitions:
            self.owned.pop(partition, None)
            self.positions.pop(partition, None)
            self.paused.discard(partition)

    def _post(self, event: Event) -> None:
        self._events_in.send_nowait(event)

    def _submit(self, job: Callable[[], Awaitable[None]]) -> None:
        self._jobs.append(job)
        self.look()

    def _tell(self, name: str, argument: Any, function: Callable[[], object]) -> None:
        """Have a call made without waiting for it."""
        self.calls.append((name, argument))

        async def job() -> None:
            function()

        self._submit(job)

    async def _call(self, name: str, function: Callable[[], T]) -> T:
        """Have a call made, and wait for what comes of it, after the scripted delay and error."""
        results: list[T] = []
        answered = trio.Event()
        errors: list[ClientError] = []

        async def job() -> None:
            await trio.sleep(self.broker.delays[name])
            error = self.broker.next_error(name)
            if error is None:
                results.append(function())
            else:
                errors.append(error)
            answered.set()

        self.calls.append((name, None))
        self._submit(job)
        await self._wait(answered)
        if errors:
            raise as_error(errors[0], f"{name} failed") from ClientException(errors[0])
        return results[0]

    async def _wait(self, answered: trio.Event) -> None:
        self._waiting.add(answered)
        if self.ended.is_set():
            raise KafkaError("the Kafka client has ended")
        await answered.wait()
        self._waiting.discard(answered)
        ...


def _counts(partitions: Iterable[TopicPartition]) -> Mapping[str, int]: ...
