"""Which handlers an engine takes, by which engine the configuration is served, and engines of a user's own."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from shell.kit import P0, Handling, World
from trio.testing import MockClock

from trio_parallel_kafka import (
    Attempt,
    ConsumerBusyError,
    EngineStatistics,
    Execute,
    ExecutionEngine,
    InvalidHandlerError,
    Record,
    parallel_consumer,
)
from trio_parallel_kafka.errors import WorkerStartError
from trio_parallel_kafka.execution.engines import engine_of
from trio_parallel_kafka.execution.engines.asynchronous import AsyncEngine
from trio_parallel_kafka.execution.engines.handlers import imported, is_async
from trio_parallel_kafka.execution.engines.processes import ProcessEngine
from trio_parallel_kafka.execution.engines.threads import ThreadEngine


def plain(_record: object) -> None:
    """A plain function."""


async def waits(_record: object) -> None:
    """An async one."""


class Plain:
    def __call__(self, _record: object) -> None:
        pass

    async def method(self, _record: object) -> None:
        pass


class Waits:
    async def __call__(self, _record: object) -> None:
        pass

    def method(self, _record: object) -> None:
        pass


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (waits, True),
        (functools.partial(functools.partial(waits)), True),
        (Waits(), True),
        (functools.partial(Waits()), True),
        (Plain().method, True),
        (plain, False),
        (functools.partial(plain), False),
        (Plain(), False),
        (Waits().method, False),
        (print, False),
        (Plain, False),
        (None, False),
    ],
)
def test_async_or_not(handler: object, expected: bool) -> None:
    """Partials, methods and callable objects are what the function in them is."""
    assert is_async(handler) is expected


def test_names() -> None:
    """A name is imported, dots after the colon included; a function stays what it is."""
    assert imported("os.path:join") is __import__("os").path.join
    assert imported("engines.journal:Journal.open").__name__ == "open"
    assert imported(plain) is plain


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.path.join", "is named by 'module:function', not 'os.path.join'"),
        ("nowhere:handle", "can't import the handler 'nowhere:handle': ModuleNotFoundError"),
        ("os:nothing", "AttributeError"),
        (":", "ValueError"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    """What is wrong with a name is said."""
    with pytest.raises(InvalidHandlerError, match=message):
        imported(name)


def test_module_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a module raises as it is imported may pass: it leaves as it is, and says where it comes from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "without_database.py").write_text("raise OSError('no database')")
    with pytest.raises(OSError, match="no database") as caught:
        imported("without_database:handle")
    assert caught.value.__notes__ == ["while importing the handler 'without_database:handle'"]


def yielding(record: Record) -> Iterator[object]:
    """A handler that makes one thing after another."""
    yield record.offset
    yield threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize(
    ("engine", "is_main"), [(ThreadEngine(1), False), (ProcessEngine(1), True)], ids=["thread", "process"]
)
async def test_what_a_handler_yields_is_made_where_it_runs(engine: ExecutionEngine, is_main: bool) -> None:
    """So a generator blocks nothing but its own thread, and needn't leave its process."""
    async with engine.open(yielding) as execute:
        assert await execute(Record("orders", 0, 7), Attempt(None)) == (7, is_main)


def test_engine_by_configuration() -> None:
    """The configuration names the engine; a thread for each handler that may run, processes as it says."""
    world = World()
    assert isinstance(engine_of(world.config()), AsyncEngine)
    thread = engine_of(world.config(execution_mode="thread", max_concurrency=7))
    assert isinstance(thread, ThreadEngine)
    assert thread._threads == 7
    process = engine_of(
        world.config(
            execution_mode="process",
            process_workers=3,
            worker_initializer=plain_initializer,
            max_tasks_per_worker=9,
            max_worker_memory=10_000,
            worker_start_method="forkserver",
        )
    )
    assert isinstance(process, ProcessEngine)
    given = (process._workers, process._initializer, process._max_tasks, process._max_memory, process._start_method)
    assert given == (3, plain_initializer, 9, 10_000, "forkserver")


def plain_initializer() -> None:
    """What workers begin with."""


async def test_engines_that_are_not_open() -> None:
    """Statistics are to be had at any time."""
    assert AsyncEngine().statistics() == EngineStatistics(mode="async")
    assert ThreadEngine(3).statistics() == EngineStatistics(mode="thread")


