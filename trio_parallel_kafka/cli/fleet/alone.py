"""A member that is alone: in this very process, with nobody to start it again."""

from __future__ import annotations

import os

import trio

from trio_parallel_kafka.cli.fleet.member import Member, drain_on_signal
from trio_parallel_kafka.cli.fleet.report import describe
from trio_parallel_kafka.cli.fleet.roster import DRAINING, STOPPED, MemberEntry, Roster
from trio_parallel_kafka.cli.fleet.showing import Showing
from trio_parallel_kafka.cli.fleet.statistics import FleetStatistics


async def run_alone(member: Member, index: int, showing: Showing) -> int:
    """Run a member until a signal has made it drain, or it fails; return the exit status.

    Raises:
        ConfigError: the status file can't be written.
        ExceptionGroup: what ended the member.
    """
    entry = MemberEntry(index)
    entry.started(os.getpid())
    roster = Roster((entry,))

    def snapshot() -> FleetStatistics:
        if roster.state != STOPPED:
            entry.take(member.report())
        return roster.snapshot()

    async with showing.of(snapshot) as say, trio.open_nursery() as nursery:

        def drain() -> None:
            roster.state = DRAINING
            timeout = f"{member.config.shutdown_timeout:g} s (shutdown_timeout)"
            say(f"draining: what runs may finish within {timeout}; a second signal kills")
            member.drain()

        await nursery.start(drain_on_signal, drain)
        failure: str | None = None
        try:
            await member.run()
        except BaseException as error:
            failure = describe(error)
            raise
        finally:
            entry.take(member.report())
            if failure is not None:
                entry.fails(failure)  # after the report, whose error is of earlier
            entry.ended()
            roster.state = STOPPED
        nursery.cancel_scope.cancel()
    return 0
