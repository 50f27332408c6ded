"""What people see of the demonstration while it runs."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TextIO

from trio_parallel_kafka.cli.orders import Workload
from trio_parallel_kafka.cli.progress import Progress
from trio_parallel_kafka.errors import ParallelKafkaError

LINE_INTERVAL: Final = 1.0
"""Seconds between two lines of progress where nothing can be drawn."""


class Display(Protocol):
    """Shows a run."""

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def produced(self, count: int) -> None:
        """Show how many orders are produced."""

    def handled(self, progress: Progress) -> None:
        """Show how the handling goes."""


class PlainDisplay:
    """Lines, for pipes and files."""

    def __init__(self, stream: TextIO, workload: Workload) -> None:
        self._stream: Final = stream
        self._total: Final = len(workload.orders)
        self._next_line_at = 0.0

    def say(self, text: str) -> None:
        """Print it at once."""
        print(text, file=self._stream, flush=True)

    def produced(self, count: int) -> None:
        """Print once that all are."""
        if count == self._total:
            self.say(f"produced {count:,}")

    def handled(self, progress: Progress) -> None:
        """Print a line every :data:`LINE_INTERVAL`, and the last one."""
        if progress.elapsed >= self._next_line_at or progress.completed == self._total:
            self._next_line_at = progress.elapsed + LINE_INTERVAL
            self.say(
                f"handled {progress.completed:,} of {self._total:,}, {progress.rate:,.0f} records/s, "
                f"{progress.in_flight:,} in flight"
            )


@contextmanager
def open_display(workload: Workload, *, stream: TextIO) -> Iterator[Display]:
    """Show a run on a stream: drawn where that is a terminal, else in lines; warnings of the library, too."""
    with _display(workload, stream) as display, _warnings_on(display):
        yield display
