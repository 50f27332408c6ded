"""Calls that are given up: taken back where that can be done, killed with their process where not."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from engines.process_handlers import act_async
from engines.process_kit import Driver, is_alive, lines, make, opened, record, wait_until

from trio_parallel_kafka import Record
from trio_parallel_kafka.errors import WorkerDiedError
from trio_parallel_kafka.execution.engines import crew as crew_module
from trio_parallel_kafka.execution.engines.board import ANSWERED, DONE, RUNNING


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where handlers note what they were called with: an offset and a process's id a line."""
    return tmp_path / "journal"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file for which handlers wait."""
    return tmp_path / "gate"


@pytest.fixture
def nothing_is_overdue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks stay as they are, however long they take."""
    monkeypatch.setattr(crew_module, "OVERDUE", 1e9)


def handled(journal: Path) -> list[int]:
    """The offsets of all calls that began."""
    return [int(line.split()[0]) for line in lines(journal)]


def state(driver: Driver, offset: int) -> int:
    """How far the only process is with a record, as its board has it."""
    (crew,) = driver.engine._crews
    for call in crew._chunk:
        if isinstance(call.given, Record) and call.given.offset == offset:
            return crew._board.state(call.index)
    return -1


@pytest.mark.parametrize("handler", ["engines.process_handlers:act", act_async], ids=["sync", "async"])
@pytest.mark.parametrize("action", ["hang", "burn"])
async def test_timeout_kills_the_process(journal: Path, handler: object, action: str) -> None:
    """The record that the process was on fails when that is gone; all others of its chunk are handled."""
    async with opened(handler) as driver, trio.open_nursery() as nursery:
        for offset in range(10):
            nursery.start_soon(driver.handle, record(offset, f"give {offset}", key=journal))
        await driver.handle(record(10, action, key=journal), time=0.1)
        assert driver.results[10] == "timeout"
        (pid,) = (int(line.split()[1]) for line in lines(journal) if line.startswith("10 "))
        assert not is_alive(pid)
    assert driver.results == {**{offset: offset for offset in range(10)}, 10: "timeout"}
    statistics = driver.engine.statistics()
    assert (statistics.killed, statistics.died) == (1, 0)


async def test_time_in_the_queue_does_not_count(gate: Path) -> None:
    """A record whose process was busy for longer than its timeout isn't late: its time hasn't begun."""
    async with opened() as driver, trio.open_nursery() as nursery:
        nursery.start_soon(driver.handle, record(0, f"wait {gate}"))
        await wait_until(lambda: state(driver, 0) == RUNNING)
        nursery.start_soon(driver.handle, record(1, "give 1"), 0.5)
        await trio.sleep(0.6)
        make(gate)
    assert driver.results == {0: None, 1: 1}


async def test_long_call_holds_up_no_other(gate: Path, journal: Path) -> None:
    """What stands behind it in its chunk is run in another process, what was done before it is answered: once each."""
    async with opened(workers=2) as driver:
        values = ["give None", f"wait {gate}", *["give 1"] * 6]
        calls = driver.put(*(record(offset, value, key=journal) for offset, value in enumerate(values)))
        for call in calls:
            if call is not calls[1]:
                await call.answer()
        assert not calls[1].is_over
        make(gate)
        await calls[1].answer()
        pids = dict(map(str.split, lines(journal)))
    assert sorted(handled(journal)) == list(range(8))
    assert pids["0"] == pids["1"] != pids["2"]
    assert driver.engine.statistics().killed == 0


async def test_queued_call_is_never_run(gate: Path, journal: Path) -> None:
    """Given up before a process took it, it is gone at once, and nobody is killed."""
    async with opened() as driver, trio.open_nursery() as nursery:
        nursery.start_soon(driver.handle, record(0, f"wait {gate}", key=journal))
        await wait_until(lambda: state(driver, 0) == RUNNING)
        nursery.start_soon(driver.handle, record(1, key=journal))
        await wait_until(lambda: driver.engine.statistics().waiting == 1)
        assert driver.engine.statistics().busy == 1
        driver.scopes[1].cancel()
        await wait_until(lambda: driver.engine.statistics().waiting == 0)
        make(gate)
    assert driver.results == {0: None}
    assert handled(journal) == [0]
    assert driver.engine.statistics().killed == 0


