"""Trio and confluent-kafka, put together by hand. ``python -m benchmarks.peers.trio_by_hand JOB``.

Records are read in a thread. A task for each record, a lock for each lane, a capacity limiter around the handler,
contiguous offsets committed each second. One member alone: it doesn't expect rebalances.

Options: ``task_per`` (``record``, or ``lane``: its task then handles all that the lane has, and needs no lock),
``buffered`` (records read and not yet handled, at most about), ``batch`` (records that are taken from the client at
once), ``consumer`` (further properties of the client).
"""

from __future__ import annotations

import platform
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

import attrs
import trio
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition, libversion

from benchmarks.job import Checker, Job, Outcome, load_job, print_outcome
from benchmarks.peers.by_hand import COMMIT_INTERVAL, Offsets, StallGuard, buffered, check_options

BUFFERED: Final = {"record": 2_000, "lane": 10_000}
BATCH: Final = {"record": 200, "lane": 500}
POLL: Final = 0.1
CLOSE_PATIENCE: Final = 10.0
CONSUMER: Final = {
    "auto.offset.reset": "earliest",
    "enable.auto.commit": "false",
    "fetch.queue.backoff.ms": "5",
    "fetch.wait.max.ms": "100",
}

_QUESTION = b"?\n"
_ANSWER_SIZE = 64


@attrs.frozen
class _Read:
    key: bytes | None
    value: bytes
    partition: int
    offset: int


@attrs.frozen
class _Lane:
    """Tasks start in any order; so each takes the record that is next, not one of its own."""

    lock: trio.Lock = attrs.field(factory=trio.Lock)
    records: deque[_Read] = attrs.field(factory=deque)


Handler = Callable[[_Read], Awaitable[None]]


