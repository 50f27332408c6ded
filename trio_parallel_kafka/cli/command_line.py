"""The parser, its commands, and what becomes of errors.

A command is a module with an ``add_parser(commands)``, which adds its parser and sets ``run`` in it: a function of
the parsed options that returns the exit status. :data:`COMMANDS` names them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import metadata
from typing import Final

from trio_parallel_kafka.cli import demo, health, run
from trio_parallel_kafka.cli.output import PROGRAM, complain, discard_output, say
from trio_parallel_kafka.errors import ParallelKafkaError

COMMANDS: Final = (demo, run, health)

FAILED: Final = 1
INTERRUPTED: Final = 130
OUTPUT_CLOSED: Final = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; default: those of the process.

    Returns:
        The exit status: 0 all is well, 1 a check or Kafka failed, 2 the configuration is wrong, 130 interrupted with
        Ctrl-C, 141 nobody reads the output any more; commands may have more.

    Raises:
        SystemExit: with status 2 the arguments are wrong, with 0 the help or the version was asked for.
    """
    options = _parser().parse_args(argv)
    status = 0
    try:
        status = options.run(options)
    except* ParallelKafkaError as group:
        status = FAILED
        complain(group)
    except* BrokenPipeError:
        status = OUTPUT_CLOSED
        discard_output()
    except* KeyboardInterrupt:
        status = INTERRUPTED
        say("interrupted")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Consume Kafka in parallel with Trio: key order kept, nothing lost."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _version() -> str:
    try:
        return metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:
        return "(a checkout that isn't installed)"
