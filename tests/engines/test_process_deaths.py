"""Worker processes that die: of what they handle, without cause, and before they handle anything."""

from __future__ import annotations

import functools
import itertools
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
from engines import process_handlers
from engines.process_kit import Driver, hasty_restarts, is_alive, lines, opened, record, records, wait_until
from trio.testing import MockClock
from trio_parallel import _proc

from trio_parallel_kafka.errors import WorkerDiedError, WorkerStartError
from trio_parallel_kafka.execution.engines import crew as crew_module, worker_process
from trio_parallel_kafka.execution.engines.calls import CallQueue
from trio_parallel_kafka.execution.engines.crew import (
    DEATHS,
    FIRST_PAUSE,
    FIRST_TRIES,
    LONGEST_PAUSE,
    TRIES,
    WorkerCrew,
)
from trio_parallel_kafka.execution.engines.worker_process import Orders


def died_on(driver: Driver, offset: int) -> str:
    """What is said of a record's attempt that died with its process."""
    error = driver.results[offset]
    assert type(error) is WorkerDiedError, error
    return str(error).removeprefix("the worker process that handled the record died: ")


@pytest.mark.parametrize(
    ("value", "how"),
    [
        ("exit 3", "it exited with status 3"),
        ("exit 0", "it exited with status 0"),
        ("kill", "killed by SIGKILL, perhaps for want of memory"),
        ("segfault", "killed by SIGSEGV"),
        ("give DeadlyToPickle()", "it exited with status 4"),
        ("raise DetailedError(DeadlyToPickle(), code=1)", "it exited with status 4"),
    ],
)
async def test_record_fails_whose_process_died(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: str, how: str
) -> None:
    """It fails by what its process died of; the others of its chunk return what they return."""
    journal = tmp_path / "journal"
    others = [record(offset, f"give {offset}", key=journal) for offset in range(6)]
    async with opened() as driver:
        await driver.handle_all([*others[:3], record(6, value, key=journal), *others[3:]])
    assert died_on(driver, 6) == how
    assert driver.results == {**{offset: offset for offset in range(6)}, 6: driver.results[6]}
    assert [line.split()[0] for line in lines(journal)].count("6") == 1
    statistics = driver.engine.statistics()
    assert (statistics.died, statistics.killed) == (1, 0)
    (told,) = caplog.messages
    assert re.search(rf"worker process \d* ?died: {re.escape(how)}; it was on <Record topic\[0\]@6 ", told)


async def test_record_that_kills_as_it_is_read() -> None:
    """What ends the process while it is unpickled is a failure of that record alone."""
    deadly = record(1).decoded(None, process_handlers.DeadlyToUnpickle())
    async with opened() as driver:
        await driver.handle_all([record(0, "give 0"), deadly, record(2, "give 2")])
    assert died_on(driver, 1) == "it exited with status 4"
    assert (driver.results[0], driver.results[2]) == (0, 2)


async def test_poison_record_fails_each_time(tmp_path: Path) -> None:
    """A record that kills every process that it meets fails with every attempt; all others are handled, once each."""
    journal = tmp_path / "journal"
    async with opened(workers=2) as driver, trio.open_nursery() as nursery:
        for offset in range(40):
            nursery.start_soon(driver.handle, record(offset, key=journal))
        for _ in range(5):
            await driver.handle(record(99, "kill", key=journal))
            assert died_on(driver, 99) == "killed by SIGKILL, perhaps for want of memory"
    assert {offset: driver.results[offset] for offset in range(40)} == dict.fromkeys(range(40))
    handled = sorted(int(line.split()[0]) for line in lines(journal))
    assert handled == [*range(40), *[99] * 5]
    assert driver.engine.statistics().died == 5


async def test_death_between_records_blames_none(caplog: pytest.LogCaptureFixture) -> None:
    """Whose answers went down with a process are run again, one at a time: so the one that kills it is found."""
    async with opened() as driver:
        calls = driver.put(*records("give 0", "die-afterwards 1", "give 2", "give None"))
        assert await calls[0].answer() == 0
        with pytest.raises(WorkerDiedError, match="it exited with status 6"):
            await calls[1].answer()
        assert await calls[2].answer() == 2
        assert await calls[3].answer() is None
    assert [re.sub(r"process \d*", "process", message) for message in caplog.messages] == [
        "worker process died: it exited with status 6; it was between two records",
        f"worker process died: it exited with status 6; it was on {record(1)!r}",
    ]
    assert driver.engine.statistics().died == 2


async def test_record_that_is_done_has_not_failed(caplog: pytest.LogCaptureFixture) -> None:
    """What returned ``None`` is done, whatever becomes of its process then; it isn't taken for one that can't start."""
    async with opened() as driver:
        for offset in range(TRIES):
            assert await driver.call("die-afterwards None", offset) is None
    assert driver.engine.statistics().died == TRIES
    assert not [message for message in caplog.messages if "between two records" not in message]


async def test_death_without_work_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A process that was killed while it was idle is replaced when there is work; that is told and counted."""
    async with opened() as driver:
        pid = await driver.call("pid")
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: not is_alive(pid))
        assert await driver.call("give 1") == 1
    assert caplog.messages == [f"worker process {pid} died while it had no work; it is replaced"]
    assert driver.engine.statistics().died == 1


async def test_unnoticed_replacement_may_fail_to_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A record that meets a process which can't begin, in the place of one that died idle, waits for a better one."""
    initializer = functools.partial(process_handlers.fail_in, {2, 3}, tmp_path / "started")
    with hasty_restarts():
        async with opened(initializer=initializer) as driver:
            pid = await driver.call("pid")
            os.kill(pid, signal.SIGKILL)
            await wait_until(lambda: not is_alive(pid))
            assert await driver.call("give 1") == 1
    problem = "worker_initializer failed: ValueError: not now"
    assert caplog.messages == [problem, f"{problem}; trying again"]


