"""The handlers that this library is measured with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from benchmarks.job import Checker, Job
from trio_parallel_kafka import Record

Handler = Callable[[Record], Awaitable[None]]
QUESTION = b"?\n"
ANSWER_SIZE = 64


@asynccontextmanager
async def open_handler(job: Job, checker: Checker) -> AsyncIterator[Handler]:
    """Make the handler that the job asks for, with the connections that it needs."""
    async with trio.open_nursery() as nursery:
        if job.ask:
            streams = [await connect(job.ask) for _ in range(job.concurrency)]
            yield _asking(checker, streams)
            for stream in streams:
                nursery.start_soon(stream.aclose)
        elif job.delay:
            yield _sleeping(checker, job.delay)
        elif job.seconds:
            yield _timed(checker)
        else:
            yield _no_op(checker)


async def connect(address: str) -> trio.SocketStream:
    """Connect to ``host:port``."""
    host, _, port = address.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


def _no_op(checker: Checker) -> Handler:
    handled = checker.handled

    async def handle(record: Record) -> None:
        handled(record.key, record.partition, record.offset)

    return handle


def _timed(checker: Checker) -> Handler:
    timed, handled = checker.timed, checker.handled

    async def handle(record: Record) -> None:
        timed(record.value or b"")
        handled(record.key, record.partition, record.offset)

    return handle


def _sleeping(checker: Checker, delay: float) -> Handler:
    started, ended, sleep = checker.started, checker.ended, trio.sleep

    async def handle(record: Record) -> None:
        place = record.key, record.partition, record.offset
        started(*place)
        await sleep(delay)
        ended(*place)

    return handle


def _asking(checker: Checker, idle: list[trio.SocketStream]) -> Handler:
    started, ended = checker.started, checker.ended
    take, put_back = idle.pop, idle.append

    async def handle(record: Record) -> None:
        place = record.key, record.partition, record.offset
        started(*place)
        stream = take()
        await stream.send_all(QUESTION)
        await stream.receive_some(ANSWER_SIZE)
        put_back(stream)
        ended(*place)

    return handle
