"""The port over confluent-kafka: async calls on the Trio side, made by the poll thread."""

from __future__ import annotations

import base64
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio
from confluent_kafka import (
    KafkaError as ClientError,
    KafkaException,
    TopicCollection,
    TopicPartition as ClientPartition,
    Uuid,
)
from confluent_kafka.admin import AdminClient

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.config.librdkafka import (
    client_properties,
    connection_properties,
    rebalance_is_incremental,
    uses_consumer_protocol,
)
from trio_parallel_kafka.control.client import (
    MISSING_TOPIC_PATIENCE,
    Committed,
    Event,
    Failed,
    Fetched,
    StartAt,
    Trouble,
)
from trio_parallel_kafka.control.gil import yielding_gil
from trio_parallel_kafka.control.poll_thread import CommitResults, PollSettings, PollThread
from trio_parallel_kafka.control.watchdog import LoopWatchdog
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
from trio_parallel_kafka.failures import as_error, end_error, final_error
from trio_parallel_kafka.statistics import PollStatistics

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.client")

REQUEST_TIMEOUT: Final = 3.0
"""Seconds that one question to the broker may take; the poll thread waits as long."""

T = TypeVar("T")


@asynccontextmanager
async def open_kafka_client(config: ConsumerConfig, problems: list[ParallelKafkaError]) -> AsyncIterator[KafkaClient]:
    """Start the poll thread; leaving the block closes the client within ``config.close_timeout``.

    If the client overruns that bound, its daemon thread is left behind and ``problems`` gets a
    :class:`CloseTimeoutError`.
    """
    client = KafkaClient(config)
    abandon = trio.CancelScope(shield=True)
    with yielding_gil(client.needs_gil):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.host, abandon)
            try:
                yield client
            finally:
                has_closed = False
                try:
                    has_closed = await client.close()  # noqa: ASYNC102 - it shields and bounds itself
                finally:  # also when a second Ctrl-C strikes
                    if not has_closed:
                        abandon.cancel()
                        message = (
                            f"the Kafka client didn't close within {config.close_timeout} s (close_timeout); is the "
                            "broker down? One daemon thread is left to it"
                        )
                        problems.append(CloseTimeoutError(message))