class Counting(ExecutionEngine):
    """A user's engine around one of the package's, which takes its time to open, or fails."""

    mode = "counting"

    def __init__(self, *, opens_in: float = 0.0, error: Exception | None = None) -> None:
        self._opens_in = opens_in
        self._error = error
        self.calls: list[object] = []
        self.is_open = False

    def open(self, handler: Any) -> AbstractAsyncContextManager[Execute]:
        return self._opened(AsyncEngine().open(handler))

    @asynccontextmanager
    async def _opened(self, inner: AbstractAsyncContextManager[Execute]) -> AsyncIterator[Execute]:
        await trio.sleep(self._opens_in)
        if self._error is not None:
            raise self._error
        async with inner as direct:

            async def execute(given: Any, attempt: Attempt) -> object:
                self.calls.append(given)
                return await direct(given, attempt)

            self.is_open = True
            yield execute
            self.is_open = False


@pytest.mark.parametrize("method", ["run", "run_batches"])
async def test_engine_of_a_users_own(autojump_clock: MockClock, world: World, method: str) -> None:
    """It stands in for what the configuration names, is told all, and is closed when the run ends."""
    world.broker.add(P0, ["a", "b"])
    engine, given = Counting(), []

    async def handle(record: object) -> None:
        given.append(record)

    async with parallel_consumer(world.config(execution_mode="thread")) as pc, trio.open_nursery() as nursery:
        assert pc.statistics().engine.mode == "thread"
        nursery.start_soon(functools.partial(getattr(pc, method), handle, engine=engine))
        await trio.sleep(2)
        assert engine.is_open
        pc.stop()
    assert pc.statistics().engine == EngineStatistics(mode="counting")
    assert not engine.is_open
    assert engine.calls == given
    assert world.committed(P0) == 2


async def test_engine_that_does_not_open(autojump_clock: MockClock, world: World) -> None:
    """Its error leaves as it is, once the partitions are let go; nothing was handled."""
    world.broker.add(P0, ["a"])
    handle = Handling()
    async with parallel_consumer(world.config()) as pc:
        with pytest.raises(WorkerStartError, match="no luck"):
            await pc.run(handle, engine=Counting(opens_in=3.0, error=WorkerStartError("no luck")))
        assert pc.statistics().state == "stopped"
        assert not pc.statistics().partitions
    assert not handle.started
    assert world.client.left_owned == ()


async def test_cancelled_while_it_opens(autojump_clock: MockClock, world: World) -> None:
    """A block may end while an engine is being opened: the partitions are let go."""
    with trio.move_on_after(2.0):
        async with parallel_consumer(world.config()) as pc:
            await pc.run(Handling(), engine=Counting(opens_in=100.0))
    assert pc.statistics().state == "closed"
    assert world.client.left_owned == ()
    assert trio.current_time() < 10.0


async def test_stop_while_it_opens(autojump_clock: MockClock, world: World) -> None:
    """A stop before the engine is open ends the run as soon as it is, and what was fetched by then is handled."""
    world.broker.add(P0, ["a"])
    handle = Handling()
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(pc.run, handle, engine=Counting(opens_in=5.0)))
        await trio.sleep(2)
        pc.stop()
    assert pc.statistics().state == "closed"
    assert (handle.finished, world.committed(P0)) == ([(0, 0)], 1)


async def test_run_again_leaves_the_engine_alone(autojump_clock: MockClock, world: World) -> None:
    """A second run is refused, and the statistics go on about the engine of the first."""
    engine = Counting()
    async with parallel_consumer(world.config()) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(pc.run, Handling(), engine=engine))
        await trio.sleep(1)
        with pytest.raises(ConsumerBusyError):
            await pc.run(Handling(), engine=AsyncEngine())
        assert pc.statistics().engine.mode == "counting"
        pc.stop()


async def test_attempts_of_a_users_engine_are_timed(autojump_clock: MockClock, world: World) -> None:
    """An engine that only ever awaits is bounded by ``handler_timeout`` from when it says that it has started."""
    world.broker.add(P0, ["a", "b"])
    handle = Handling(held={0})
    async with (
        parallel_consumer(world.config(handler_timeout=5.0, on_failure="skip")) as pc,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(functools.partial(pc.run, handle, engine=Counting()))
        await trio.sleep(7)
        assert handle.cancelled == [(0, 0)]
        assert (pc.statistics().totals.skipped, pc.statistics().engine.abandoned) == (1, 0)
        pc.stop()
    assert world.committed(P0) == 2
