"""``trio-parallel-kafka run``: handle records, in one process or in several."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from typing import Any, Final

import trio

from trio_parallel_kafka.cli.arguments import handler_name, seconds, whole_number
from trio_parallel_kafka.cli.fleet.alone import run_alone
from trio_parallel_kafka.cli.fleet.linked import UNUSABLE, run_linked
from trio_parallel_kafka.cli.fleet.member import Member
from trio_parallel_kafka.cli.fleet.showing import Showing
from trio_parallel_kafka.cli.fleet.source import ConfigSource, make_current_directory_importable
from trio_parallel_kafka.cli.fleet.supervisor import Supervisor
from trio_parallel_kafka.cli.output import complain
from trio_parallel_kafka.errors import ConfigError, InvalidHandlerError

DESCRIPTION: Final = """\
Handle records with a function of yours, until a signal. The current directory can be
imported from. The configuration comes from a TOML file, or else from the environment
(KAFKA_BOOTSTRAP_SERVERS, KAFKA_CONSUMER_GROUP, KAFKA_TOPICS, PARALLEL_CONSUMER_...).

One member of the group runs in this very process. With --members N, N processes are
supervised, each a member: one that dies is started again after a delay, which grows if
it happens again and again.

SIGTERM or Ctrl-C drains: what runs may finish within shutdown_timeout, what is done is
committed. A second one kills. If the supervisor itself is killed, its members drain.
"""

EPILOG: Final = """\
examples:
  trio-parallel-kafka run billing:handle --config billing.toml
  trio-parallel-kafka run billing:handle --env-file .env --members 4
  trio-parallel-kafka run billing:handle --members 4 --first-member 4  # elsewhere
  trio-parallel-kafka run billing:handle --json --statistics 60 | jq .totals.completed
  trio-parallel-kafka run billing:handle --status-file /run/billing.json

Identities that the configuration has, transactional_id and the librdkafka property
group.instance.id, are prefixes here: the member's index is appended (billing-0).

exit status: 0 drained, 1 a member failed in the end, 2 the arguments, the configuration
or the handler are wrong, 128 + the signal's number after a kill.
"""

LOG_FORMAT: Final = "%(asctime)s %(levelname)s member {index} %(name)s: %(message)s"


def add_parser(commands: Any) -> None:
    """Add this command's parser to those of :func:`trio_parallel_kafka.cli.main`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="handle records with a function of yours, in one process or in several",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("handler", type=handler_name, metavar="MODULE:FUNCTION", help="what handles a record")
    add(
        "--members",
        type=whole_number(1_000),
        default=1,
        metavar="N",
        help="members to run (default: 1, in this process)",
    )
    add("--config", metavar="FILE.toml", help="a TOML file with the configuration, instead of the environment")
    add("--table", metavar="TABLE", help="the table in it (default: trio-parallel-kafka, or tool.trio-parallel-kafka)")
    add("--env-file", metavar="FILE", help="a .env file; the environment goes before it")
    add(
        "--first-member",
        type=whole_number(1_000_000, lowest=0),
        default=0,
        metavar="I",
        help="index of the first member (default: 0); members of a group on several machines need different ones",
    )
    add(
        "--statistics",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="time between two lines of statistics on stderr (default: 10; 0: only at the end)",
    )
    add("--json", action="store_true", help="statistics as JSON objects on stdout, one on each line")
    add("--status-file", metavar="PATH", help="write the statistics there each second, for trio-parallel-kafka health")
    add("--link", type=int, help=argparse.SUPPRESS)  # the supervisor starts its members with it
    parser.set_defaults(run=functools.partial(_checked_run, parser))


def _checked_run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.table is not None and options.config is None:
        parser.error("--table names a table in a file: give --config, too")
    if options.env_file is not None and options.config is not None:
        parser.error("the configuration comes from a file or from the environment: leave out --config or --env-file")
    status = UNUSABLE
    try:
        status = _run(options)
    except* (ConfigError, InvalidHandlerError) as group:
        complain(group)
    return status


def _run(options: argparse.Namespace) -> int:
    make_current_directory_importable()
    source = ConfigSource(file=options.config, table=options.table, env_file=options.env_file)
    make_member = functools.partial(_make_member, source, options.handler, options.first_member)
    if options.link is not None:
        return run_linked(make_member, options.link)
    showing = Showing(interval=options.statistics, as_json=options.json, status_file=options.status_file)
    # Ctrl-C before signals are taken for a drain then strikes at one defined place.
    run = functools.partial(trio.run, restrict_keyboard_interrupt_to_checkpoints=True)
    if options.members == 1:
        return run(run_alone, make_member(), options.first_member, showing)
    source.load()  # what is wrong with it is better said once than by every member
    return run(_supervise, options, source, showing)


def _make_member(source: ConfigSource, handler: str, index: int) -> Member:
    # What shows warnings unless the handler's module sets up logging of its own.
    last_resort = logging.lastResort or logging.NullHandler()
    last_resort.setFormatter(logging.Formatter(LOG_FORMAT.format(index=index)))
    return Member(source.load().for_member(index), handler)


async def _supervise(options: argparse.Namespace, source: ConfigSource, showing: Showing) -> int:
    def command(index: int) -> list[str]:
        program = [sys.executable, "-m", "trio_parallel_kafka", "run", options.handler]
        return [*program, f"--first-member={index}", *source.arguments()]

    indices = range(options.first_member, options.first_member + options.members)
    return await Supervisor(indices, command).run(showing)
