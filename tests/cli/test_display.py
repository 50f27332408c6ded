"""What people see: lines where nothing can be drawn, bars on a terminal, and the summary as a table or JSON."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections import Counter
from typing import Any

import attrs
import pytest

from trio_parallel_kafka.cli.arguments import WorkTime
from trio_parallel_kafka.cli.display import Display, PlainDisplay, open_display
from trio_parallel_kafka.cli.drawing import draw_summary
from trio_parallel_kafka.cli.orders import Workload
from trio_parallel_kafka.cli.progress import Progress, RateMeter
from trio_parallel_kafka.cli.summary import Summary
from trio_parallel_kafka.config import Ordering
from trio_parallel_kafka.errors import ParallelKafkaError

WORKLOAD = Workload.make(records=2_000, keys=10, partitions=2, work_time=WorkTime(0.001, 0.005))
SUMMARY = Summary(
    records=2_000,
    keys=10,
    partitions=2,
    ordering=Ordering.KEY,
    concurrency=256,
    seconds=2.0,
    one_at_a_time_seconds=6.0,
    peak_in_flight=10,
    order_violations=0,
    missing=0,
    duplicates=0,
)


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal, and what was written to it, with and without control sequences."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True

    @property
    def written(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.written)


@attrs.define
class Streams:
    """Stands for the module sys."""

    stdout: Terminal = attrs.field(factory=Terminal)
    stderr: io.StringIO = attrs.field(factory=io.StringIO)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    """A terminal, wide enough, for stdout, and a pipe for stderr."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    streams = Streams()
    # Not in sys itself: pytest exchanges them there between a fixture and its test.
    monkeypatch.setattr("trio_parallel_kafka.cli.display.sys", streams)
    return streams


@pytest.fixture
def terminal(streams: Streams) -> Terminal:
    """The terminal that stdout is."""
    return streams.stdout


def at(elapsed: float, completed: int) -> Progress:
    """Some progress, all of it in partition 1."""
    return Progress(
        elapsed=elapsed,
        completed=completed,
        completed_by_partition=Counter({1: completed}),
        in_flight=7,
        rate=1234.5,
    )


def show_all(display: Display) -> None:
    """Show a whole run."""
    display.say("hello [bold]")
    display.produced(500)
    display.produced(2_000)
    for elapsed, completed in ((0.0, 0), (0.9, 90), (1.0, 100), (1.5, 150), (2.1, 210), (2.5, 2_000)):
        display.handled(at(elapsed, completed))


def test_lines_come_once_a_second() -> None:
    """In a pipe there is a line a second, and one each when all is produced and handled."""
    stream = io.StringIO()
    show_all(PlainDisplay(stream, WORKLOAD))
    assert stream.getvalue().splitlines() == [
        "hello [bold]",
        "produced 2,000",
        "handled 100 of 2,000, 1,234 records/s, 7 in flight",
        "handled 210 of 2,000, 1,234 records/s, 7 in flight",
        "handled 2,000 of 2,000",
    ]


def test_terminal_is_drawn_on(terminal: Terminal) -> None:
    """On a terminal there are bars for the whole and for each partition; text stands above; the cursor comes back."""
    with open_display(WORKLOAD, as_json=False) as display:
        show_all(display)
    assert "hello [bold]\n" in terminal.text
    assert "1,234 records/s     7 in flight" in terminal.text
    *_, whole, first, second = terminal.text.rstrip().splitlines()
    assert re.fullmatch(r"handled +━+ +2,000 of 2,000 *", whole)
    assert re.fullmatch(r"  partition 0 ━+ +0 of 1,000 *", first)
    assert re.fullmatch(r"  partition 1 ━+ +2,000 of 1,000 *", second)
    assert terminal.written.rindex("\x1b[?25h") > terminal.written.rindex("\x1b[?25l")


@pytest.mark.parametrize("partitions", [1, 9])
def test_partition_bars_are_for_a_few(terminal: Terminal, partitions: int) -> None:
    """A single partition, or many, have no bars of their own."""
    workload = Workload.make(records=9, keys=9, partitions=partitions, work_time=WorkTime(0.001, 0.001))
    with open_display(workload, as_json=False) as display:
        display.handled(at(1.0, 5))
    assert "handled" in terminal.text
    assert "partition" not in terminal.text


def test_nothing_is_drawn_where_it_cannot(monkeypatch: pytest.MonkeyPatch, streams: Streams) -> None:
    """A terminal that can't move its cursor, or can't show the bars, gets lines."""
    monkeypatch.setenv("TERM", "dumb")
    with open_display(WORKLOAD, as_json=False) as display:
        assert isinstance(display, PlainDisplay)
    monkeypatch.setenv("TERM", "xterm-256color")
    streams.stdout = Terminal("ascii")
    with open_display(WORKLOAD, as_json=False) as display:
        assert isinstance(display, PlainDisplay)


