"""What is needed before a worker process can handle: a handler, an initializer, and when a process is replaced."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engines import process_handlers
from engines.process_kit import PATIENCE, lines, opened, record, records

from trio_parallel_kafka.errors import ConfigError, InvalidHandlerError, WorkerStartError
from trio_parallel_kafka.execution.engines import crew as crew_module, processes
from trio_parallel_kafka.execution.engines.calls import CallQueue
from trio_parallel_kafka.execution.engines.crew import CHUNK_LIMIT, WorkerCrew
from trio_parallel_kafka.execution.engines.processes import ProcessEngine
from trio_parallel_kafka.execution.engines.worker_process import Orders


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (lambda _: None, "the handler can't be sent to a worker process: .*lambda.*'module:function'"),
        (functools.partial(lambda _: None), "the handler can't be sent to a worker process"),
        (7, "the handler has to be a function, or 'module:function', not 7"),
        (None, "the handler has to be a function, or 'module:function', not None"),
    ],
    ids=["lambda", "partial of lambda", "number", "none"],
)
def test_handler_that_cannot_be_sent(handler: Any, problem: str) -> None:
    """The engine refuses it before a process is started, and says what would do."""
    with pytest.raises(InvalidHandlerError, match=problem):
        ProcessEngine(1).open(handler)


def test_initializer_that_cannot_be_sent() -> None:
    """It is refused in the same way."""
    with pytest.raises(InvalidHandlerError, match="worker_initializer can't be sent to a worker process"):
        ProcessEngine(1, initializer=lambda: None).open(process_handlers.act)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without trio-parallel, the error says what to install."""
    monkeypatch.setitem(sys.modules, "trio_parallel", None)
    with pytest.raises(ConfigError, match=r"needs trio-parallel: pip install 'trio-parallel-kafka\[process\]'"):
        ProcessEngine(1).open(process_handlers.act)


def test_as_many_processes_as_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default there is one for each core that this process may use, or that there is, or one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5})
    assert ProcessEngine()._workers == 3
    assert ProcessEngine(2)._workers == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert processes._usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processes._usable_cores() == 1


@pytest.mark.parametrize(
    ("handler", "problem", "note"),
    [
        (
            "no_such_module:handle",
            "ModuleNotFoundError: No module named 'no_such_module'; check the spelling",
            "import",
        ),
        ("engines.process_handlers:nothing", "has no attribute 'nothing'; check the spelling", "process_handlers"),
        ("engines.process_handlers", "a handler is named by 'module:function', not 'engines.process_handlers'", ""),
        ("engines.process_handlers:ACTIONS", "it has to be a function, not {", ""),
        ("broken_module:handle", "RuntimeError: no database", 'broken_module.py", line 1'),
        ("leaving_module:handle", "the handler can't be loaded: SystemExit: no licence", 'leaving_module.py", line 2'),
    ],
)
async def test_handler_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handler: str, problem: str, note: str
) -> None:
    """The error says why, with the process's traceback in its notes."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('no database')")
    (tmp_path / "leaving_module.py").write_text("import sys\nsys.exit('no licence')")
    with pytest.raises(WorkerStartError) as caught:
        async with opened(handler):
            pytest.fail("there is nothing to open")
    assert str(caught.value).startswith("the handler can't be loaded: ")
    assert problem in str(caught.value)
    (told,) = caught.value.__notes__
    assert told.startswith("in the worker process:\nTraceback")
    assert note in told


async def test_handler_whose_module_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that exits hard as it is imported is no reason to try for ever."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "deadly_module.py").write_text("import os\nos._exit(11)")
    with pytest.raises(
        WorkerStartError, match="die before they handle anything: it exited with status 11; their stderr"
    ):
        async with opened("deadly_module:handle"):
            pytest.fail("there is nothing to open")


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_initializer_is_called_first(start_method: str) -> None:
    """It is called once in each process, before any handler, and what it leaves behind is there for all of them."""
    async with opened(start_method=start_method, initializer=process_handlers.initialize) as driver:
        results = await driver.handle_all(records("initialized", "initialized", "pid"))
        assert results[0] == results[1] == [results[2]]
        await driver.call("exit 3")
        initialized, pid = [await driver.call(value) for value in ("initialized", "pid")]
        assert initialized == [pid] != results[0]


@pytest.mark.parametrize(
    ("initializer", "problem"),
    [
        (process_handlers.initialize_badly, "worker_initializer failed: UnreadableError: no model"),
        (process_handlers.leave, "worker_initializer failed: SystemExit: no licence"),
    ],
)
async def test_initializer_that_fails(initializer: Any, problem: str) -> None:
    """Its own traceback is in the notes of the error, whatever it raised."""
    with pytest.raises(WorkerStartError, match=problem) as caught:
        async with opened(initializer=initializer, workers=2):
            pytest.fail("there is nothing to open")
    (told,) = caught.value.__notes__
    assert f"in {initializer.__name__}\n" in told


async def test_start_that_fails_is_not_repeated(tmp_path: Path) -> None:
    """What the user's code says at the start it would say again."""
    trace = tmp_path / "trace"
    with pytest.raises(WorkerStartError, match="worker_initializer failed: ValueError: never"):
        async with opened(initializer=functools.partial(process_handlers.fail_always, trace)):
            pytest.fail("there is nothing to open")
    assert lines(trace) == ["failed"]


