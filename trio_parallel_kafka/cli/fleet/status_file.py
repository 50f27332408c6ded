"""Writes the statistics where health checks find them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from trio_parallel_kafka.cli.fleet.statistics import FleetStatistics

INTERVAL: Final = 1.0
"""Seconds between two versions of the file."""


class StatusFile:
    """The file that ``--status-file`` names, always whole.

    Args:
        path: where it is.
        snapshot: asks the fleet.
        say: tells people that it can't be written.
    """

    def __init__(self, path: str, snapshot: Callable[[], FleetStatistics], say: Callable[[str], None]) -> None:
        self._path: Final = path
        self._snapshot: Final = snapshot
        self._say: Final = say
        self._limiter: Final = trio.CapacityLimiter(1)  # handlers may hold all tokens of the usual one
        self._problem: str | None = None

    async def run(self) -> None:
        """Write it regularly, until cancelled. A disk that is slow holds nobody up."""
        while True:
            await trio.sleep(INTERVAL)
            text = self._snapshot().as_json()
            self._note(await trio.to_thread.run_sync(self._problem_of_writing, text, limiter=self._limiter))

    def write(self) -> None:
        """Write it now.

        Raises:
            OSError: it can't be written.
        """
        self._write(self._snapshot().as_json())

    def write_last(self) -> None:
        """Write how it ended, if possible."""
        self._note(self._problem_of_writing(self._snapshot().as_json()))

    def _problem_of_writing(self, text: str) -> str | None:
        try:
            self._write(text)
        except OSError as error:
            return str(error)
        return None

    def _note(self, problem: str | None) -> None:
        """A full disk must not end the work: the file grows old, which is what the health checks notice."""
        if problem is not None and problem != self._problem:
            self._say(f"the status file can't be written, so health checks will fail: {problem}")
        self._problem = problem

    def _write(self, text: str) -> None:
        being_written = f"{self._path}.new"
        try:
            with open(being_written, "w", encoding="utf-8") as file:  # noqa: PTH123 - the name is the user's, as it is
                file.write(text)
            os.replace(being_written, self._path)  # noqa: PTH105 - likewise
        except OSError:
            with suppress(OSError):
                os.unlink(being_written)  # noqa: PTH108 - likewise
            raise
