"""The client of one group member, within the test's own tasks and in virtual time.

It keeps the contract of :class:`~trio_parallel_kafka.control.client.Client` as the poll thread does: calls are
made one after another in the order asked for; a batch is out until it is taken; a rebalance holds everything up
until it is answered, and calls are served meanwhile, commits then synchronously; acknowledgements of other
commits come between rebalances; nothing is committed but what is owned in the tenure of its entry.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio
from confluent_kafka import KafkaError as ClientError, Message
from shell.call_queue import CallQueue, Job
from shell.fake_broker import FakeBroker, Results

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
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.errors import CloseTimeoutError, KafkaError, ParallelKafkaError
from trio_parallel_kafka.failures import as_error
from trio_parallel_kafka.statistics import PollStatistics

T = TypeVar("T")


class FakeClient:
    """The member. What stands above "The port" is what a test does to it and sees of it.

    ``left_owned`` is what was read and
    had not been let go when it was closed.
    """

    def __init__(self, broker: FakeBroker, config: ConsumerConfig) -> None:
        self._close_timeout = config.close_timeout
        self.broker = broker
        self.owned: dict[TopicPartition, int | None] = {}
        self.positions: dict[TopicPartition, int | None] = {}
        self.paused: set[TopicPartition] = set()
        self.calls = CallQueue()
        self.left_owned: tuple[TopicPartition, ...] = ()
        self.ended = trio.Event()
        self._batch_size = FlowLimits(config.max_buffered_records, config.max_buffered_bytes).batch_size
        self._events_in, self._events = trio.open_memory_channel[Event](math.inf)
        self._callbacks: deque[Job] = deque()
        self._errors: list[Message] = []
        self._told_end: dict[TopicPartition, int] = {}
        self._is_subscribed = self._is_in_callback = self._is_batch_out = self._is_closing = False
        self._sent: trio.Nursery
        broker.on_change.append(self.calls.notify)

    async def rebalance(
        self,
        *,
        revoke: Sequence[TopicPartition] = (),
        lose: Sequence[TopicPartition] = (),
        assign: Sequence[TopicPartition] = (),
    ) -> None:
        """The group takes and gives; returns once that has been answered."""
        done = trio.Event()

        async def callback() -> None:
            if revoke:
                await self._on_revoke(revoke)
            if lose:
                self.broker.generation += 1
                self._disown(lose)
                self._post(Lost(tuple(lose)))
            self.broker.generation += 1
            if assign:
                await self._on_assign(assign)
            done.set()

        self._callbacks.append(callback)
        self.calls.notify()
        await done.wait()

    def send_error(self, code: int, partition: TopicPartition | None = None) -> None:
        """An error comes among the records."""
        place = {} if partition is None else partition._asdict()
        self._errors.append(Message(**place, error=ClientError(code)))
        self.calls.notify()

    def report(self, code: int) -> None:
        """An error comes that concerns no partition."""
        self._post(Trouble(ClientError(code)))

    def fail(self, error: Exception) -> None:
        """The client breaks down."""

        async def job() -> None:
            raise error

        self.calls.submit(job)

    def rewind(self, partition: TopicPartition, offset: int) -> None:
        """The log goes on at a lower offset, and nobody says so."""
        self.positions[partition] = offset
        self.calls.notify()

    # The port

    async def connect(self) -> None:
        await self._call("connect", None, lambda: None)

    async def next_event(self) -> Event:
        return await self._events.receive()

    def subscribe(self, topics: Sequence[str]) -> None:
        self.calls.tell("subscribe", topics, self._subscribed)

    def unsubscribe(self) -> None:
        self.calls.tell("unsubscribe", None, self._unsubscribed)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self.calls.tell("pause", partitions, lambda: self.paused.update(self.owned.keys() & set(partitions)))

    def resume(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        self.calls.tell("resume", next_offsets, lambda: self._resumed(next_offsets))

    def hurry(self) -> None:
        self.calls.tell("hurry", None, lambda: None)

    def poll_statistics(self) -> PollStatistics:
        return PollStatistics()

    async def start(self, partition: TopicPartition, at: StartAt) -> None:
        await self._call("start", (partition, at), lambda: self._started(partition, at))

    async def offset_range(self, partition: TopicPartition) -> tuple[int, int]:
        log = self.broker.logs[partition]
        return await self._call("offset_range", partition, lambda: (log.first, log.end))

    async def topic_ids(self, topics: Collection[str]) -> Mapping[str, bytes]:
        known = self.broker.topic_ids
        return await self._call(
            "topic_ids", topics, lambda: {each: known[each] for each in topics if each in known}, lambda _error: {}
        )

    async def group_metadata(self, entries: Sequence[CommitEntry]) -> object | None:
        def look() -> object | None:
            are_owned = all(self.owned.get(each.partition) == each.assignment_epoch for each in entries)
            return self.broker.generation if are_owned else None

        return await self._call("group_metadata", entries, look, lambda _error: None)

    async def topics(self) -> frozenset[str]:
        return await self._call("topics", None, lambda: frozenset(self.broker.partition_counts))

    async def partition_counts(self) -> Mapping[str, int]:
        return await self._call("partition_counts", None, lambda: self.broker.partition_counts)

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        return await self._call(
            "committed",
            partitions,
            lambda: {each: Committed(*self.broker.group.get(each, ())) for each in partitions},
            lambda error: dict.fromkeys(partitions, Committed(error=error)),
        )

    async def commit(self, entries: Sequence[CommitEntry]) -> Mapping[TopicPartition, ClientError | None]:
        async def job(answer: Callable[[Results], None]) -> None:
            owned = [each for each in entries if self.owned.get(each.partition) == each.assignment_epoch]
            refused: Results = {each.partition: ClientError(ClientError._STATE) for each in entries}

            async def send() -> Results:
                await trio.sleep(self.broker.delays["commit"])
                return refused | self.broker.take(owned)

            async def send_and_acknowledge() -> None:
                results = await send()
                self._callbacks.append(_job(lambda: answer(results)))
                self.calls.notify()

            if not owned:
                answer(refused)
            elif self._is_in_callback:
                answer(await send())
            else:
                self._sent.start_soon(send_and_acknowledge)

        return await self.calls.ask("commit", entries, job)

    # The task in which calls are made and callbacks run

    async def host(self, scope: trio.CancelScope) -> None:
        """Run until closed, or until ``scope`` is cancelled."""
        with scope:
            async with trio.open_nursery() as self._sent:
                try:
                    await self._poll()
                except Exception as error:  # noqa: BLE001 - carried to whoever waits for events
                    await self._on_revoke(tuple(self.owned))
                    self._post(Failed(error))
                self._sent.cancel_scope.cancel()
        self.left_owned = tuple(each for each, tenure in self.owned.items() if tenure is not None)
        self.ended.set()
        self.calls.end()

    async def close(self) -> bool:
        self._begin_close()
        with trio.move_on_after(self._close_timeout, shield=True):
            await self.ended.wait()
        return self.ended.is_set()

    def _begin_close(self) -> None:
        async def job() -> None:
            self._is_closing = True
            await trio.sleep(self.broker.delays["close"])

        self.calls.submit(job)

    async def _poll(self) -> None:
        while not self._is_closing:
            await trio.lowlevel.checkpoint()
            if self.calls:
                await self.calls.serve()
            elif self._callbacks:
                await self._callbacks.popleft()()
            elif not self._is_batch_out and (messages := self._fetch()):
                self._is_batch_out = True
                self._post(Fetched(messages, dict(self.owned), lambda: self.calls.tell("taken", None, self._taken)))
            else:
                await self.calls.wait()

    def _fetch(self) -> list[Message]:
        messages, self._errors = self._errors, []
        for partition in tuple(self.positions):
            if len(messages) < self._batch_size and partition not in self.paused:
                messages += self._read(partition, self._batch_size - len(messages))
        return messages

    def _read(self, partition: TopicPartition, count: int) -> list[Message]:
        position, log = self.positions.pop(partition), self.broker.logs[partition]
        self.positions[partition] = position  # at the end: the next batch begins with another
        if position is None:
            return []
        if not log.first <= position <= log.end:
            self.positions[partition] = None
            return [Message(*partition, position, error=ClientError(ClientError._AUTO_OFFSET_RESET))]
        offsets = list(itertools.islice((each for each in range(position, log.end) if each in log.records), count))
        messages = [log.records[each] for each in offsets]
        self.positions[partition] = offsets[-1] + 1 if len(offsets) == count else log.end
        if len(offsets) < count and self._told_end.get(partition) != log.end:
            self._told_end[partition] = log.end
            messages.append(Message(*partition, log.end, error=ClientError(ClientError._PARTITION_EOF)))
        return messages

    def _taken(self) -> None:
        self._is_batch_out = False

    def _resumed(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        was_all_paused = self.paused == self.owned.keys()
        self.paused.difference_update(next_offsets)
        if was_all_paused and not self._is_batch_out:
            self.positions.update((each, offset) for each, offset in next_offsets.items() if each in self.owned)

    def _subscribed(self) -> None:
        self._is_subscribed = True
        self._callbacks.append(lambda: self._on_assign(self.broker.share))

    def _unsubscribed(self) -> None:
        self._is_subscribed = False
        self._callbacks.append(lambda: self._on_revoke(tuple(self.owned)))

    def _started(self, partition: TopicPartition, at: StartAt) -> None:
        if partition in self.owned:
            self.owned[partition] = at.assignment_epoch
            self.positions[partition] = at.offset
            (self.paused.add if at.is_paused else self.paused.discard)(partition)
            self._told_end.pop(partition, None)

    async def _on_assign(self, partitions: Sequence[TopicPartition]) -> None:
        if not partitions or not self._is_subscribed:
            return
        answers = await self._ask(lambda reply: Assigned(tuple(partitions), reply))
        starts: Mapping[TopicPartition, StartAt] = answers[0] if answers else {}
        self.owned.update(dict.fromkeys(partitions))
        self.positions.update(dict.fromkeys(partitions))
        self.paused.update(partitions)
        for partition, at in starts.items():
            self._started(partition, at)

    async def _on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        if partitions:
            await self._ask(lambda reply: Revoked(tuple(partitions), lambda: reply(None)))
            self._disown(partitions)

    async def _ask(self, event: Callable[[Callable[[Any], None]], Event]) -> list[Any]:
        """Post an event and serve calls until it is answered; nobody answers a client that is closing."""
        answers: list[Any] = []
        self._is_in_callback = True
        self._post(event(lambda answer: self.calls.tell("reply", answer, lambda: answers.append(answer))))
        while not answers and not self._is_closing:
            if self.calls:
                await self.calls.serve()
            else:
                await self.calls.wait()
        self._is_in_callback = False
        return answers

    def _disown(self, partitions: Collection[TopicPartition]) -> None:
        for partition in partitions:
            self.owned.pop(partition, None)
            self.positions.pop(partition, None)
            self.paused.discard(partition)

    def _post(self, event: Event) -> None:
        self._events_in.send_nowait(event)

    async def _call(
        self,
        name: str,
        argument: object,
        function: Callable[[], T],
        refuse: Callable[[ClientError], T] | None = None,
    ) -> T:
        """Have a call made, and wait for what comes of it after the scripted delay, or of the scripted error."""

        async def job(answer: Callable[[T | KafkaError], None]) -> None:
            await trio.sleep(self.broker.delays[name])
            error = self.broker.next_error(name)
            if error is None:
                answer(function())
            else:
                answer(refuse(error) if refuse else as_error(error, f"{name} is refused"))

        found = await self.calls.ask(name, argument, job)
        if isinstance(found, KafkaError):
            raise found
        return found


def _job(function: Callable[[], object]) -> Job:
    async def job() -> None:
        function()

    return job


@asynccontextmanager
async def open_fake_client(
    broker: FakeBroker, config: ConsumerConfig, problems: list[ParallelKafkaError]
) -> AsyncIterator[FakeClient]:
    """Stands in for :func:`~trio_parallel_kafka.control.kafka_client.open_kafka_client`."""
    client = FakeClient(broker, config)
    scope = trio.CancelScope(shield=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.host, scope)
        try:
            yield client
        finally:
            if not await client.close():  # noqa: ASYNC102 - it shields and bounds itself
                scope.cancel()
                problems.append(CloseTimeoutError("the fake client didn't close in time"))