async def test_initializer_that_fails_and_keeps_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that doesn't end by itself after that is killed, and the reason isn't lost."""
    monkeypatch.setattr(crew_module, "GRACE", 0.1)
    with pytest.raises(WorkerStartError, match="worker_initializer failed: UnreadableError: no model"):
        async with opened(initializer=process_handlers.initialize_badly_and_linger):
            pytest.fail("there is nothing to open")


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_process_is_replaced_after_so_many_calls(tmp_path: Path, start_method: str) -> None:
    """Exactly so many, however they come; none is lost and none run twice."""
    journal = tmp_path / "journal"
    async with opened(max_tasks=3, start_method=start_method) as driver:
        await driver.handle_all(record(offset, key=journal) for offset in range(7))
        for offset in range(7, 9):
            await driver.handle(record(offset, key=journal))
    handled = [line.split() for line in lines(journal)]
    assert sorted(int(offset) for offset, _ in handled) == list(range(9))
    pids = [pid for _, pid in handled]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]
    statistics = driver.engine.statistics()
    assert (statistics.retired, statistics.died, statistics.killed) == (3, 0, 0)


async def test_process_that_has_grown_is_replaced() -> None:
    """One whose memory is above the bound after its chunk ends; the next begins small."""
    async with opened(max_memory=2**30) as driver:
        first = await driver.call("pid")
        assert await driver.call("pid") == first
    assert driver.engine.statistics().retired == 0
    async with opened(max_memory=1) as driver:
        pids = [await driver.call("pid") for _ in range(3)]
    assert len(set(pids)) == 3
    statistics = driver.engine.statistics()
    assert (statistics.retired, statistics.died) == (3, 0)


@pytest.mark.parametrize(
    ("seconds_per_call", "max_tasks", "tasks", "limit"),
    [
        (crew_module.CHUNK_TIME, None, 0, 1),
        (crew_module.CHUNK_TIME / 9.5, None, 0, 9),
        (10.0, None, 0, 1),
        (1e-9, None, 0, CHUNK_LIMIT),
        (1e-9, 10, 0, 10),
        (1e-9, 10, 7, 3),
        (1e-9, 1000, 0, CHUNK_LIMIT),
    ],
)
def test_chunks_are_as_long_as_calls_are_short(
    seconds_per_call: float, max_tasks: int | None, tasks: int, limit: int
) -> None:
    """A chunk has as many calls as fit its time, within bounds, and never more than the process may still run."""
    crew = WorkerCrew(CallQueue(1), Orders(b"", b"", max_tasks, None), "spawn")
    crew._seconds_per_call, crew._tasks = seconds_per_call, tasks
    assert crew._limit() == limit


SCRIPT = """
import sys
import trio
from trio_parallel_kafka import Record
from trio_parallel_kafka.execution.engine import Attempt
from trio_parallel_kafka.execution.engines.processes import ProcessEngine

class Refused(Exception):
    pass

def handle(record):
    print("handled", record.offset)
    if record.offset == 3:
        raise Refused(record.offset)

async def main():
    print("main")
    with trio.fail_after(60):
        async with ProcessEngine(1).open(handle) as execute:
            for offset in range(4):
                try:
                    await execute(Record("topic", 0, offset), Attempt(None))
                except Refused as refused:
                    print("refused", refused)
"""


def run_script(tmp_path: Path, end: str) -> subprocess.CompletedProcess[str]:
    """Run :data:`SCRIPT` as a program of its own; one that hangs is killed."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT + end)
    return subprocess.run(
        [sys.executable, "-u", str(path)], capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=tmp_path
    )


def test_handler_in_a_program(tmp_path: Path) -> None:
    """A program may define its handler, and the errors that it raises, itself; what it prints appears in order."""
    done = run_script(tmp_path, "\nif __name__ == '__main__':\n    trio.run(main)\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["main", *(f"handled {offset}" for offset in range(4)), "refused 3"]
    assert not done.stderr


def test_program_without_a_guard(tmp_path: Path) -> None:
    """One that starts again in each worker process ends, soon, with an error that says what is missing."""
    done = run_script(tmp_path, "\ntrio.run(main)\n")
    assert done.returncode == 1
    (last,) = [line for line in done.stderr.splitlines() if line.startswith("trio_parallel_kafka.errors.WorkerStart")][
        -1:
    ]
    assert "Is the start of the program guarded by `if __name__ == '__main__':`?" in last
    assert "handled" not in done.stdout
    assert done.stdout.count("main") == 1 + 3
