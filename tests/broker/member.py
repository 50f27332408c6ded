"""A member of a consumer group in a process of its own, to be stopped (``SIGTERM``) or killed (``SIGKILL``).

``python -m broker.member NAME LOG WORK_MS CONFIG``: it handles each record in up to ``WORK_MS`` milliseconds and
logs that to the file ``LOG`` as the member ``NAME``. ``CONFIG`` is a JSON object with the fields of
:class:`ConsumerConfig`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from broker.recorder import Recorder

from trio_parallel_kafka import ConsumerConfig, parallel_consumer


@contextmanager
def member_process(name: str, log: Path, work_ms: float, **config: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run this program for the length of a block; what is left of it then is killed."""
    command = [sys.executable, "-m", "broker.member", name, str(log), str(work_ms), json.dumps(config)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as process:
        try:
            yield process
        finally:
            process.kill()


async def wait_for_end(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process, and return its status."""
    return await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)


async def main(name: str, log: str, work_ms: str, config: str) -> None:
    """Be a member until ``SIGTERM``."""
    recorder = Recorder(Path(log))
    longest = float(work_ms) / 1000

    async def work(_number: int) -> None:
        await trio.sleep(random.uniform(0, longest))

    async with parallel_consumer(ConsumerConfig.from_mapping(json.loads(config))) as pc:
        token = trio.lowlevel.current_trio_token()
        signal.signal(signal.SIGTERM, lambda _signal, _frame: token.run_sync_soon(pc.stop))
        await pc.run(recorder.handler(name, work))


if __name__ == "__main__":
    _, NAME, LOG, WORK_MS, CONFIG = sys.argv
    trio.run(main, NAME, LOG, WORK_MS, CONFIG)
