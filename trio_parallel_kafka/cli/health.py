"""``trio-parallel-kafka health``: for health checks that run a command."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Final

from trio_parallel_kafka.cli.arguments import seconds
from trio_parallel_kafka.cli.fleet.statistics import FleetStatistics
from trio_parallel_kafka.cli.fleet.vitals import Verdict, judge

DESCRIPTION: Final = """\
Judge by its status file whether what "trio-parallel-kafka run --status-file PATH" has
started is alive: the file is fresh, and not every member is silent or fails again and
again. With --ready, whether it is ready: every member runs and has been given its
partitions, or has none because others have them all.
"""

EPILOG: Final = """\
examples:
  trio-parallel-kafka health /run/billing.json
  trio-parallel-kafka health /run/billing.json --ready --max-age 10

It says why on one line. exit status: 0 it is, 1 it isn't, 2 the arguments are wrong.
"""


def add_parser(commands: Any) -> None:
    """Add this command's parser to those of :func:`trio_parallel_kafka.cli.main`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "health",
        help="tell whether what runs is alive, or ready",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("path", type=Path, metavar="PATH", help="the status file")
    add("--ready", action="store_true", help="ask whether it is ready, not just alive")
    add(
        "--max-age",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how old the status, or a member's last report, may be (default: 30)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    verdict = _verdict(options)
    print(verdict.reason)
    return 0 if verdict.is_well else 1


def _verdict(options: argparse.Namespace) -> Verdict:
    try:
        text = options.path.read_bytes()
    except OSError as error:
        return Verdict(
            is_well=False, reason=f"the status file can't be read: {error}; does it run, with --status-file?"
        )
    try:
        statistics = FleetStatistics.from_json(text)
    except Exception:  # noqa: BLE001 - of many kinds, and all mean the same
        return Verdict(is_well=False, reason=f"{options.path} isn't a status file of this version")
    return judge(statistics, now=time.time(), max_age=options.max_age, ready=options.ready)
