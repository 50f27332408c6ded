"""Handlers for worker processes: they note what they do in a file, for whoever watches from outside."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import attrs
from broker.recorder import Recorder

from trio_parallel_kafka import Record

_recorders: dict[Path, Recorder] = {}


@attrs.frozen
class Burn:
    """Keeps a core busy with each record, and notes its start and end in a log.

    Attributes:
        log: the file, which several processes may append to.
        seconds: of pure Python, for each record.
    """

    log: Path
    seconds: float

    def __call__(self, record: Record[Any, Any]) -> None:
        recorder = _recorders.get(self.log) or _recorders.setdefault(self.log, Recorder(self.log))
        with recorder.handling(f"process-{os.getpid()}", record):
            burn(self.seconds)


def burn(seconds: float) -> None:
    """Compute for this long, as time goes on the clock of this thread's own CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def burn_two_milliseconds(_record: Record[Any, Any]) -> None:
    """What the engines are compared with."""
    burn(0.002)


async def burn_on_the_loop(_record: Record[Any, Any]) -> None:
    """The same, where it blocks everything else."""
    burn(0.002)


def end_the_process_on_13(record: Record[Any, Any]) -> None:
    """What a crash in native code does to a process."""
    if record.value == b"13":
        os._exit(1)


def nothing(_record: Record[Any, Any]) -> None:
    """What shows the cost of the engine itself."""
