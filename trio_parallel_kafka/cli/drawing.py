"""What is drawn for people; the only module that needs rich."""

from __future__ import annotations

from typing import Final, Self, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress as Bars, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from trio_parallel_kafka.cli.orders import Workload
from trio_parallel_kafka.cli.progress import Progress
from trio_parallel_kafka.cli.summary import Check, Summary
from trio_parallel_kafka.config import Ordering

MOST_PARTITION_BARS: Final = 8
"""With more partitions than this, none has a bar of its own."""


class DrawnDisplay:
    """Bars on a terminal, redrawn in place; a context manager."""

    def __init__(self, stream: TextIO, workload: Workload) -> None:
        self._bars: Final = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32, complete_style="cyan", finished_style="green"),
            TextColumn("{task.completed:>7,.0f} [dim]of {task.total:,.0f}"),
            TextColumn("{task.fields[status]}"),
            console=Console(file=stream, highlight=False),
            auto_refresh=False,  # or a thread would compete with the consumer
        )
        self._total: Final = len(workload.orders)
        self._producing: Final = self._add("produced", self._total)
        self._handling: Final = self._add("handled", self._total)
        self._partitions: dict[int, TaskID] = {}
        if 1 < workload.partitions <= MOST_PARTITION_BARS:
            counts = sorted(workload.count_by_partition().items())
            self._partitions = {partition: self._add(f"  [dim]partition {partition}", n) for partition, n in counts}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print it above the bars."""
        self._bars.console.print(text, markup=False)

    def produced(self, count: int) -> None:
        """Move its bar."""
        self._bars.update(self._producing, completed=count, refresh=True)

    def handled(self, progress: Progress) -> None:
        """Move the bars of the whole and of the partitions."""
        for partition, bar in self._partitions.items():
            self._bars.update(bar, completed=progress.completed_by_partition[partition])
        now = f"[bold]{progress.rate:>7,.0f}[/] records/s  [bold]{progress.in_flight:>4,}[/] in flight"
        is_over = progress.completed == self._total
        self._bars.update(self._handling, completed=progress.completed, status="" if is_over else now, refresh=True)

    def _add(self, description: str, total: int) -> TaskID:
        return self._bars.add_task(description, total=total, status="")


def draw_summary(summary: Summary, stream: TextIO) -> None:
    """Print the figures as a table, and what they come to."""
    table = Table(box=box.SIMPLE, show_header=False, highlight=False, pad_edge=False)
    # "fold": what doesn't fit would get an ellipsis, which not every encoding has.
    table.add_column(style="dim", overflow="fold")
    table.add_column(style="bold", overflow="fold", justify="right")
    table.add_column(overflow="fold")
    table.add_row(
        "throughput",
        f"{summary.records_per_second:,.0f} records/s",
        f"{summary.handled:,} in {summary.seconds:,.2f} s",
    )
    table.add_row(
        "one at a time",
        f"{summary.one_at_a_time_records_per_second:,.0f} records/s",
        f"{summary.one_at_a_time_seconds:,.1f} s at best, the sum of all work",
    )
    table.add_row("speed-up", f"{summary.speed_up:,.1f}x")
    table.add_row("in flight at peak", f"{summary.peak_in_flight:,}", f"{summary.concurrency:,} at most")
    for check in summary.checks:
        table.add_row(check.name, f"{check.count:,}", _verdict(check))
    console = Console(file=stream, highlight=False)
    console.print(table)
    failed = [f"{check.name}: {check.count:,}" for check in summary.checks if check.has_failed]
    if failed:
        console.print(f"[bold red]FAILED[/]: {', '.join(failed)}")
    else:
        kept = "" if summary.ordering is Ordering.UNORDERED else f", each {summary.ordering} in order"
        console.print(f"[bold green]Passed[/]: none missing, none twice{kept}.")


def _verdict(check: Check) -> Text:
    if not check.is_promised:
        return Text("not promised", style="dim")
    return Text("FAILED", style="bold red") if check.has_failed else Text("ok", style="green")
