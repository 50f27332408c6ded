"""Nothing is left of worker processes: not after the block, nor after the death of the program that they belong to."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio
from engines.process_kit import descendants, is_alive, lines, open_files, opened, record, records, wait_until
from trio_parallel._proc import SpawnProcWorker

BURNING = """
import sys
from pathlib import Path
import trio
from engines.process_handlers import act
from engines.process_kit import record
from trio_parallel_kafka.execution.engine import Attempt
from trio_parallel_kafka.execution.engines.processes import ProcessEngine

async def main():
    async with ProcessEngine(2, start_method=sys.argv[2]).open(act) as execute, trio.open_nursery() as nursery:
        nursery.start_soon(execute, record(0, "burn", key=Path(sys.argv[1])), Attempt(None))
        nursery.start_soon(execute, record(1, "give sum(range(10**12))", key=Path(sys.argv[1])), Attempt(None))

if __name__ == "__main__":
    trio.run(main)
"""


@pytest.fixture
def ended_before_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process is gone before anybody waits for its end, as it may be on a busy machine."""
    wait = SpawnProcWorker.wait

    async def wait_late(worker: SpawnProcWorker) -> int | None:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
        code: int | None = await wait(worker)
        return code

    monkeypatch.setattr(SpawnProcWorker, "wait", wait_late)


@pytest.mark.usefixtures("ended_before_it_is_waited_for")
@pytest.mark.parametrize(("start_method", "cycles"), [("forkserver", 20), ("spawn", 1)])
async def test_open_and_close_leave_nothing(tmp_path: Path, start_method: str, cycles: int) -> None:
    """No process, zombie or descriptor outlives the block, however often, with deaths, kills and retirements in it."""
    before, files = set[int](), 0
    for cycle in range(1 + cycles):
        async with opened(start_method=start_method, max_tasks=2) as driver:
            if cycle % 5 == 0:
                await driver.handle_all(records("give 1", "exit 3"))
                await driver.handle(record(2, "hang"), time=0.01)
            pids = {await driver.call("pid") for _ in range(2)}
        assert not any(map(is_alive, pids))
        if cycle == 0:
            del driver
            gc.collect()
            # What multiprocessing and Trio start once and keep: a fork server, a tracker of resources, threads.
            before, files = descendants(), open_files()
    gc.collect()
    assert descendants() <= before
    assert open_files() <= files


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_processes_die_with_their_consumer(tmp_path: Path, start_method: str) -> None:
    """When the program is killed, its workers end, even if one computes and one never lets go of the GIL."""
    journal = tmp_path / "journal"
    temporary = Path(tempfile.mkdtemp(dir="/tmp"))  # its path has to be short: the fork server has a socket there
    (tmp_path / "script.py").write_text(BURNING)
    folders = [str(Path(__file__).parents[1]), *sys.path]
    with subprocess.Popen(  # noqa: ASYNC220 - takes no time
        [sys.executable, str(tmp_path / "script.py"), str(journal), start_method],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), "TMPDIR": str(temporary)},
    ) as program:
        try:
            await wait_until(lambda: len(lines(journal)) == 2 or program.poll() is not None)
            workers = [int(line.split()[1]) for line in lines(journal)]
            assert len(workers) == 2
            assert all(map(is_alive, workers))
        finally:
            program.kill()
    try:
        await wait_until(lambda: not any(map(is_running, workers)))
    finally:
        for pid in filter(is_running, workers):
            os.kill(pid, signal.SIGKILL)
    left = remove(temporary)
    assert not [name for name in left if name.startswith("trio-parallel-kafka")]


def remove(folder: Path) -> list[str]:
    """Remove a folder; return what was in it."""
    names = [each.name for each in folder.iterdir()]
    shutil.rmtree(folder)
    return names


def is_running(pid: int) -> bool:
    """Whether it hasn't ended; whoever adopts it may reap it late."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
