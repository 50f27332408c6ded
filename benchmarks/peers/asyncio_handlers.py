"""The handlers that peers on asyncio are measured with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from benchmarks.job import Checker, Job

Handler = Callable[[bytes | None, int, int, bytes | None], Awaitable[None]]
"""Called with a record's key, partition, offset and value."""

_Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_QUESTION = b"?\n"


@asynccontextmanager
async def open_handler(job: Job, checker: Checker) -> AsyncIterator[Handler]:
    """Make the handler that the job asks for, with the connections that it needs."""
    if job.ask:
        host, _, port = job.ask.rpartition(":")
        lines = [await asyncio.open_connection(host, int(port)) for _ in range(job.concurrency)]
        yield _asking(checker, lines)
        for _, writer in lines:
            writer.close()
    elif job.delay:
        yield _sleeping(checker, job.delay)
    elif job.seconds:
        yield _timed(checker)
    else:
        yield _no_op(checker)


def _no_op(checker: Checker) -> Handler:
    handled = checker.handled

    async def handle(key: bytes | None, partition: int, offset: int, _value: bytes | None) -> None:
        handled(key, partition, offset)

    return handle


def _timed(checker: Checker) -> Handler:
    timed, handled = checker.timed, checker.handled

    async def handle(key: bytes | None, partition: int, offset: int, value: bytes | None) -> None:
        timed(value or b"")
        handled(key, partition, offset)

    return handle


def _sleeping(checker: Checker, delay: float) -> Handler:
    started, ended, sleep = checker.started, checker.ended, asyncio.sleep

    async def handle(key: bytes | None, partition: int, offset: int, _value: bytes | None) -> None:
        started(key, partition, offset)
        await sleep(delay)
        ended(key, partition, offset)

    return handle


def _asking(checker: Checker, idle: list[_Line]) -> Handler:
    started, ended = checker.started, checker.ended

    async def handle(key: bytes | None, partition: int, offset: int, _value: bytes | None) -> None:
        started(key, partition, offset)
        reader, writer = line = idle.pop()
        writer.write(_QUESTION)
        await reader.readline()
        idle.append(line)
        ended(key, partition, offset)

    return handle
