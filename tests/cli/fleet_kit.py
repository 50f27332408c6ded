"""What the tests of fleets share: statistics out of nothing, and programs of a fleet on the embedded broker."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from trio_parallel_kafka import ConsumerStatistics, OldestRecord, PartitionStatistics, PollStatistics, Totals
from trio_parallel_kafka.cli.fleet.statistics import FleetStatistics
from trio_parallel_kafka.testing import EmbeddedBroker

PATIENCE = 60.0
"""Seconds after which a program hangs for certain. It is killed then, and so ends whoever waits for it."""

HANDLER = """
import os
import sys
import time

import trio


async def handle(record):
    with open("handled", "a") as file:
        file.write(f"{os.getpid()} {record.value.decode()}\\n")
    print("printed", record.value.decode(), flush=True)


async def fail(record):
    raise RuntimeError("no such customer")


async def hang(record):
    with open("handled", "a") as file:
        file.write(f"{os.getpid()} {record.value.decode()}\\n")
    await trio.sleep_forever()


async def cling(record):
    with open("handled", "a") as file:
        file.write(f"{os.getpid()} {record.value.decode()}\\n")
    while True:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)


async def block(record):
    sys.stdout = sys.stderr = None
    with open("handled", "a") as file:
        file.write(f"{os.getpid()} {record.value.decode()}\\n")
    while True:
        time.sleep(60)
"""


def oldest(age: float, offset: int = 7) -> OldestRecord:
    """A record that holds a position."""
    return OldestRecord(offset=offset, key=b"k\xff", age=age, attempt=1, is_running=True)


def partition(number: int, *, phase: str = "active", age: float | None = None) -> PartitionStatistics:
    """A partition of the topic ``orders``, whose oldest record is so many seconds old."""
    return PartitionStatistics(
        topic="orders",
        partition=number,
        assignment_epoch=1,
        phase=phase,
        position=7,
        committed=7,
        next_offset=9,
        buffered_records=2,
        buffered_bytes=20,
        in_flight=1,
        parked=0,
        paused=None,
        is_held=False,
        completed_above=0,
        is_map_cut=False,
        oldest_incomplete=None if age is None else oldest(age),
    )


def consumer_statistics(*partitions: PartitionStatistics, completed: int = 0, **changes: Any) -> ConsumerStatistics:
    """A consumer with these partitions."""
    statistics = ConsumerStatistics(
        state="running",
        in_flight=len(partitions),
        max_concurrency=256,
        buffered_records=2 * len(partitions),
        buffered_bytes=20 * len(partitions),
        poll=PollStatistics(hop_p99=0.004),
        totals=Totals(received=completed, completed=completed),
        partitions=partitions,
        held=(),
        last_error=None,
    )
    return attrs.evolve(statistics, **changes)


class Program:
    """A running ``trio-parallel-kafka run``, in a folder of its own.

    Attributes:
        folder: where it runs; its handler notes there what it was given.
        process: the process.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.process = process

    def handled(self) -> list[tuple[int, int]]:
        """Which process handled which record."""
        path = self.folder / "handled"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(process), int(number)) for process, number in map(str.split, lines)]

    def status(self) -> FleetStatistics | None:
        """What the status file says, if there is one yet."""
        path = self.folder / "status.json"
        return FleetStatistics.from_json(path.read_text()) if path.exists() else None

    def members(self) -> list[int]:
        """The processes of the members that are alive."""
        status = self.status()
        return [] if status is None else [member.pid for member in status.members if member.pid is not None]

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait for something; fail if the program ends before, or it takes for ever."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"it ended with status {self.process.returncode}"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def ended(self) -> tuple[int, str, str]:
        """Wait for its end; return its status and what it has printed."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


def environment(bootstrap_servers: str, **variables: str) -> dict[str, str]:
    """The configuration of members that join fast, as environment variables."""
    return {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "KAFKA_CONSUMER_GROUP": "billing",
        "KAFKA_TOPICS": "orders",
        "PARALLEL_CONSUMER_COMMIT_INTERVAL": "0.05",
        "PARALLEL_CONSUMER_KAFKA_GROUP_PROTOCOL": "consumer",
        "PARALLEL_CONSUMER_KAFKA_FETCH_WAIT_MAX_MS": "5",
        "PARALLEL_CONSUMER_KAFKA_LOG_LEVEL": "0",
        **variables,
    }


@contextmanager
def running(
    folder: Path,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    handler: str = HANDLER,
    output: int = subprocess.PIPE,
) -> Iterator[Program]:
    """Run ``trio-parallel-kafka run`` for the length of a block; what is left of it then is killed.

    Args:
        folder: where it runs, with the handler's module and the status file.
        arguments: those of the command line.
        variables: its environment, in addition to this one.
        handler: the text of the handler's module, ``billing``.
        output: what its standard output and standard error are.
    """
    (folder / "billing.py").write_text(handler)
    command = [sys.executable, "-m", "trio_parallel_kafka", "run", *arguments, "--status-file=status.json"]
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables},
        stdout=output,
        stderr=output,
        text=True,
    ) as process:
        reaper = threading.Timer(PATIENCE, process.kill)
        reaper.start()
        try:
            yield Program(folder, process)
        finally:
            reaper.cancel()
            process.kill()


def on(broker: EmbeddedBroker, **variables: str) -> dict[str, str]:
    """The same on the embedded broker."""
    return environment(broker.bootstrap_servers, **variables)


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end of a pipe that takes nothing more; what is in it are newlines."""
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing):
        size = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writing, b"\n" * size)
        yield reading, writing


def is_alive(pid: int) -> bool:
    """Whether a process is there and isn't a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