@pytest.mark.usefixtures("nothing_is_overdue")
async def test_call_that_has_not_begun_is_never_run(gate: Path, journal: Path) -> None:
    """Given up in a process's chunk, before its turn, it is skipped; the process goes on."""
    async with opened() as driver:
        first, second, third = driver.put(
            record(0, f"wait {gate}", key=journal), record(1, key=journal), record(2, "give 2", key=journal)
        )
        await wait_until(lambda: state(driver, 0) == RUNNING)
        await driver.engine._queue.take_back(second)
        assert second.is_over
        assert not first.is_over
        make(gate)
        assert await first.answer() is None
        assert await third.answer() == 2
    assert handled(journal) == [0, 2]
    assert driver.engine.statistics().killed == 0


@pytest.mark.usefixtures("nothing_is_overdue")
async def test_running_call_is_killed(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Given up while it runs, it ends with its process. What was done stays done, the rest is run elsewhere."""
    async with opened() as driver:
        done, answered, hanging, waiting = driver.put(
            record(0, key=journal),
            record(1, "give 1", key=journal),
            record(2, "hang", key=journal),
            record(3, key=journal),
        )
        await wait_until(lambda: state(driver, 2) == RUNNING)
        await driver.engine._queue.take_back(hanging)
        assert not is_alive(int(lines(journal)[-1].split()[1]))
        assert await done.answer() is None
        assert await answered.answer() == 1
        assert await waiting.answer() is None
        # Of the second, only the process that was killed knew the answer.
        assert handled(journal) == [0, 1, 2, 1, 3]
    assert driver.engine.statistics().killed == 1
    assert not caplog.messages


@pytest.mark.usefixtures("nothing_is_overdue")
@pytest.mark.parametrize(("value", "ended"), [("give None", DONE), ("give 1", ANSWERED)], ids=["done", "answered"])
async def test_finished_call_takes_nobody_along(gate: Path, journal: Path, value: str, ended: int) -> None:
    """Given up after its handler has returned, it is over at once; its process goes on with the others."""
    async with opened() as driver:
        finished, running = driver.put(record(0, value, key=journal), record(1, f"wait {gate}", key=journal))
        await wait_until(lambda: state(driver, 1) == RUNNING)
        assert state(driver, 0) == ended
        await driver.engine._queue.take_back(finished)
        assert finished.is_over
        make(gate)
        assert await running.answer() is None
    assert handled(journal) == [0, 1]
    assert driver.engine.statistics().killed == 0


@pytest.mark.usefixtures("nothing_is_overdue")
async def test_all_calls_may_be_given_up_at_once(gate: Path, journal: Path) -> None:
    """Waiting, running and done ones: one kill ends them all, none is run again, and the next are served."""
    async with opened() as driver:
        with trio.move_on_after(60) as scope:
            async with trio.open_nursery() as nursery:
                for offset, value in enumerate(["give None", "give 1", "hang", "hang", "give 1"]):
                    nursery.start_soon(driver.handle, record(offset, value, key=journal))
                await wait_until(lambda: any(crew.is_busy and crew._board.running() for crew in driver.engine._crews))
                nursery.start_soon(driver.handle, record(5, key=journal))
                await wait_until(lambda: driver.engine.statistics().waiting == 1)
                scope.cancel()
        begun = handled(journal)
        assert len(begun) == len(set(begun))
        assert await driver.call("give 7", offset=7) == 7
        assert handled(journal) == begun
    assert driver.engine.statistics().killed == 1


async def test_block_that_is_left_ends_its_calls(journal: Path) -> None:
    """Calls that are out when the block ends are cancelled with it, their processes killed; none succeeds by it."""
    with trio.CancelScope() as scope:
        async with opened(workers=2) as driver, trio.open_nursery() as nursery:
            for offset in range(4):
                nursery.start_soon(driver.handle, record(offset, "hang", key=journal))
            await wait_until(lambda: len(lines(journal)) == 2)
            scope.cancel()
    assert scope.cancelled_caught
    assert not driver.results
    assert not [pid for pid in (int(line.split()[1]) for line in lines(journal)) if is_alive(pid)]
    assert driver.engine.statistics().killed == 2


async def test_call_that_outlives_the_block_has_failed(journal: Path) -> None:
    """Whoever waits for it in spite of all isn't told that it succeeded, whether it was running or queued."""
    async with opened() as driver:
        running, queued = *driver.put(record(0, "hang", key=journal)), *driver.put(record(1))
        await wait_until(lambda: lines(journal))
    for call in (running, queued):
        with pytest.raises(WorkerDiedError, match="closed before the record was handled"):
            await call.answer()
    assert driver.engine.statistics().waiting == 0


async def test_idle_block_is_left_at_once() -> None:
    """An engine that was never used, or has nothing to do, closes."""
    async with opened(workers=2) as driver:
        assert driver.engine.statistics().busy == 0
    assert driver.engine.statistics() == type(driver.engine.statistics())(mode="process")
