"""What is known of a fleet: reports, how they are merged, shown and judged."""

from __future__ import annotations

import json
import time
from typing import Any

import attrs
import pytest
from cli.fleet_kit import consumer_statistics, oldest, partition

from trio_parallel_kafka import EngineStatistics, Totals
from trio_parallel_kafka.cli import main
from trio_parallel_kafka.cli.fleet.keeper import RestartPolicy
from trio_parallel_kafka.cli.fleet.report import (
    LineSplitter,
    MemberReport,
    describe,
    is_beyond_restarts,
    speaks_for_itself,
)
from trio_parallel_kafka.cli.fleet.roster import DRAINING, STOPPED, MemberEntry, Roster
from trio_parallel_kafka.cli.fleet.statistics import FleetStatistics
from trio_parallel_kafka.cli.fleet.vitals import LOOPING_FROM, SETTLING, judge
from trio_parallel_kafka.errors import ConfigError, InvalidHandlerError

Capture = pytest.CaptureFixture[str]

# Restarts


def test_delays_double_up_to_a_bound() -> None:
    """Each failure in a row doubles the delay, up to the longest; chance takes away half at most."""
    policy = RestartPolicy(first=1.0, longest=30.0)
    assert [policy.delay(failures, 1.0) for failures in (1, 2, 3, 5, 6, 100_000)] == [1, 2, 4, 16, 30, 30]
    assert policy.delay(3, 0.0) == 2.0


# Reports


def test_report_survives_its_line() -> None:
    """What a member says is what the supervisor hears; of a key that isn't text, what can be shown."""
    report = MemberReport(statistics=consumer_statistics(partition(0, age=1.5)), running_for=2.5)
    line = report.as_line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    heard = MemberReport.from_line(line)
    assert heard is not None
    assert heard.statistics is not None
    (found,) = heard.statistics.partitions
    assert found.oldest_incomplete == attrs.evolve(oldest(1.5), key=b"k\\xff")
    assert attrs.evolve(heard, statistics=None) == MemberReport(running_for=2.5)


@pytest.mark.parametrize("line", [b'{"statistics": {"sta', b"7", b'{"running_for": "long"}', b"\xff"])
def test_what_is_no_report_is_none(line: bytes) -> None:
    """A line that was cut off, or is something else, isn't taken for a report."""
    assert MemberReport.from_line(line) is None


def test_lines_come_in_pieces() -> None:
    """Lines are put together again; empty ones are passed over."""
    splitter = LineSplitter()
    assert splitter.feed(b"on") == []
    assert splitter.feed(b"e\n\ntwo\nth") == [b"one", b"two"]
    assert splitter.feed(b"ree\n") == [b"three"]


def test_a_line_that_is_too_long_is_passed_over() -> None:
    """What is kept of a line has a bound; the next line is read again."""
    splitter = LineSplitter(longest=4)
    assert splitter.feed(b"12345") == []
    assert splitter.feed(b"67890") == []
    assert splitter.feed(b"1\nok\n") == [b"ok"]
    assert splitter.feed(b"next\n") == [b"next"]


