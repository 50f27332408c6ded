"""A member in a process of its own that ends in the way it is told, and then says what it has left behind.

``python -m broker.leaver HOW CONFIG``: ``CONFIG`` is a JSON object with the fields of :class:`ConsumerConfig`. The
value of a record says what its handler does: ``now`` ends at once, ``late`` ends once the process is told to go on,
``fail`` raises then, ``spin`` computes from then on, and ``hang`` never ends.

It writes JSON lines: ``started`` counts the handlers, and the last line says what became of it. It reads lines, too:
``go on`` has the late ones end, ``leave`` has it end as ``HOW`` says.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio
import trio.testing

from trio_parallel_kafka import ConsumerConfig, ParallelConsumer, Record, parallel_consumer


def say(**fields: Any) -> None:
    """Write a line."""
    print(json.dumps(fields), flush=True)


class Leaver:
    """The member.

    Args:
        how: ``stop``, ``body error``, ``cancel``, ``sigterm``; ``nothing``: it waits for what comes; ``alone``:
            likewise, and it needs no telling.
        config: what it consumes.
    """

    def __init__(self, how: str, config: ConsumerConfig) -> None:
        self._how = how
        self._config = config
        self._started = 0
        self._go_on = trio.Event()
        self._told = b""

    async def handle(self, record: Record) -> None:
        self._started += 1
        say(started=self._started)
        match record.value:
            case b"late":
                await self._go_on.wait()
            case b"fail":
                await self._go_on.wait()
                raise ValueError("this record is bad")
            case b"spin":
                await self._go_on.wait()
                say(spinning=True)
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    pass
            case b"hang":
                await trio.sleep_forever()

    async def run(self) -> None:
        with trio.CancelScope() as scope:
            async with parallel_consumer(self._config) as pc, trio.open_nursery() as nursery:
                if self._how == "sigterm":
                    nursery.start_soon(stop_on_sigterm, pc)
                nursery.start_soon(pc.run, self.handle)
                await self._command(b"go on")
                self._go_on.set()
                await trio.testing.wait_all_tasks_blocked(0.01)  # what waited for that has returned
                await self._command(b"leave")
                say(leaving=True)
                match self._how:
                    case "stop":
                        pc.stop()
                    case "body error":
                        raise RuntimeError("the body is bad")
                    case "cancel":
                        scope.cancel()

    async def run_alone(self) -> None:
        """As in the README: nothing but ``run`` in the block, so that what ends it ends there."""
        async with parallel_consumer(self._config) as pc:
            self._go_on.set()
            await pc.run(self.handle)

    async def _command(self, line: bytes) -> None:
        # Without a thread, for nothing could end it while it reads.
        while line + b"\n" not in self._told:
            await trio.lowlevel.wait_readable(sys.stdin)
            self._told += os.read(sys.stdin.fileno(), 1024)


async def stop_on_sigterm(pc: ParallelConsumer) -> None:
    """Do as the guide advises."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        say(listening=True)
        async for _ in signals:
            pc.stop()
            return


def open_files() -> Counter[str]:
    """What this process has open, by kind: sockets, pipes, anonymous inodes, or a file's name."""
    kinds: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            kinds[str(entry.readlink()).partition(":")[0]] += 1
    return kinds


def threads() -> list[str]:
    """The threads that live: librdkafka's own, and Python's that do something."""
    native = [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]
    python = [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.name.startswith("Trio thread")  # parked by Trio
    ]
    return sorted([name for name in native if name.startswith("rdk:")] + python)


def exceptions_in(error: BaseException) -> list[BaseException]:
    """The exception; if it is a group, all within it, too."""
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return [error, *(leaf for each in inner for leaf in exceptions_in(each))]


async def main(how: str, config: ConsumerConfig) -> None:
    """End as told; then look around."""
    files, tasks = open_files(), trio.lowlevel.current_statistics().tasks_living
    raised: list[BaseException] = []
    leaver = Leaver(how, config)
    began = time.monotonic()
    try:
        await (leaver.run_alone() if how == "alone" else leaver.run())
    except BaseException as error:  # noqa: BLE001 - it is what is looked at
        raised = exceptions_in(error)
    leaves = [error for error in raised if not isinstance(error, BaseExceptionGroup)]
    say(
        raised=[type(error).__name__ for error in leaves],
        messages=[str(error) for error in leaves],
        notes=[note for error in raised for note in getattr(error, "__notes__", [])],
        seconds=time.monotonic() - began,
        files=dict(open_files() - files),
        tasks=trio.lowlevel.current_statistics().tasks_living - tasks,
        threads=threads(),
    )


if __name__ == "__main__":
    trio.run(main, sys.argv[1], ConsumerConfig.from_mapping(json.loads(sys.argv[2])))
