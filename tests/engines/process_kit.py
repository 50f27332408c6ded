"""Drives a process engine as a consumer does, and looks at processes from outside."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

import trio
from engines import process_handlers

from trio_parallel_kafka import Record
from trio_parallel_kafka.errors import HandlerTimeoutError
from trio_parallel_kafka.execution.attempts import GivenUp, UnderWay, attempting, waiting
from trio_parallel_kafka.execution.engine import Attempt, Execute
from trio_parallel_kafka.execution.engines import crew as crew_module, processes as processes_module
from trio_parallel_kafka.execution.engines.calls import Call
from trio_parallel_kafka.execution.engines.processes import ProcessEngine

# Processes are forked from one that has imported what takes long: a fork takes a hundredth of a start from scratch.
multiprocessing.set_forkserver_preload(
    ["trio_parallel_kafka.execution.engines.worker_process", "_trio_parallel_workers", "tblib.pickling_support"]
)

PATIENCE: Final = 60.0
"""Seconds after which a test hangs for certain."""


def record(offset: int, value: str = "give None", *, key: Path | None = None) -> Record:
    """A record for :func:`process_handlers.act`."""
    return Record("topic", 0, offset, key=str(key).encode() if key else None, value=value.encode())


def records(*values: str, key: Path | None = None) -> list[Record]:
    """One for each value, at offsets from 0."""
    return [record(offset, value, key=key) for offset, value in enumerate(values)]


@contextmanager
def without_main() -> Iterator[None]:
    """Have processes that begin meanwhile not import the test runner, which takes long."""
    main = sys.modules["__main__"]
    with mock.patch.object(main, "__spec__", None), mock.patch.object(main, "__file__", None, create=True):
        yield


class Driver:
    """An open engine, and what its calls came to.

    Attributes:
        results: what each call returned or raised, by offset; nothing for those that were cancelled.
    """

    def __init__(self, engine: ProcessEngine, execute: Execute) -> None:
        self.engine: Final = engine
        self.execute: Final = execute
        self.results: Final[dict[int, Any]] = {}
        self.scopes: Final[dict[int, trio.CancelScope]] = {}

    async def handle(self, record: Record[Any, Any], time: float | None = None) -> None:
        """Make one attempt at a record, as a consumer does, and note what came of it."""
        attempt_at = attempting(waiting(self.execute), time, GivenUp(), UnderWay())
        with trio.CancelScope() as self.scopes[record.offset]:
            try:
                self.results[record.offset] = await attempt_at(record)
            except HandlerTimeoutError:
                self.results[record.offset] = "timeout"
            except Exception as error:  # noqa: BLE001 - whatever it came to
                self.results[record.offset] = error

    async def handle_all(self, records: Iterable[Record[Any, Any]], time: float | None = None) -> dict[int, Any]:
        """Do so with all at once; they are in the queue before a process takes any."""
        async with trio.open_nursery() as nursery:
            for each in records:
                nursery.start_soon(self.handle, each, time)
        return self.results

    async def call(self, value: str, offset: int = 0) -> Any:
        """Have one record handled; give what it came to."""
        await self.handle(record(offset, value))
        return self.results[offset]

    def put(self, *records: Record) -> list[Call]:
        """Put calls into the queue, in this order; a process that takes several of them has them in this order."""
        calls = [Call(each, Attempt(None)) for each in records]
        for call in calls:
            self.engine._queue.put(call)
        return calls


class EagerCrew(crew_module.WorkerCrew):
    """Takes all that there is for one chunk, from the first on."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._seconds_per_call = 1e-9


@asynccontextmanager
async def opened(
    handler: Any = process_handlers.act, workers: int = 1, *, start_method: str = "forkserver", **options: Any
) -> AsyncIterator[Driver]:
    """An engine with processes that start fast, and take all that there is for one chunk."""
    engine = ProcessEngine(workers, start_method=start_method, **options)
    with (
        trio.fail_after(PATIENCE),
        without_main(),
        mock.patch.object(crew_module, "CHUNK_TIME", 1e9),
        mock.patch.object(processes_module, "WorkerCrew", EagerCrew),
    ):
        async with engine.open(handler) as execute:
            yield Driver(engine, execute)


@contextmanager
def hasty_restarts() -> Iterator[None]:
    """Have processes replaced without a pause."""
    with mock.patch.multiple(crew_module, FIRST_PAUSE=0.001, LONGEST_PAUSE=0.001):
        yield


async def wait_until(condition: Callable[[], object]) -> None:
    """Ask now and then."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.002)


def lines(path: Path) -> list[str]:
    """What a file has by now."""
    return path.read_text().splitlines() if path.exists() else []


def open_files() -> int:
    """How many descriptors this process has, without those that garbage of earlier tests still holds."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def make(path: Path) -> None:
    """Let those go on who wait for such a file."""
    path.touch()


def is_alive(pid: int) -> bool:
    """Whether there is such a process; a zombie counts, too."""
    return Path(f"/proc/{pid}").exists()


def descendants() -> set[int]:
    """All processes below this one, zombies included."""
    parents = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                stat = (path / "stat").read_text()
            except OSError:
                continue  # it has just ended
            parents[int(path.name)] = int(stat.rpartition(")")[2].split()[1])
    below: set[int] = set()
    found = {os.getpid()}
    while found:
        found = {pid for pid, parent in parents.items() if parent in found}
        below |= found
    return below
