"""The parser, its commands, and what becomes of errors.

A command is a module with an ``add_parser(commands)``, which adds its parser and sets ``run`` in it: a function of
the parsed options that returns the exit status. :data:`COMMANDS` names them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Final

from trio_parallel_kafka.cli import demo
from trio_parallel_kafka.errors import ParallelKafkaError

PROGRAM: Final = "trio-parallel-kafka"
COMMANDS: Final = (demo,)

FAILED: Final = 1
INTERRUPTED: Final = 130
OUTPUT_CLOSED: Final = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; default: those of the process.

    Returns:
        The exit status: 0 all is well, 1 a check or Kafka failed, 130 interrupted with Ctrl-C, 141 nobody reads the
        output any more.

    Raises:
        SystemExit: with status 2 the arguments are wrong, with 0 the help or the version was asked for.
    """
    options = _parser().parse_args(argv)
    status = 0
    try:
        status = options.run(options)
    except* ParallelKafkaError as group:
        status = FAILED
        _complain(group)
    except* BrokenPipeError:
        status = OUTPUT_CLOSED
        _discard_output()
    except* KeyboardInterrupt:
        status = INTERRUPTED
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
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


def _complain(error: BaseException) -> None:
    """Print what it says; of a group, what each of its errors says."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            _complain(each)
    else:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)


def _discard_output() -> None:
    """Or Python tries once more to write what is buffered, at its exit, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