class ByHand:
    """A consumer, as one writes it."""

    def __init__(self, job: Job, consumer: Consumer, handle: Handler) -> None:
        self._job: Final = job
        self._consumer: Final = consumer
        self._handle: Final = handle
        self._task_per: Final = _task_per(job)
        self._buffered: Final = _buffered(job)
        self._batch: Final = _batch(job)
        self._lanes: Final[dict[Hashable, _Lane]] = {}
        self._limiter: Final = trio.CapacityLimiter(job.concurrency)
        self._waiting = 0
        self._room = trio.Event()
        self.offsets: Final = Offsets()

    async def read(self) -> None:
        """Read and hand out records, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                for message in await trio.to_thread.run_sync(self._fetch):
                    self._hand_out(_read(message), nursery)
                while self._waiting > self._buffered:
                    self._room = trio.Event()
                    await self._room.wait()

    def _fetch(self) -> list[Message]:
        # consume() alone would wait for a whole batch before it returned the first of it.
        first = self._consumer.poll(POLL)
        return [first, *self._consumer.consume(self._batch - 1, 0)] if first else []

    def _hand_out(self, record: _Read, nursery: trio.Nursery) -> None:
        self._waiting += 1
        self.offsets.opened(record.partition, record.offset)
        if self._job.ordering == "unordered":
            nursery.start_soon(self._handle_alone, record)
            return
        name = record.key if self._job.ordering == "key" else record.partition
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane()
        lane.records.append(record)
        if self._task_per == "record":
            nursery.start_soon(self._handle_next, name, lane)
        elif len(lane.records) == 1:
            nursery.start_soon(self._handle_all, name, lane)

    async def _handle_next(self, name: Hashable, lane: _Lane) -> None:
        async with lane.lock:
            await self._handle_alone(lane.records[0])
            self._forget_first(name, lane)

    async def _handle_all(self, name: Hashable, lane: _Lane) -> None:
        async with self._limiter:
            while lane.records:
                record = lane.records[0]
                await self._handle(record)
                self._complete(record)
                self._forget_first(name, lane)

    def _forget_first(self, name: Hashable, lane: _Lane) -> None:
        lane.records.popleft()
        if not lane.records:
            del self._lanes[name]

    async def _handle_alone(self, record: _Read) -> None:
        async with self._limiter:
            await self._handle(record)
        self._complete(record)

    def _complete(self, record: _Read) -> None:
        self.offsets.completed(record.partition, record.offset)
        self._waiting -= 1
        if self._waiting == self._buffered:
            self._room.set()


def _task_per(job: Job) -> str:
    return str(job.options.get("task_per", "record"))


def _buffered(job: Job) -> int:
    return buffered(job, BUFFERED[_task_per(job)])


def _batch(job: Job) -> int:
    return int(job.options.get("batch", BATCH[_task_per(job)]))


def _read(message: Message) -> _Read:
    if error := message.error():
        raise KafkaException(error)
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return _Read(message.key(), message.value() or b"", partition, offset)


@asynccontextmanager
async def open_handler(job: Job, checker: Checker) -> AsyncIterator[Handler]:
    """Make the handler that the job asks for, with the connections that it needs."""
    started, ended, handled, timed = checker.started, checker.ended, checker.handled, checker.timed
    idle: list[trio.SocketStream] = []

    async def do_nothing(record: _Read) -> None:
        handled(record.key, record.partition, record.offset)

    async def take_time(record: _Read) -> None:
        timed(record.value)
        handled(record.key, record.partition, record.offset)

    async def sleep(record: _Read) -> None:
        started(record.key, record.partition, record.offset)
        await trio.sleep(job.delay)
        ended(record.key, record.partition, record.offset)

    async def ask(record: _Read) -> None:
        started(record.key, record.partition, record.offset)
        stream = idle.pop()
        await stream.send_all(_QUESTION)
        await stream.receive_some(_ANSWER_SIZE)
        idle.append(stream)
        ended(record.key, record.partition, record.offset)

    if job.ask:
        host, _, port = job.ask.rpartition(":")
        idle = [await trio.open_tcp_stream(host, int(port)) for _ in range(job.concurrency)]
        yield ask
        for stream in idle:
            await stream.aclose()
    elif job.delay:
        yield sleep
    else:
        yield take_time if job.seconds else do_nothing


async def consume(job: Job) -> Outcome:
    """Handle all that the job names."""
    check_options(job.options, "batch", "buffered", "consumer", "task_per")
    settings = {**CONSUMER, **job.options.get("consumer", {})}
    consumer = Consumer({**settings, "bootstrap.servers": job.bootstrap_servers, "group.id": job.group_id})
    consumer.subscribe([job.topic])
    over = trio.Event()
    checker = Checker(job, over.set)
    try:
        async with open_handler(job, checker) as handle:
            by_hand = ByHand(job, consumer, handle)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(by_hand.read)
                nursery.start_soon(_commit_often, job, consumer, by_hand.offsets, checker)
                await over.wait()
                nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(_commit_last, job, consumer, by_hand.offsets)
    finally:
        with trio.move_on_after(CLOSE_PATIENCE, shield=True):
            await trio.to_thread.run_sync(consumer.close)
    used = {
        **settings,
        "batch": _batch(job),
        "buffered": _buffered(job),
        "concurrency": job.concurrency,
        "task per": _task_per(job),
    }
    return checker.outcome(_versions(), {name: str(value) for name, value in used.items()})


async def _commit_often(job: Job, consumer: Consumer, offsets: Offsets, checker: Checker) -> None:
    check_progress = StallGuard(checker.done, job.count, trio.current_time)
    while True:
        await trio.sleep(COMMIT_INTERVAL)
        check_progress()
        if moved := _to_commit(job, offsets):
            consumer.commit(offsets=moved)


def _commit_last(job: Job, consumer: Consumer, offsets: Offsets) -> None:
    if moved := _to_commit(job, offsets):
        consumer.commit(offsets=moved, asynchronous=False)


def _to_commit(job: Job, offsets: Offsets) -> list[TopicPartition]:
    return [TopicPartition(job.topic, each, position) for each, position in offsets.take_commit().items()]


def _versions() -> dict[str, str]:
    return {
        "trio": version("trio"),
        "confluent-kafka": version("confluent-kafka"),
        "librdkafka": libversion()[0],
        platform.python_implementation(): platform.python_version(),
    }


if __name__ == "__main__":
    print_outcome(trio.run(consume, load_job(sys.argv)))