def test_with_json_stdout_is_for_programs(streams: Streams) -> None:
    """With --json everything is shown on stderr."""
    with open_display(WORKLOAD, as_json=True) as display:
        display.say("hello")
    assert not streams.stdout.written
    assert streams.stderr.getvalue() == "hello\n"


def test_warnings_are_shown_once(terminal: Terminal) -> None:
    """What the library logs as a warning stands among the rest, once, and only as long as the run lasts."""
    logger = logging.getLogger("trio_parallel_kafka.client")
    with open_display(WORKLOAD, as_json=False):
        for _ in range(3):
            logger.warning("broker %s is away", "one")
        logger.info("of no interest")
    logger.warning("too late")
    assert terminal.text.count("warning: broker one is away") == 1
    assert "of no interest" not in terminal.text
    assert "too late" not in terminal.text


def test_without_rich_people_are_told_what_to_install(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    """What has to be drawn needs the extra: the bars, and the table."""
    monkeypatch.setitem(sys.modules, "rich", None)
    with (
        pytest.raises(ParallelKafkaError, match=re.escape("pip install 'trio-parallel-kafka[cli]'")),
        open_display(WORKLOAD, as_json=False),
    ):
        pytest.fail("the block began")


def test_without_rich_json_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """For programs nothing is drawn, so that nothing is needed."""
    monkeypatch.setitem(sys.modules, "rich", None)
    with open_display(WORKLOAD, as_json=True) as display:
        assert isinstance(display, PlainDisplay)


def test_rate_is_that_of_the_last_second() -> None:
    """The rate forgets what is older than its window."""
    meter = RateMeter(window=1.0)
    assert meter.update(0.0, 0) == 0.0
    assert meter.update(0.5, 50) == 100.0
    assert meter.update(1.0, 300) == 300.0
    assert meter.update(1.5, 300) == 250.0
    assert meter.update(9.0, 300) == 0.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "Passed: none missing, none twice, each key in order."),
        ({"ordering": Ordering.PARTITION}, "Passed: none missing, none twice, each partition in order."),
        ({"ordering": Ordering.UNORDERED, "order_violations": 9}, "Passed: none missing, none twice."),
        ({"order_violations": 2}, "FAILED: key order violations: 2"),
        ({"ordering": Ordering.PARTITION, "order_violations": 2}, "FAILED: partition order violations: 2"),
        ({"missing": 1_999, "duplicates": 3}, "FAILED: missing: 1,999, duplicates: 3"),
    ],
)
def test_summary_says_what_it_comes_to(changes: dict[str, Any], expected: str) -> None:
    """The last line tells whether all promises were kept, and if not, which."""
    stream = io.StringIO()
    summary = attrs.evolve(SUMMARY, **changes)
    draw_summary(summary, stream)
    assert stream.getvalue().splitlines()[-1] == expected
    assert summary.has_passed == expected.startswith("Passed")
    assert json.loads(summary.as_json())["passed"] == summary.has_passed


def test_summary_as_a_table() -> None:
    """The table sets the throughput beside that of one at a time, and each check beside its verdict."""
    stream = io.StringIO()
    draw_summary(attrs.evolve(SUMMARY, missing=1), stream)
    rows = [re.split(r" {2,}", line.strip()) for line in stream.getvalue().splitlines() if line.strip()]
    assert rows[:-1] == [
        ["throughput", "1,000 records/s", "1,999 in 2.00 s"],
        ["one at a time", "333 records/s", "6.0 s at best, the sum of all work"],
        ["speed-up", "3.0x"],
        ["in flight at peak", "10", "256 at most"],
        ["key order violations", "0", "ok"],
        ["missing", "1", "FAILED"],
        ["duplicates", "0", "ok"],
    ]


def test_summary_as_json() -> None:
    """Programs get the same on one line, with names for everything."""
    assert json.loads(SUMMARY.as_json()) == {
        "records": 2_000,
        "keys": 10,
        "partitions": 2,
        "ordering": "key",
        "concurrency": 256,
        "seconds": 2.0,
        "records_per_second": 1_000.0,
        "one_at_a_time_seconds": 6.0,
        "one_at_a_time_records_per_second": 333.3,
        "speed_up": 3.0,
        "peak_in_flight": 10,
        "key_order_violations": 0,
        "missing": 0,
        "duplicates": 0,
        "passed": True,
    }


def test_summary_of_nothing() -> None:
    """A run in which nothing was handled has no throughput."""
    summary = attrs.evolve(SUMMARY, seconds=0.0, missing=2_000)
    assert (summary.records_per_second, summary.speed_up, summary.has_passed) == (0.0, 0.0, False)