async def test_block_ends_well_whose_idle_process_died() -> None:
    """Leaving the block isn't disturbed by it."""
    async with opened() as driver:
        pid = await driver.call("pid")
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: not is_alive(pid))
    assert driver.results == {0: pid}


async def test_processes_that_die_at_the_start(tmp_path: Path) -> None:
    """After three in a row the engine gives up, with what may be the reason."""
    started = tmp_path / "started"
    initializer = functools.partial(process_handlers.exit_in, {1, 2, 3, 4}, started)
    with (
        hasty_restarts(),
        pytest.raises(WorkerStartError, match=r"die before they handle.*status 5.*__name__ == '__main__'"),
    ):
        async with opened(initializer=initializer):
            pytest.fail("there is nothing to open")
    assert len(lines(started)) == FIRST_TRIES == 3


async def test_start_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two that die at the start are no reason to give up."""
    initializer = functools.partial(process_handlers.exit_in, {1, 2}, tmp_path / "started")
    with hasty_restarts():
        async with opened(initializer=initializer) as driver:
            assert await driver.call("give 1") == 1
    assert len(caplog.messages) == driver.engine.statistics().died == 2
    assert all("trying again" in message for message in caplog.messages)


async def test_replacements_are_tried_again(tmp_path: Path) -> None:
    """Later, more may die before one is well; calls wait for it, and no attempt is counted."""
    initializer = functools.partial(process_handlers.exit_in, {2, 3, 4, 5, 6}, tmp_path / "started")
    with hasty_restarts():
        async with opened(initializer=initializer) as driver:
            await driver.handle_all(records("exit 3", "give 1", "give 2"))
    assert died_on(driver, 0) == "it exited with status 3"
    assert (driver.results[1], driver.results[2]) == (1, 2)
    assert driver.engine.statistics().died == 6


@pytest.mark.parametrize("kind", ["die", "fail"])
async def test_engine_gives_up_in_the_end(tmp_path: Path, kind: str) -> None:
    """Replacements that never start end the block with the reason; calls that wait are cancelled."""
    started = tmp_path / "started"
    dying = functools.partial(process_handlers.exit_in, set(range(2, 100)), started)
    failing = functools.partial(process_handlers.fail_but_first, started)
    reason = {"die": "die before they handle anything: it exited with status 5", "fail": "ValueError: no second one"}
    results: dict[int, Any] = {}

    async def handle() -> None:
        async with opened(initializer={"die": dying, "fail": failing}[kind]) as driver:
            try:
                await driver.handle_all(records("exit 3", "give 1"))
            finally:
                results.update(driver.results)

    with hasty_restarts(), pytest.raises(WorkerStartError, match=reason[kind]):
        await handle()
    assert list(results) == [0]
    assert len(lines(started)) == 1 + TRIES


async def test_pause_grows_with_each_vain_start(autojump_clock: MockClock) -> None:
    """Twice as long each time, up to a bound; then it is given up."""
    crew = WorkerCrew(CallQueue(1), Orders(b"", b"", None, None), "spawn")
    crew.ready.set()
    tried = []

    async def refuse(_function: object) -> None:
        tried.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        raise OSError("no more processes")

    crew._run_sync = refuse
    with pytest.raises(WorkerStartError, match="no more processes"):
        await crew._start()
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert pauses == pytest.approx([min(LONGEST_PAUSE, FIRST_PAUSE * 2**n) for n in range(1, TRIES)])
    assert pauses[0] < pauses[1] < pauses[-1] == pytest.approx(LONGEST_PAUSE)


async def test_record_that_kills_as_it_is_given_is_found(caplog: pytest.LogCaptureFixture) -> None:
    """Processes that die as they are given a chunk, and announce nothing: its calls are put to the test alone."""
    async with opened() as driver:
        crew = driver.engine._crews[0]
        run_sync, deadly = crew._run_sync, driver.put(*records("give 0", "give 1", "give 2"))

        async def run(function: Any, *args: Any) -> Any:
            if function is worker_process.run and deadly[1].payload in args[1]:
                raise OSError("it choked")
            return await run_sync(function, *args)

        crew._run_sync = run
        with pytest.raises(WorkerDiedError, match="it choked"):
            await deadly[1].answer()
        assert [await deadly[0].answer(), await deadly[2].answer()] == [0, 2]
    assert driver.engine.statistics().died == 1 + DEATHS


async def test_process_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says when it refuses a process is the reason; it is tried as often as one that dies."""
    tries = []

    async def refuse(worker: object) -> None:
        tries.append(worker)
        await trio.lowlevel.checkpoint()
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(_proc.ForkserverProcWorker, "start", refuse)
    with hasty_restarts(), pytest.raises(WorkerStartError, match="BlockingIOError: no more processes"):
        async with opened():
            pytest.fail("there is nothing to open")
    assert len(tries) == FIRST_TRIES


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "it exited with status 0"),
        (1, "it exited with status 1"),
        (-signal.SIGKILL, "killed by SIGKILL, perhaps for want of memory"),
        (-signal.SIGTERM, "killed by SIGTERM"),
        (-signal.SIGRTMIN - 1, f"killed by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_ending_in_words(code: int, words: str) -> None:
    """An exit code is told as what it means."""
    assert crew_module._ending(code) == words
