"""Shows a fleet while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from trio_parallel_kafka.cli.fleet.outputs import Outputs
from trio_parallel_kafka.cli.fleet.statistics import FleetStatistics
from trio_parallel_kafka.cli.fleet.status_file import StatusFile
from trio_parallel_kafka.errors import ConfigError

_SHORTEST: Final = 1e-3


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
    async def of(self, snapshot: Callable[[], FleetStatistics]) -> AsyncIterator[Callable[[str], None]]:
        """Show a fleet for the length of a block, and how it ended.

        The block gets what says a line more; like all that is shown, without waiting for whoever reads it.

        Raises:
            ConfigError: the status file can't be written.
        """
        outputs = Outputs()
        announcer = Announcer(snapshot, outputs, interval=self.interval, as_json=self.as_json)
        file = None if self.status_file is None else StatusFile(self.status_file, snapshot, outputs.say)
        if file is not None:
            try:
                file.write()
            except OSError as error:
                raise ConfigError([f"--status-file: can't be written: {error}; check its folder"]) from error
        try:
            async with trio.open_nursery() as nursery:
                outputs.start_in(nursery)
                nursery.start_soon(announcer.run)
                if file is not None:
                    nursery.start_soon(file.run)
                yield outputs.say
                nursery.cancel_scope.cancel()
        finally:
            announcer.speak()
            if file is not None:
                file.write_last()
            await outputs.finish()  # noqa: ASYNC102 - it shields and bounds itself


class Announcer:
    """Says how the fleet gets on: a line on the standard error, or a JSON object on the standard output.

    Args:
        snapshot: asks the fleet.
        outputs: where to say it.
        interval: seconds between two lines; 0: none but the last.
        as_json: for programs instead of people.
    """

    def __init__(
        self, snapshot: Callable[[], FleetStatistics], outputs: Outputs, *, interval: float, as_json: bool
    ) -> None:
        self._snapshot: Final = snapshot
        self._outputs: Final = outputs
        self._interval: Final = interval
        self._as_json: Final = as_json
        self._said_at = trio.current_time()
        self._completed_by_then = 0

    async def run(self) -> None:
        """Speak until cancelled."""
        while self._interval:
            await trio.sleep(self._interval)
            self.speak()
        await trio.lowlevel.checkpoint()

    def speak(self) -> None:
        """Say it now."""
        statistics = self._snapshot()
        if self._as_json:
            self._outputs.show_programs(statistics.as_json())
            return
        seconds = max(_SHORTEST, trio.current_time() - self._said_at)
        # A member that died takes what it did since its last report along: that may be less than before.
        rate = max(0, statistics.totals.completed - self._completed_by_then) / seconds
        self._said_at, self._completed_by_then = trio.current_time(), statistics.totals.completed
        self._outputs.show_people(statistics.as_line(rate))
