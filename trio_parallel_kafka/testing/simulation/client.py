"""The client of one group member at the simulated broker, within tasks and in virtual time.

It keeps the contract of :class:`~trio_parallel_kafka.control.client.Client` as the poll thread does: calls are
made one after another in the order asked for; a batch is out until it is taken; a rebalance holds everything up
until it is answered, and calls are served meanwhile, commits then synchronously; acknowledgements of other
commits come between rebalances; nothing is committed but what is owned in the assignment of its entry.
"""

# ruff: noqa: SLF001 - the client's own error codes begin with an underscore

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import trio
from confluent_kafka import KafkaError as ClientError, Message

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.config.librdkafka import client_properties, rebalance_is_incremental, uses_consumer_protocol
from trio_parallel_kafka.control.client import (
    MISSING_TOPIC_PATIENCE,
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
from trio_parallel_kafka.errors import (
    BrokerUnreachableError,
    CloseTimeoutError,
    KafkaError,
    ParallelKafkaError,
    TopicNotFoundError,
)
from trio_parallel_kafka.failures import as_error, final_error
from trio_parallel_kafka.statistics import PollStatistics
from trio_parallel_kafka.testing.simulation.calls import CallQueue, Job
from trio_parallel_kafka.testing.simulation.group import Group, GroupMetadata, MemberSettings, Results

if TYPE_CHECKING:
    from trio_parallel_kafka.testing.simulation.broker import SimulatedBroker

T = TypeVar("T")

SOCKET_TIMEOUT: Final = 60.0
"""Seconds for which a commit waits for a broker that is down."""


class SimulatedClient:
    """The member. What stands above "The port" is what a test does to it and sees of it.

    Attributes:
        settings: what the group knows of it.
        owned: its partitions, each with the assignment epoch in which it is read, if it is.
        positions: what is read next of each.
        paused: what isn't read.
        generation: of the group, as this member knows it.
        left_owned: what was read and had not been let go when it was closed.
        ended: set once it is closed.
    """

    def __init__(self, broker: SimulatedBroker, config: ConsumerConfig, member_id: str) -> None:
        properties = client_properties(config)
        is_new = uses_consumer_protocol(config.kafka)
        session = int(properties.get("session.timeout.ms", 45_000)) / 1000
        self.settings: Final[MemberSettings] = MemberSettings(
            member_id=member_id,
            topics=tuple(config.topics),
            is_incremental=rebalance_is_incremental(config),
            uses_consumer_protocol=is_new,
            session_timeout=broker.consumer_session_timeout if is_new else session,
            max_poll_interval=int(properties.get("max.poll.interval.ms", 300_000)) / 1000,
        )
        self.broker: Final = broker
        self.group: Final[Group] = broker.group(config.group_id)
        self.owned: dict[TopicPartition, int | None] = {}
        self.positions: dict[TopicPartition, int | None] = {}
        self.paused: set[TopicPartition] = set()
        self.generation: int = 0
        self.calls: Final = CallQueue()
        self.left_owned: tuple[TopicPartition, ...] = ()
        self.ended: Final = trio.Event()
        self._config: Final = config
        limits = FlowLimits(config.max_buffered_records, config.max_buffered_bytes)
        self._batch_size, self._most_batches_out = limits.batch_size, limits.batches_out
        self._events_in, self._events = trio.open_memory_channel[Event](math.inf)
        self._callbacks: deque[Job] = deque()
        self._errors: list[Message] = []
        self._told_end: dict[TopicPartition, int] = {}
        self._memberships = 0
        self._is_subscribed = self._is_in_callback = self._is_closing = False
        self._batches_out = 0
        self._life: Final = trio.CancelScope(shield=True)
        self._wire: Final = trio.StrictFIFOLock()  # one connection: no commit overtakes another
        self._sent: trio.Nursery

    def call_back(
        self,
        *,
        revoke: Sequence[TopicPartition] = (),
        lose: Sequence[TopicPartition] = (),
        assign: Sequence[TopicPartition] = (),
        generation: int | None = None,
    ) -> trio.Event:
        """The group takes and gives; the event is set once that has been answered."""
        done = trio.Event()
        membership = self._memberships

        async def callback() -> None:
            if membership != self._memberships:
                return  # it was expelled before it could be told
            if revoke:
                await self._on_revoke([each for each in revoke if each in self.owned])
            if lose:
                self._disown(lose)
                self._post(Lost(tuple(lose)))
            self.generation = self.generation if generation is None else generation
            if assign:
                await self._on_assign(assign)
            done.set()

        self._callbacks.append(callback)
        self.calls.notify()
        return done

    def expelled(self) -> None:
        """The group has a new owner for everything; this member learns of it, and joins again."""
        self._memberships += 1

        async def callback() -> None:  # noqa: ASYNC124 - jobs are
            if owned := tuple(self.owned):
                self._disown(owned)
                self._post(Lost(owned))
            if self._is_subscribed:
                self.group.join(self)

        self._callbacks.append(callback)
        self.calls.notify()

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

        async def job() -> None:  # noqa: ASYNC124 - jobs are
            raise error

        self.calls.submit(job)

    def rewind(self, partition: TopicPartition, offset: int) -> None:
        """The log goes on at a lower offset, and nobody says so."""
        self.positions[partition] = offset
        self.calls.notify()

    def kill(self) -> None:
        """Its process is killed: nothing reaches the broker any more, and the broker isn't told."""
        self._is_closing = True
        self._is_subscribed = False
        self._post(Failed(KafkaError("the process was killed")))
        self._life.cancel()
        self.calls.end()
        self.broker.history.died(self.settings.member_id)
        self.broker.fall_silent(self)

    # The port

    async def connect(self) -> None:
        names = [topic for topic in self._config.topics if not topic.startswith("^")]
        deadline = trio.current_time() + self._config.connect_timeout
        problem: KafkaError
        while True:
            answer = await self._call("Metadata", names, lambda: self.broker.missing(names), lambda error: error)
            if answer is None:
                return
            if isinstance(answer, str):
                deadline = min(deadline, trio.current_time() + MISSING_TOPIC_PATIENCE)
                problem = TopicNotFoundError(
                    f"topic {answer!r} isn't there; make it, or correct `topics`", topic=answer
                )
            elif final := final_error(answer, is_running=False):
                raise final
            else:
                problem = as_error(answer, "no answer from the simulated broker", kind=BrokerUnreachableError)
            if trio.current_time() >= deadline:
                raise problem
            await trio.sleep(0.1)

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
        await self._call("start", (partition, at), lambda: self._started(partition, at), is_local=True)

    async def offset_range(self, partition: TopicPartition) -> tuple[int, int]:
        log = self.broker.logs[partition]
        return await self._call("ListOffsets", partition, lambda: (log.first, log.end))

    async def topic_ids(self, topics: Collection[str]) -> Mapping[str, bytes]:
        known = self.broker.topic_ids
        return await self._call(
            "DescribeTopicPartitions",
            topics,
            lambda: {each: known[each] for each in topics if each in known},
            lambda _error: {},
        )

    async def group_metadata(self, entries: Sequence[CommitEntry]) -> object | None:
        def look() -> object | None:
            are_owned = all(self.owned.get(each.partition) == each.assignment_epoch for each in entries)
            return self._metadata if are_owned else None

        return await self._call("group_metadata", entries, look, lambda _error: None, is_local=True)

    async def topics(self) -> frozenset[str]:
        return await self._call("Metadata", None, lambda: frozenset(self.broker.partition_counts))

    async def partition_counts(self) -> Mapping[str, int]:
        def look() -> Mapping[str, int]:
            has_pattern = any(topic.startswith("^") for topic in self._config.topics)
            counts = self.broker.partition_counts
            return {name: count for name, count in counts.items() if has_pattern or name in self._config.topics}

        return await self._call("Metadata", None, look)

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        return await self._call(
            "OffsetFetch",
            partitions,
            lambda: {each: Committed(*self.group.offsets.get(each, ())) for each in partitions},
            lambda error: dict.fromkeys(partitions, Committed(error=error)),
        )

    async def commit(self, entries: Sequence[CommitEntry]) -> Mapping[TopicPartition, ClientError | None]:
        async def job(answer: Callable[[Results], None]) -> None:
            owned = [each for each in entries if self.owned.get(each.partition) == each.assignment_epoch]
            refused: Results = {each.partition: ClientError(ClientError._STATE) for each in entries}
            given = self._metadata

            async def send() -> Results:
                async with self._wire:
                    error = await self.broker.network.request("OffsetCommit", SOCKET_TIMEOUT)
                sent = [(each.partition, each.offset, each.metadata) for each in owned]
                error = error or self.group.objection(given)
                results = self.group.commit(self.settings.member_id, sent, error)
                await self.broker.network.answer("OffsetCommit")
                failed = next((each for each in results.values() if each is not None), None)
                # librdkafka tells the error of one partition as that of all.
                return refused | (results if failed is None else dict.fromkeys(results, failed))

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

    async def host(self) -> None:
        """Run until closed, or killed."""
        with self._life:
            async with trio.open_nursery() as self._sent:
                try:
                    await self._poll()
                except Exception as error:  # noqa: BLE001 - carried to whoever waits for events
                    await self._on_revoke(tuple(self.owned))
                    self._post(Failed(error))
                self._sent.cancel_scope.cancel()
            self.group.leave(self)
        self.left_owned = tuple(each for each, epoch in self.owned.items() if epoch is not None)
        self.ended.set()
        self.calls.end()

    async def close(self) -> bool:
        """End, shielded and bounded by ``close_timeout``; say whether it ended."""

        async def job() -> None:
            self._is_closing = True
            await self.broker.network.answer("close")

        self.calls.submit(job)
        with trio.move_on_after(self._config.close_timeout, shield=True) as bound:
            await self.ended.wait()
        if bound.cancelled_caught:
            self._life.cancel()
            self.broker.fall_silent(self)
        return not bound.cancelled_caught

    async def _poll(self) -> None:
        while not self._is_closing:
            await trio.lowlevel.checkpoint()
            if self.calls:
                await self.calls.serve()
            elif self._callbacks:
                await self._callbacks.popleft()()
            elif self._batches_out < (1 if self.paused else self._most_batches_out) and (messages := self._fetch()):
                self._batches_out += 1
                self._post(Fetched(messages, dict(self.owned), lambda: self.calls.tell("taken", None, self._taken)))
            else:
                await self.calls.wait()

    def _fetch(self) -> list[Message]:
        if self.broker.network.is_down:
            return []
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
        messages = [*log.read(position, count)]
        if len(messages) == count:
            self.positions[partition] = cast("int", messages[-1].offset()) + 1
            return messages
        self.positions[partition] = log.end
        if self._told_end.get(partition) != log.end:
            self._told_end[partition] = log.end
            messages.append(Message(*partition, log.end, error=ClientError(ClientError._PARTITION_EOF)))
        return messages

    @property
    def _metadata(self) -> GroupMetadata:
        return GroupMetadata(self, self.generation)

    def _taken(self) -> None:
        self._batches_out -= 1

    def _resumed(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        was_all_paused = self.paused == self.owned.keys()
        self.paused.difference_update(next_offsets)
        if was_all_paused and not self._batches_out:
            self.positions.update((each, offset) for each, offset in next_offsets.items() if each in self.owned)

    def _subscribed(self) -> None:
        self._is_subscribed = True
        self.group.join(self)

    def _unsubscribed(self) -> None:
        self._is_subscribed = False
        self.group.begin_leave(self)

        async def callback() -> None:
            owned = tuple(self.owned)
            await self._on_revoke(owned)
            if owned and not self._is_closing:
                self.broker.history.revoked(self.settings.member_id, owned)
            self.group.leave(self)

        self._callbacks.append(callback)

    def _started(self, partition: TopicPartition, at: StartAt) -> None:
        if partition in self.owned:
            self.owned[partition] = at.assignment_epoch
            self.positions[partition] = at.offset
            (self.paused.add if at.is_paused else self.paused.discard)(partition)
            self._told_end.pop(partition, None)

    async def _on_assign(self, partitions: Sequence[TopicPartition]) -> None:
        if not partitions or not self._is_subscribed:
            return
        answers = await self._ask(
            lambda reply: Assigned(tuple(partitions), reply), self._config.connect_timeout, self._start_all
        )
        starts: Mapping[TopicPartition, StartAt] = answers[0] if answers else {}
        self.owned.update(dict.fromkeys(partitions))
        self.positions.update(dict.fromkeys(partitions))
        self.paused.update(partitions)
        self._start_all(starts)

    def _start_all(self, starts: Mapping[TopicPartition, StartAt]) -> None:
        for partition, at in starts.items():
            self._started(partition, at)

    async def _on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        if partitions:
            patience = self._config.revoke_grace + self._config.close_timeout
            await self._ask(lambda reply: Revoked(tuple(partitions), lambda: reply(None)), patience)
            self._disown(partitions)

    async def _ask(
        self,
        event: Callable[[Callable[[Any], None]], Event],
        patience: float,
        late: Callable[[Any], object] = lambda _answer: None,
    ) -> list[Any]:
        """Post an event and serve calls until it is answered; an answer that isn't there in time is for ``late``.

        Nobody answers a client that is closing.
        """
        answers: list[Any] = []
        accept: Callable[[Any], object] = answers.append
        deadline = trio.current_time() + patience
        self._is_in_callback = True
        self._post(event(lambda answer: self.calls.tell("reply", answer, lambda: accept(answer))))
        while not answers and not self._is_closing and trio.current_time() < deadline:
            if self.calls:
                await self.calls.serve()
            else:
                with trio.move_on_at(deadline):
                    await self.calls.wait()
        self._is_in_callback = False
        accept = late
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
        api: str,
        argument: object,
        function: Callable[[], T],
        refuse: Callable[[ClientError], T | KafkaError] | None = None,
        *,
        is_local: bool = False,
    ) -> T:
        """Have a request made, and wait for what comes of it, or of the error that it is to have.

        The broker hears nothing of one that ``is_local``.
        """
        refuse = refuse or (lambda error: as_error(error, f"{api} is refused"))

        async def job(answer: Callable[[T | KafkaError], None]) -> None:
            network = self.broker.network
            error = network.next_error(api) if is_local else await network.request(api)
            result = function() if error is None else refuse(error)
            await self.broker.network.answer(api)
            answer(result)

        found = await self.calls.ask(api, argument, job)
        if isinstance(found, KafkaError):
            raise found
        return found


def _job(function: Callable[[], object]) -> Job:
    async def job() -> None:  # noqa: ASYNC124 - jobs are
        function()

    return job


@asynccontextmanager
async def open_simulated_client(
    client: SimulatedClient, problems: list[ParallelKafkaError]
) -> AsyncIterator[SimulatedClient]:
    """Host a client for the length of a block."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.host)
        try:
            yield client
        finally:
            if not await client.close():  # noqa: ASYNC102 - it shields and bounds itself
                problems.append(CloseTimeoutError("the simulated client didn't close in time"))
