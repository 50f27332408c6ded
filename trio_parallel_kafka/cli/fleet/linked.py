"""A member in a process of its own, linked to its supervisor."""

from __future__ import annotations

import faulthandler
import functools
from collections.abc import Callable
from typing import Final

import trio

from trio_parallel_kafka.cli.fleet.link import MemberEnd
from trio_parallel_kafka.cli.fleet.member import Member, drain_on_signal
from trio_parallel_kafka.cli.fleet.report import MemberReport, describe, is_beyond_restarts, speaks_for_itself
from trio_parallel_kafka.config import ConsumerConfig

REPORT_INTERVAL: Final = 1.0
"""Seconds between two reports."""

FAILED: Final = 1
UNUSABLE: Final = 2
"""Exit status of a member that can't ever work as it is configured."""

_MARGIN: Final = 10.0
_STDERR: Final = 2  # not sys.stderr: that may be missing, or be something of the handler's that is no file


def longest_drain(config: ConsumerConfig) -> float:
    """Seconds after which a drain hangs for certain.

    The handlers have ``shutdown_timeout``; the last commit, the end of the client and, where results are sent, their
    delivery and the end of that client have ``close_timeout`` each.
    """
    return config.shutdown_timeout + 4 * config.close_timeout + _MARGIN


def run_linked(make: Callable[[], Member], descriptor: int) -> int:
    """Be a member until the supervisor asks to drain, or is dead; return the exit status.

    Args:
        make: makes the member: what fails in it is told to the supervisor, too.
        descriptor: the inherited socket.

    Raises:
        BaseException: what ended it, where only a traceback says enough.
    """
    link = MemberEnd(descriptor)
    try:
        member = make()
        with link.watched(functools.partial(_end_if_it_hangs, member.config)):
            trio.run(_serve, member, link, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseException as error:
        link.say_last(MemberReport(failure=describe(error)))
        if is_beyond_restarts(error):
            return UNUSABLE  # noqa: ASYNC104 - no cancellation leaves trio.run()
        if speaks_for_itself(error):
            return FAILED  # noqa: ASYNC104 - likewise
        raise
    finally:
        link.close()
    return 0


def _end_if_it_hangs(config: ConsumerConfig) -> None:
    """Show where a drain hangs that begins now, and end the process.

    A handler that blocks the loop, or doesn't react to its cancellation, would keep it for ever, with nobody to end it
    once the supervisor is dead.
    """
    faulthandler.dump_traceback_later(longest_drain(config), exit=True, file=_STDERR)


async def _serve(member: Member, link: MemberEnd) -> None:  # noqa: ASYNC910 - run() has one
    def drain() -> None:
        _end_if_it_hangs(member.config)
        member.drain()

    async def drain_when_asked() -> None:
        await link.wait_until_asked_to_drain()
        drain()

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(drain_on_signal, drain)
            nursery.start_soon(drain_when_asked)
            nursery.start_soon(link.report_regularly, member.report, REPORT_INTERVAL)
            await member.run()
            nursery.cancel_scope.cancel()
    finally:
        link.say_last(member.report())