class KafkaClient:
    """See :class:`~trio_parallel_kafka.control.client.Client` for what each call means."""

    def __init__(self, config: ConsumerConfig) -> None:
        self._config: Final = config
        self._token: Final = trio.lowlevel.current_trio_token()
        self._events_in, self._events = trio.open_memory_channel[Event](math.inf)
        self._ended = trio.Event()
        self._unanswered: set[trio.Event] = set()
        self._admin: AdminClient | None = None
        self._properties: Final = client_properties(config)
        limits = FlowLimits(config.max_buffered_records, config.max_buffered_bytes)
        max_poll_interval = int(self._properties.get("max.poll.interval.ms", 300_000)) / 1000
        self._thread: Final = PollThread(
            PollSettings(
                properties=self._properties,
                is_incremental=rebalance_is_incremental(config),
                batch_size=limits.batch_size,
                batches_out=limits.batches_out,
                revoke_timeout=config.revoke_grace + config.close_timeout,
                assign_timeout=config.connect_timeout,
                leave_timeout=config.close_timeout / 4 if _tells_that_it_leaves(config) else 0,
                max_poll_interval=max_poll_interval,
            ),
            self._post,
            LoopWatchdog.for_this_thread(self._call_soon),
        )

    def needs_gil(self) -> bool:
        """Whether the poll thread needs the GIL, or may do so at any moment."""
        return self._thread.needs_gil()

    async def host(self, abandon: trio.CancelScope) -> None:
        """Host the thread until it ends, or ``abandon`` is cancelled."""
        with abandon:
            try:
                await trio.to_thread.run_sync(self._live, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
            except Exception as error:  # noqa: BLE001 - carried to whoever waits for events
                self._deliver(Failed(error))
            finally:
                self._ended.set()
                for waiting in self._unanswered:
                    waiting.set()

    async def close(self) -> bool:
        """Close the client, shielded and bounded; say whether it closed in time."""
        self.hurry()
        self._thread.submit(self._thread.stop)
        with trio.move_on_after(self._config.close_timeout, shield=True):
            await self._ended.wait()
        self._events_in.close()
        self._events.close()
        return self._ended.is_set()

    async def connect(self) -> None:
        deadline = time.monotonic() + self._config.connect_timeout
        reported: str | None = None
        names = [topic for topic in self._config.topics if not topic.startswith("^")]
        while True:
            try:
                problem = await self._call(lambda: self._find(names))
            except KafkaError:
                self._raise_trouble()  # what ended the client says more
                raise
            reported = self._raise_trouble() or reported
            if problem is None:
                return
            if isinstance(problem, TopicNotFoundError):
                deadline = min(deadline, time.monotonic() + MISSING_TOPIC_PATIENCE)
            if time.monotonic() >= deadline:
                raise problem if isinstance(problem, KafkaError) else self._unreachable(problem, reported)
            await trio.sleep(0.1)

    # Events

    async def next_event(self) -> Event:
        return await self._events.receive()

    def _post(self, event: Event) -> None:
        self._call_soon(lambda: self._deliver(event))

    def _deliver(self, event: Event) -> None:
        try:
            self._events_in.send_nowait(event)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            logger.debug("dropped %s after the end", type(event).__name__)

    def _call_soon(self, function: Callable[[], None]) -> None:
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            logger.debug("the Trio run is over")

    # Calls

    async def _call(self, function: Callable[[], T]) -> T:
        """Have the poll thread make a call, and wait for its result."""
        results: list[T] = []
        errors: list[BaseException] = []
        answered = trio.Event()

        def job() -> None:
            try:
                results.append(function())
            except BaseException as error:  # noqa: ASYNC103, BLE001 - carried to the caller
                errors.append(error)
            self._call_soon(answered.set)

        self._unanswered.add(answered)
        self._thread.submit(job)
        if self._ended.is_set():
            answered.set()
        try:
            await answered.wait()
        finally:
            self._unanswered.discard(answered)
        if errors:
            raise errors[0]
        if not results:
            message = "the Kafka client has ended"
            raise KafkaError(message)
        return results[0]

    def hurry(self) -> None:
        self._thread.submit(self._thread.hurry)

    def subscribe(self, topics: Sequence[str]) -> None:
        self._thread.submit(lambda: self._thread.subscribe(topics))

    def unsubscribe(self) -> None:
        self._thread.submit(self._thread.unsubscribe)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._thread.submit(lambda: self._thread.pause(partitions))

    def resume(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        self._thread.submit(lambda: self._thread.resume_at(next_offsets))

    def poll_statistics(self) -> PollStatistics:
        return self._thread.statistics()

    async def start(self, partition: TopicPartition, at: StartAt) -> None:
        def call() -> None:
            try:
                self._thread.start(partition, at)
            except KafkaException as error:
                raise as_error(error.args[0], "can't start reading", partition) from error

        await self._call(call)

    async def commit(self, entries: Sequence[CommitEntry]) -> CommitResults:
        results: list[CommitResults] = []
        answered = trio.Event()

        def done(result: CommitResults) -> None:
            results.append(result)
            self._call_soon(answered.set)

        self._unanswered.add(answered)
        try:
            await self._call(lambda: self._thread.commit(entries, done))
            await answered.wait()
        finally:
            self._unanswered.discard(answered)
        if not results:
            message = "the Kafka client has ended before the commit was acknowledged"
            raise KafkaError(message)
        return results[0]

    async def group_metadata(self, entries: Sequence[CommitEntry]) -> object | None:
        return await self._call(lambda: self._thread.group_metadata(entries))

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        return await self._call(lambda: self._committed(partitions))

    async def offset_range(self, partition: TopicPartition) -> tuple[int, int]:
        return await self._call(lambda: self._offset_range(partition))

    async def topic_ids(self, topics: Collection[str]) -> Mapping[str, bytes]:
        return await self._call(lambda: self._topic_ids(topics))

    async def topics(self) -> frozenset[str]:
        return await self._call(lambda: frozenset(self._all_partition_counts()))

    async def partition_counts(self) -> Mapping[str, int]:
        return await self._call(self._partition_counts)

    # What happens in the poll thread

    def _live(self) -> None:
        try:
            self._thread.run()
        finally:
            self._admin = None  # a client with threads of its own

    def _find(self, names: Sequence[str]) -> KafkaError | KafkaException | None:
        """Look for the cluster and the topics; return what is wrong."""
        consumer = self._thread.consumer
        try:
            for name in names:
                error = consumer.list_topics(name, timeout=1.0).topics[name].error
                if error is not None:
                    return self._topic_problem(name, error)
            if not names:
                consumer.list_topics(timeout=1.0)
        except KafkaException as error:
            final = final_error(error.args[0], is_running=False)
            if final is not None:
                raise final from error
            return error
        finally:
            self._thread.serve_callbacks()  # error_cb alone tells of wrong credentials
        return None

    @staticmethod
    def _topic_problem(name: str, error: ClientError) -> KafkaError:
        final = final_error(error, TopicPartition(name, -1))
        if final is not None:
            raise final
        return TopicNotFoundError(
            f"topic {name!r} isn't there ({error.name()}); make it, or correct `topics`", topic=name
        )

    def _unreachable(self, cause: KafkaException, reported: str | None) -> KafkaError:
        problem = BrokerUnreachableError(
            f"no answer from {self._config.bootstrap_servers} within {self._config.connect_timeout} s "
            f"(connect_timeout): {reported or cause.args[0].str()}"
        )
        problem.__cause__ = cause
        return problem

    def _raise_trouble(self) -> str | None:
        """Raise what the client reported on the side and can't pass; return the last that may."""
        reported = None
        while True:
            try:
                event = self._events.receive_nowait()
            except trio.WouldBlock:
                return reported
            if isinstance(event, Failed):
                raise end_error(event.error)
            for error in _errors_of(event):
                final = final_error(error, is_running=False)
                if final is not None:
                    raise final
                if error.code() != ClientError._ALL_BROKERS_DOWN:  # noqa: SLF001 - it doesn't say why
                    reported = error.str()

    def _committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        try:
            answer = self._thread.consumer.committed(
                [ClientPartition(*partition) for partition in partitions], timeout=REQUEST_TIMEOUT
            )
        except KafkaException as error:
            return dict.fromkeys(partitions, Committed(error=error.args[0]))
        return {TopicPartition(each.topic, each.partition): _committed(each) for each in answer}

    def _offset_range(self, partition: TopicPartition) -> tuple[int, int]:
        try:
            return self._thread.consumer.get_watermark_offsets(
                ClientPartition(*partition), timeout=REQUEST_TIMEOUT, cached=False
            )
        except KafkaException as error:
            raise as_error(error.args[0], "no answer about the offsets", partition) from error

    def _topic_ids(self, topics: Collection[str]) -> Mapping[str, bytes]:
        found = {}
        try:
            if self._admin is None:
                self._admin = AdminClient({**connection_properties(self._properties), "log_level": 0})
            asked = self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=REQUEST_TIMEOUT)
            for topic, answer in asked.items():
                topic_id = _topic_id(answer.result(timeout=REQUEST_TIMEOUT).topic_id)
                if any(topic_id):
                    found[topic] = topic_id
        except (KafkaException, TimeoutError) as error:
            logger.debug("the ids of topics aren't to be had: %s", error)
        return found

    def _partition_counts(self) -> Mapping[str, int]:
        has_pattern = any(topic.startswith("^") for topic in self._config.topics)
        counts = self._all_partition_counts()
        return {name: count for name, count in counts.items() if has_pattern or name in self._config.topics}

    def _all_partition_counts(self) -> dict[str, int]:
        try:
            metadata = self._thread.consumer.list_topics(timeout=REQUEST_TIMEOUT)
        except KafkaException as error:
            raise as_error(error.args[0], "no answer about the topics") from error
        return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}


def _errors_of(event: Event) -> list[ClientError]:
    """The errors in an event from before the group is joined; the client reports some of them but once."""
    if isinstance(event, Trouble):
        return [event.error]
    if not isinstance(event, Fetched):
        return []
    event.taken()
    return [error for error in (message.error() for message in event.messages) if error is not None]


def _tells_that_it_leaves(config: ConsumerConfig) -> bool:
    """Whether a member's name goes with its leaving: not under the new protocol, nor with static membership."""
    return not uses_consumer_protocol(config.kafka) and "group.instance.id" not in config.kafka


def _committed(answer: ClientPartition) -> Committed:
    if answer.error is not None:
        return Committed(error=answer.error)
    if answer.offset < 0:
        return Committed()
    try:
        metadata = answer.metadata
    except UnicodeDecodeError:  # the binding reads past the end of what another client wrote
        return Committed(answer.offset, None)
    return Committed(answer.offset, metadata or "")


def _topic_id(identity: Uuid) -> bytes:
    """The 16 bytes of the client's UUID, which it spells as unpadded URL-safe base64."""
    return base64.urlsafe_b64decode(f"{identity}==")
