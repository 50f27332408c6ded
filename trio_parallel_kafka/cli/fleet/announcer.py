"""Prints statistics now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from trio_parallel_kafka.cli.fleet.statistics import FleetStatistics
from trio_parallel_kafka.cli.output import discard_output, say

_SHORTEST: Final = 1e-3


class Announcer:
    """Says how the fleet gets on: a line on the standard error, or a JSON object on the standard output.

    Args:
        snapshot: asks the fleet.
        interval: seconds between two lines; 0: none but the last.
        as_json: for programs instead of people.
    """

    def __init__(self, snapshot: Callable[[], FleetStatistics], *, interval: float, as_json: bool) -> None:
        self._snapshot: Final = snapshot
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
            _print(statistics.as_json())
            return
        seconds = max(_SHORTEST, trio.current_time() - self._said_at)
        # A member that died takes what it did since its last report along: that may be less than before.
        rate = max(0, statistics.totals.completed - self._completed_by_then) / seconds
        self._said_at, self._completed_by_then = trio.current_time(), statistics.totals.completed
        say(statistics.as_line(rate))


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError as error:  # nobody reads it any more, or the disk is full; that is no reason to end the work
        discard_output()
        say(f"the statistics can't be written any more: {error}")