def test_errors_in_short() -> None:
    """The first error of a group on one line, which isn't endless."""
    group = BaseExceptionGroup("g", [ExceptionGroup("h", [ValueError("first\n  line"), OSError()])])
    assert describe(group) == "ValueError: first line"
    assert describe(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(describe(ValueError("x" * 10_000))) < 1_100


def test_what_a_restart_cannot_mend() -> None:
    """A wrong configuration and a missing handler, also in a group; nothing else."""
    assert is_beyond_restarts(ConfigError(["topics: missing"]))
    assert is_beyond_restarts(ExceptionGroup("", [ValueError(), ExceptionGroup("", [InvalidHandlerError("gone")])]))
    assert not is_beyond_restarts(ExceptionGroup("", [ValueError()]))
    assert not is_beyond_restarts(ValueError())


def test_what_needs_no_traceback() -> None:
    """What this package raises on purpose, and nothing else; a group has to hold nothing else."""
    known = InvalidHandlerError("gone")
    assert speaks_for_itself(known)
    assert speaks_for_itself(ExceptionGroup("", [known, ExceptionGroup("", [known])]))
    assert not speaks_for_itself(ExceptionGroup("", [known, ValueError()]))
    assert not speaks_for_itself(ValueError())


# The roster


async def test_members_are_merged(autojump_clock: object) -> None:
    """Counts are sums, the oldest record is that of all, each member stands for itself."""
    first, second = MemberEntry(4), MemberEntry(5)
    special: Any = {"held": ("paused",), "engine": EngineStatistics("process", busy=2)}
    for entry, pid in ((first, 40), (second, 50)):
        entry.started(pid)
    first.take(MemberReport(statistics=consumer_statistics(partition(0, age=1.0), completed=10), running_for=3.0))
    second.take(
        MemberReport(statistics=consumer_statistics(partition(1, age=9.0), partition(2), completed=5, **special))
    )
    fleet = Roster((first, second)).snapshot()
    assert abs(fleet.at - time.time()) < 60
    assert (fleet.state, fleet.in_flight, fleet.buffered_records, fleet.buffered_bytes) == ("running", 3, 6, 60)
    assert fleet.totals == Totals(received=15, completed=15)
    assert fleet.oldest_incomplete is not None
    assert (fleet.oldest_incomplete.member, fleet.oldest_incomplete.partition) == (5, 1)
    assert fleet.oldest_incomplete.record.age == 9.0
    assert (fleet.restarts, fleet.last_error) == (0, None)
    one, two = fleet.members
    assert (one.index, one.pid, one.state, one.running_for, one.max_concurrency) == (4, 40, "running", 3.0, 256)
    assert (one.poll_hop_p99, one.held, two.held) == (0.004, (), ("paused",))
    assert [each.partition for each in two.partitions] == [1, 2]
    assert (one.engine, two.engine) == (EngineStatistics(), EngineStatistics("process", busy=2))
    read = FleetStatistics.from_json(fleet.as_json()).members[1]
    assert (read.totals, read.engine) == (two.totals, two.engine)


async def test_counts_outlive_a_member() -> None:
    """What a member had done before it died stays counted; its partitions are nobody's until it is back."""
    entry = MemberEntry(0)
    entry.started(40)
    entry.take(MemberReport(statistics=consumer_statistics(partition(0, age=1.0), completed=10)))
    entry.take(MemberReport(failure="ValueError: bad"))
    entry.ended()
    entry.waits_for_restart(60.0)
    roster = Roster((entry,))
    (member,) = roster.snapshot().members
    assert (member.state, member.pid, member.partitions, member.max_concurrency) == ("restarting", None, (), None)
    assert member.engine is None
    assert (member.totals.completed, member.restarts, member.last_error) == (10, 0, "ValueError: bad")
    entry.started(41)
    assert entry.failure is None
    assert entry.statistics().state == "starting"
    entry.take(MemberReport())
    assert entry.statistics().state == "starting"
    entry.take(MemberReport(statistics=consumer_statistics(completed=3)))
    assert roster.snapshot().totals.completed == 13
    assert (roster.snapshot().restarts, roster.snapshot().last_error) == (1, "ValueError: bad")


async def test_failures_in_a_row() -> None:
    """Failures add up, until a member has run well for a while."""
    entry = MemberEntry(0)
    counts = []
    for running_for in (0.0, 59.0, 60.0, 1.0):
        entry.started(40)
        entry.take(MemberReport(statistics=consumer_statistics(), running_for=running_for))
        entry.ended()
        entry.waits_for_restart(60.0)
        counts.append(entry.failures_in_a_row)
    assert counts == [1, 2, 1, 2]


async def test_the_last_error_is_the_latest(autojump_clock: Any) -> None:
    """Among the errors of all members the one that came last is the fleet's; one that stands isn't new."""
    first, second = MemberEntry(0), MemberEntry(1)
    roster = Roster((first, second))
    for entry, error in ((first, "one"), (second, "two"), (first, "one")):
        autojump_clock.jump(1)
        entry.take(MemberReport(statistics=consumer_statistics(last_error=error)))
    assert roster.snapshot().last_error == "two"


async def snapshot(*reports: MemberReport, state: str = "running", failures: int = 0) -> FleetStatistics:
    """A fleet of members that have said this, after so many failures in a row."""
    entries = []
    for index, report in enumerate(reports):
        entry = MemberEntry(index)
        for _ in range(failures):
            entry.fails("ValueError: bad")
            entry.ended()
            entry.waits_for_restart(60.0)
        entry.started(100 + index)
        entry.take(report)
        entries.append(entry)
    return Roster(tuple(entries), state).snapshot()


RUNNING = MemberReport(statistics=consumer_statistics(partition(0)), running_for=3.0)


async def test_the_line_for_people() -> None:
    """What is well is said shortly; troubles only if there are any."""
    fleet = await snapshot(RUNNING)
    assert fleet.as_line(1_234.5) == (
        "1 of 1 member running, 1 partition, 1,234 records/s, 0 completed, 1 in flight, 2 buffered"
    )
    troubled = MemberReport(
        statistics=consumer_statistics(
            partition(3, age=12.34), last_error="broker down", totals=Totals(failed=5, retried=4, dead_lettered=1)
        )
    )
    fleet = attrs.evolve(await snapshot(RUNNING, troubled, state=DRAINING), restarts=2)
    assert fleet.as_line(0) == (
        "draining: 2 of 2 members running, 2 partitions, 0 records/s, 0 completed, 2 in flight, 4 buffered, "
        "5 failed (4 retried, 1 dead-lettered), oldest 12.3 s (orders[3] offset 7, member 1), 2 restarts, "
        "last error: broker down"
    )


# Health


def verdict(fleet: FleetStatistics, *, later: float = 0.0, ready: bool = False) -> tuple[bool, str]:
    """What is said of a fleet so many seconds after it spoke."""
    judged = judge(fleet, now=fleet.at + later, max_age=30.0, ready=ready)
    return judged.is_well, judged.reason


async def test_alive_and_ready() -> None:
    """Members that run and have partitions are both."""
    fleet = await snapshot(RUNNING, RUNNING)
    assert verdict(fleet) == (True, "alive: 2 of 2 running")
    assert verdict(fleet, ready=True) == (True, "ready: 2 of 2 running")


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("later", [31.0, -31.0])
async def test_an_old_status_is_neither(later: float, *, ready: bool) -> None:
    """Nor is one from the future, after the clock was set back."""
    is_well, reason = verdict(await snapshot(RUNNING), later=later, ready=ready)
    assert not is_well
    assert "s old, more than 30 s" in reason


@pytest.mark.parametrize("ready", [False, True])
async def test_a_fleet_that_has_ended_is_neither(*, ready: bool) -> None:
    """Its last status says so."""
    assert verdict(await snapshot(RUNNING, state=STOPPED), ready=ready) == (False, "the fleet has ended")


async def test_looping_members() -> None:
    """A fleet all of whose members fail again and again isn't alive; one that works is enough."""
    fleet = await snapshot(MemberReport(), MemberReport(), failures=LOOPING_FROM)
    is_well, reason = verdict(fleet)
    assert not is_well
    assert reason.startswith("member 0 has failed 3 times in a row: ValueError: bad; member 1 has failed 3 times")
    (working,) = (await snapshot(RUNNING)).members
    assert verdict(attrs.evolve(fleet, members=(fleet.members[0], working))) == (True, "alive: 1 of 2 running")
    assert verdict(await snapshot(MemberReport(), failures=LOOPING_FROM - 1))[0]


@pytest.mark.parametrize(("running_for", "is_alive"), [(SETTLING - 1, False), (SETTLING, True)])
async def test_members_that_have_recovered(running_for: float, *, is_alive: bool) -> None:
    """Failures that are over don't count for ever: a fleet that works again is alive."""
    report = MemberReport(statistics=consumer_statistics(partition(0)), running_for=running_for)
    assert verdict(await snapshot(report, report, failures=LOOPING_FROM))[0] is is_alive


async def test_silent_members() -> None:
    """A member that says nothing counts as dead, unless it is about to be started again."""
    fleet = await snapshot(RUNNING)
    silent = attrs.evolve(fleet, members=(attrs.evolve(fleet.members[0], report_age=20.0),))
    assert verdict(silent)[0]
    assert verdict(silent, later=11.0) == (False, "member 0 has said nothing for 20.0 s: is its loop blocked?")
    assert verdict(silent, later=11.0, ready=True)[0] is False
    waiting = attrs.evolve(silent, members=(attrs.evolve(silent.members[0], pid=None, state="restarting"),))
    assert verdict(waiting, later=11.0)[0]


@pytest.mark.parametrize(
    ("report", "complaint"),
    [
        (MemberReport(), "member 1 is starting"),
        (MemberReport(statistics=consumer_statistics(state="draining")), "member 1 is draining"),
        (
            MemberReport(statistics=consumer_statistics(partition(0), partition(1, phase="starting"))),
            "member 1 doesn't know yet where to begin in orders[1]",
        ),
        (
            MemberReport(statistics=consumer_statistics(), running_for=SETTLING - 1),
            "member 1 waits for its first partitions",
        ),
    ],
)
async def test_not_ready(report: MemberReport, complaint: str) -> None:
    """One member that isn't there yet is enough; it is alive all the same."""
    fleet = await snapshot(RUNNING, report)
    assert verdict(fleet, ready=True) == (False, complaint)
    assert verdict(fleet)[0]


async def test_a_member_without_partitions_may_be_ready() -> None:
    """There may be more members than partitions."""
    idle = MemberReport(statistics=consumer_statistics(), running_for=SETTLING)
    assert verdict(await snapshot(RUNNING, idle), ready=True)[0]


async def test_a_draining_fleet_is_alive_but_not_ready() -> None:
    """It may take its time."""
    fleet = await snapshot(RUNNING, state=DRAINING)
    assert verdict(fleet)[0]
    assert verdict(fleet, ready=True) == (False, "the fleet is draining")


async def test_health_command(tmp_path: Any, capsys: Capture) -> None:
    """It judges the file with one line, and ends with 0 or 1."""
    path = tmp_path / "status.json"
    path.write_text((await snapshot(RUNNING)).as_json())
    assert main(["health", str(path)]) == 0
    assert main(["health", str(path), "--ready", "--max-age", "60"]) == 0
    path.write_text(attrs.evolve(await snapshot(RUNNING), at=0.0).as_json())
    assert main(["health", str(path)]) == 1
    alive, ready, old = capsys.readouterr().out.splitlines()
    assert alive.startswith("alive: ")
    assert ready.startswith("ready: ")
    assert old.endswith("more than 30 s: is the process gone, or blocked?")


@pytest.mark.parametrize("text", [None, "", "{}", json.dumps({"at": 1})])
def test_health_without_a_status_file(tmp_path: Any, capsys: Capture, text: str | None) -> None:
    """A file that isn't there, or says something else, is bad health and says why."""
    path = tmp_path / "status.json"
    if text is not None:
        path.write_text(text)
    assert main(["health", str(path)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "can't be read" in line if text is None else "isn't a status file" in line
