"""Whether a fleet is alive, and whether it is ready; judged by what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from trio_parallel_kafka.cli.fleet.roster import RUNNING, STOPPED
from trio_parallel_kafka.cli.fleet.statistics import FleetStatistics, MemberStatistics

LOOPING_FROM: Final = 3
"""Failures in a row from which on a member is taken to fail again and again."""

SETTLING: Final = 15.0
"""Seconds within which a member gets partitions if there are any left for it, or fails again if it always does."""


@attrs.frozen
class Verdict:
    """A judgement, and its reason on one line."""

    is_well: bool
    reason: str


def judge(statistics: FleetStatistics, *, now: float, max_age: float, ready: bool) -> Verdict:
    """Judge a fleet.

    Args:
        statistics: what it has said.
        now: seconds since 1970.
        max_age: seconds after which what was said, by the fleet or by one member, is too old.
        ready: whether it has to be ready, and not just alive.
    """
    age = now - statistics.at
    if abs(age) > max_age:  # a clock that was set back mustn't keep an old file fresh
        return _bad(f"the status is {age:.1f} s old, more than {max_age:g} s: is the process gone, or blocked?")
    if statistics.state == STOPPED:
        return _bad("the fleet has ended")
    if ready:
        complaints = list(_unready(statistics, max_age - age))
        return _bad("; ".join(complaints)) if complaints else _good(f"ready: {_in_short(statistics)}")
    hopeless = [why for member in statistics.members if (why := _hopeless(member, max_age - age)) is not None]
    if len(hopeless) == len(statistics.members):
        return _bad("; ".join(hopeless))
    return _good(f"alive: {_in_short(statistics)}")


def _good(reason: str) -> Verdict:
    return Verdict(is_well=True, reason=reason)


def _bad(reason: str) -> Verdict:
    return Verdict(is_well=False, reason=reason)


def _in_short(statistics: FleetStatistics) -> str:
    running = sum(member.state == RUNNING for member in statistics.members)
    return f"{running} of {len(statistics.members)} running"


def _hopeless(member: MemberStatistics, max_age: float) -> str | None:
    """Why nothing is to be expected of it."""
    has_recovered = member.state == RUNNING and member.running_for >= SETTLING
    if member.failures_in_a_row >= LOOPING_FROM and not has_recovered:
        return f"member {member.index} has failed {member.failures_in_a_row} times in a row: {member.last_error}"
    return _silent(member, max_age)


def _silent(member: MemberStatistics, max_age: float) -> str | None:
    if member.pid is not None and member.report_age > max_age:
        return f"member {member.index} has said nothing for {member.report_age:.1f} s: is its loop blocked?"
    return None


def _unready(statistics: FleetStatistics, max_age: float) -> Iterator[str]:
    if statistics.state != RUNNING:
        yield f"the fleet is {statistics.state}"
    for member in statistics.members:
        silent = _silent(member, max_age)
        starting = [each for each in member.partitions if each.phase == "starting"]
        if member.state != RUNNING:
            yield f"member {member.index} is {member.state}"
        elif silent is not None:
            yield silent
        elif starting:
            first = starting[0]
            yield f"member {member.index} doesn't know yet where to begin in {first.topic}[{first.partition}]"
        elif not member.partitions and member.running_for < SETTLING:
            yield f"member {member.index} waits for its first partitions"
