"""Shows a fleet while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from trio_parallel_kafka.cli.fleet.announcer import Announcer
from trio_parallel_kafka.cli.fleet.statistics import FleetStatistics
from trio_parallel_kafka.cli.fleet.status_file import StatusFile
from trio_parallel_kafka.errors import ConfigError


@attrs.frozen(kw_only=True)
class Showing:
    """What is shown, and where.

    Attributes:
        interval: seconds between two lines of statistics; 0: none but the last.
        as_json: as JSON on the standard output.
        status_file: where the statistics are written, too, or ``None``.
    """

    interval: float
    as_json: bool
    status_file: str | None

    @asynccontextmanager
    async def of(self, snapshot: Callable[[], FleetStatistics]) -> AsyncIterator[None]:
        """Show a fleet for the length of a block, and how it ended.

        Raises:
            ConfigError: the status file can't be written.
        """
        announcer = Announcer(snapshot, interval=self.interval, as_json=self.as_json)
        file = None if self.status_file is None else StatusFile(self.status_file, snapshot)
        if file is not None:
            try:
                file.write()
            except OSError as error:
                raise ConfigError([f"--status-file: can't be written: {error}; check its folder"]) from error
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(announcer.run)
                if file is not None:
                    nursery.start_soon(file.run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            announcer.speak()
            if file is not None:
                file.write_last()
