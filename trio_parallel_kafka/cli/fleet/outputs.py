"""The standard outputs, written so that nobody has to wait for whoever reads them."""

from __future__ import annotations

import os
import select
import sys
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import trio

from trio_parallel_kafka.cli.output import PROGRAM

LAST_LINES_TIMEOUT: Final = 1.0
"""Seconds that the last lines may take to be written."""

MOST_MESSAGES: Final = 100
"""Messages that wait to be written; beyond them the oldest is dropped."""


class Outputs:
    """The standard output and the standard error, while an event loop runs.

    One that is read slowly, or not at all, closed or full, holds up and ends nothing: what can't be written is dropped.
    """

    def __init__(self) -> None:
        self._stderr: Final = LineWriter("__stderr__", lambda _error: None)
        self._stdout: Final = LineWriter("__stdout__", self._complain)

    def say(self, text: str) -> None:
        """Tell people something, on the standard error."""
        self._stderr.put(_line(text))

    def show_people(self, statistics: str) -> None:
        """Tell people how it gets on, unless they have yet to read what comes later."""
        self._stderr.put_latest(_line(statistics))

    def show_programs(self, statistics: str) -> None:
        """Likewise, to programs, on the standard output."""
        self._stdout.put_latest(statistics)

    def start_in(self, nursery: trio.Nursery) -> None:
        """Write from now on, until the nursery is cancelled."""
        for writer in (self._stdout, self._stderr):
            nursery.start_soon(writer.run)

    async def finish(self) -> None:
        """Write what waits, if that takes but a moment; shielded."""
        with trio.move_on_after(LAST_LINES_TIMEOUT, shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stderr.write)
                await self._stdout.write()
            await self._stderr.write()  # what there was to complain of

    def _complain(self, error: OSError) -> None:
        self.say(f"the statistics can't be written: {error}")


class LineWriter:
    """Writes lines to a descriptor, in a thread that is left alone if it hangs.

    It writes to the descriptor itself: a thread that hangs in a buffer of Python's holds a lock that the interpreter
    wants as it ends.

    Args:
        name: that of the stream in :mod:`sys`.
        complain: called with the first error of several in a row.
    """

    def __init__(self, name: Literal["__stdout__", "__stderr__"], complain: Callable[[OSError], None]) -> None:
        self._name: Final = name
        self._complain: Final = complain
        self._limiter: Final = trio.CapacityLimiter(1)  # held until a write ends, even if nobody waits for it any more
        self._put: Final = trio.lowlevel.ParkingLot()
        self._messages: Final[deque[str]] = deque(maxlen=MOST_MESSAGES)
        self._latest: Final[deque[str]] = deque(maxlen=1)
        self._fails = False

    def put(self, line: str) -> None:
        """Have it written."""
        self._messages.append(line)
        self._put.unpark()

    def put_latest(self, line: str) -> None:
        """Have it written in place of an earlier one that still waits."""
        self._latest.append(line)
        self._put.unpark()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            if not self._messages and not self._latest:
                await self._put.park()
            await self.write()

    async def write(self) -> None:
        """Write what waits. If this is cancelled, the thread goes on with it, as long as the process lives."""
        error = await trio.to_thread.run_sync(self._write_all, limiter=self._limiter, abandon_on_cancel=True)
        if error is not None and not self._fails:
            self._complain(error)
        self._fails = error is not None

    def _write_all(self) -> OSError | None:
        problem = None
        while (line := self._next()) is not None:
            try:
                self._write_line(line)
            except OSError as error:
                problem = error
        return problem

    def _next(self) -> str | None:
        for lines in (self._messages, self._latest):
            if lines:
                return lines.popleft()
        return None

    def _write_line(self, line: str) -> None:
        stream = getattr(sys, self._name)
        if stream is None or stream.closed:  # its descriptor may be another file's now
            return
        descriptor, unsent = stream.fileno(), f"{line}\n".encode(errors="backslashreplace")
        while unsent:
            try:
                unsent = unsent[os.write(descriptor, unsent) :]
            except BlockingIOError:  # whoever shares it has made it so
                _wait_until_writable(descriptor)


def _line(text: str) -> str:
    return f"{PROGRAM}: {text}"


def _wait_until_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
