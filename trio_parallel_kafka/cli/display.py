"""What people see of the demonstration while it runs."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
        self._next_line_at = LINE_INTERVAL

    def say(self, text: str) -> None:
        """Print it at once."""
        print(text, file=self._stream, flush=True)

    def produced(self, count: int) -> None:
        """Print once that all are."""
        if count == self._total:
            self.say(f"produced {count:,}")

    def handled(self, progress: Progress) -> None:
        """Print a line every :data:`LINE_INTERVAL`, and the last one."""
        handled = f"handled {progress.completed:,} of {self._total:,}"
        if progress.completed == self._total:
            self.say(handled)
        elif progress.elapsed >= self._next_line_at:
            self._next_line_at += LINE_INTERVAL
            self.say(f"{handled}, {progress.rate:,.0f} records/s, {progress.in_flight:,} in flight")


@contextmanager
def open_display(workload: Workload, *, as_json: bool) -> Iterator[Display]:
    """Show a run: drawn on a terminal, else in lines; warnings of the library among it.

    Args:
        workload: what will be done.
        as_json: the standard output is for programs, so show it on the standard error.

    Raises:
        ParallelKafkaError: something has to be drawn, the run or the table after it, and rich isn't installed.
    """
    stream = sys.stderr if as_json else sys.stdout
    is_drawn = _can_draw_on(stream)
    if is_drawn or not as_json:
        _require_rich()
    with ExitStack() as stack:
        display: Display
        if is_drawn:
            from trio_parallel_kafka.cli.drawing import DrawnDisplay  # noqa: PLC0415 - it needs the extra

            display = stack.enter_context(DrawnDisplay(stream, workload))
        else:
            display = PlainDisplay(stream, workload)
        stack.enter_context(_warnings_on(display))
        yield display


def _can_draw_on(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb" and stream.encoding.lower().startswith("utf")


def _require_rich() -> None:
    if importlib.util.find_spec("rich") is None:
        raise ParallelKafkaError("this needs rich, which is not installed: pip install 'trio-parallel-kafka[cli]'")


@contextmanager
def _warnings_on(display: Display) -> Iterator[None]:
    """Or Python would write them to the standard error, in the midst of what is drawn."""
    handler = _Handler(display)
    logger = logging.getLogger("trio_parallel_kafka")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display: Final = display
        self._shown: Final[set[str]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message, without the traceback that may come with it.

        Once: while a broker is away the client says so many times a second.
        """
        message = f"{record.levelname.lower()}: {record.getMessage()}"
        if message not in self._shown:
            self._shown.add(message)
            self._display.say(message)
