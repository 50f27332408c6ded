"""aiokafka, with what its users write around it by hand. ``python -m benchmarks.peers.aiokafka_by_hand JOB``.

A task for each lane that has records, a semaphore around the handler, contiguous offsets committed each second. One
member alone: it doesn't expect rebalances.

Options: ``task_per`` (``lane``: its task handles all that the lane has; or ``record``, with a lock for each lane),
``buffered`` (records read and not yet handled, at most about), ``batch`` (records that are taken from the client at
once), ``uvloop`` (on, but for delays that its timers can't measure), ``consumer`` (further arguments of the client).
"""

from __future__ import annotations

import asyncio
import platform
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Mapping
from importlib.metadata import version
from operator import attrgetter
from typing import Any, Final, TypeAlias

import uvloop
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from benchmarks.job import Checker, Job, Outcome, load_job, print_outcome
from benchmarks.peers.asyncio_handlers import Handler, open_handler
from benchmarks.peers.by_hand import COMMIT_INTERVAL, Offsets, StallGuard, buffered, check_options

BUFFERED: Final = 50_000
BATCH: Final = 2_000
BY_RECORD: Final = {"record": True, "lane": False}
UVLOOP_TICK: Final = 0.001
"""Seconds: uvloop's timers count in whole milliseconds, and a shorter sleep would be none at all."""

POLL_MS: Final = 100
CONSUMER: Final = {
    "auto_offset_reset": "earliest",
    "check_crcs": False,
    "enable_auto_commit": False,
}
LANE_OF: Final[Mapping[str, Callable[[Any], Hashable] | None]] = {
    "key": attrgetter("key"),
    "partition": attrgetter("partition"),
    "unordered": None,
}

_Record: TypeAlias = ConsumerRecord[bytes, bytes]
_Lane: TypeAlias = deque[_Record]


class ByHand:
    """A consumer, as one writes it."""

    def __init__(self, job: Job, consumer: AIOKafkaConsumer, handle: Handler) -> None:
        self._job: Final = job
        self._consumer: Final = consumer
        self._handle: Final = handle
        self._buffered: Final = buffered(job, BUFFERED)
        self._batch: Final[int] = job.options.get("batch", BATCH)
        self._by_record: Final = BY_RECORD[job.options.get("task_per", "lane")]
        self._lanes: Final[dict[Hashable, _Lane]] = {}
        self._lane_of: Final = LANE_OF[job.ordering]
        self._locks: Final[defaultdict[Hashable, asyncio.Lock]] = defaultdict(asyncio.Lock)
        self._slots: Final = asyncio.Semaphore(job.concurrency)
        self._waiting = 0
        self._room: Final = asyncio.Event()
        self.offsets: Final = Offsets()

    async def read(self, tasks: asyncio.TaskGroup) -> None:
        """Read and hand out records, until cancelled."""
        while True:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=self._batch)
            for records in fetched.values():
                for record in records:
                    self._hand_out(record, tasks)
            # Handlers get their turn: as long as the client has records, getmany() doesn't wait at all.
            await asyncio.sleep(0)
            while self._waiting > self._buffered:
                self._room.clear()
                await self._room.wait()

    def _hand_out(self, record: _Record, tasks: asyncio.TaskGroup) -> None:
        self._waiting += 1
        self.offsets.opened(record.partition, record.offset)
        if self._lane_of is None:
            tasks.create_task(self._handle_alone(record))
            return
        name = self._lane_of(record)
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = deque()
        lane.append(record)
        if self._by_record:
            tasks.create_task(self._handle_next(name, lane))
        elif len(lane) == 1:
            tasks.create_task(self._handle_all(name, lane))

    async def _handle_alone(self, record: _Record) -> None:
        async with self._slots:
            await self._handle_record(record)
        self._make_room()

    async def _handle_next(self, name: Hashable, lane: _Lane) -> None:
        async with self._locks[name], self._slots:
            await self._handle_record(lane[0])
            lane.popleft()
        if not lane:
            del self._lanes[name], self._locks[name]
        self._make_room()

    async def _handle_all(self, name: Hashable, lane: _Lane) -> None:
        async with self._slots:
            while lane:
                await self._handle_record(lane[0])
                lane.popleft()
        del self._lanes[name]
        self._make_room()

    async def _handle_record(self, record: _Record) -> None:
        await self._handle(record.key, record.partition, record.offset, record.value)
        self.offsets.completed(record.partition, record.offset)
        self._waiting -= 1

    def _make_room(self) -> None:
        if self._waiting <= self._buffered:
            self._room.set()


async def consume(job: Job) -> Outcome:
    """Handle all that the job names."""
    check_options(job.options, "batch", "buffered", "consumer", "task_per", "uvloop")
    settings = {**CONSUMER, **job.options.get("consumer", {})}
    consumer = AIOKafkaConsumer(job.topic, bootstrap_servers=job.bootstrap_servers, group_id=job.group_id, **settings)
    over = asyncio.Event()
    checker = Checker(job, over.set)
    async with consumer, open_handler(job, checker) as handle:
        by_hand = ByHand(job, consumer, handle)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(by_hand.read(tasks)),
                tasks.create_task(_commit_often(job, consumer, by_hand.offsets, checker)),
            ]
            await over.wait()
            for task in background:
                task.cancel()
        await _commit(job, consumer, by_hand.offsets)
    used = {
        **settings,
        "batch": job.options.get("batch", BATCH),
        "buffered": buffered(job, BUFFERED),
        "concurrency": job.concurrency,
        "task per": job.options.get("task_per", "lane"),
        "loop": type(asyncio.get_running_loop()).__module__,
    }
    return checker.outcome(_versions(), {name: str(value) for name, value in used.items()})


async def _commit_often(job: Job, consumer: AIOKafkaConsumer, offsets: Offsets, checker: Checker) -> None:
    check_progress = StallGuard(checker.done, job.count, time.monotonic)
    while True:
        await asyncio.sleep(COMMIT_INTERVAL)
        check_progress()
        await _commit(job, consumer, offsets)


async def _commit(job: Job, consumer: AIOKafkaConsumer, offsets: Offsets) -> None:
    if moved := offsets.take_commit():
        await consumer.commit({TopicPartition(job.topic, each): position for each, position in moved.items()})


def _versions() -> dict[str, str]:
    return {
        "aiokafka": version("aiokafka"),
        "uvloop": version("uvloop"),
        platform.python_implementation(): platform.python_version(),
    }


if __name__ == "__main__":
    given = load_job(sys.argv)
    exact = not 0 < given.delay < UVLOOP_TICK
    run = uvloop.run if given.options.get("uvloop", exact) else asyncio.run
    print_outcome(run(consume(given)))
