"""The supervisor with members that are mere scripts: restarts, signals, links, ends."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest
import trio
from cli.fleet_kit import PATIENCE, consumer_statistics, is_alive

from trio_parallel_kafka.cli.fleet import life
from trio_parallel_kafka.cli.fleet.alone import run_alone
from trio_parallel_kafka.cli.fleet.keeper import RestartPolicy
from trio_parallel_kafka.cli.fleet.link import MemberEnd
from trio_parallel_kafka.cli.fleet.report import MemberReport
from trio_parallel_kafka.cli.fleet.showing import Showing
from trio_parallel_kafka.cli.fleet.statistics import FleetStatistics
from trio_parallel_kafka.cli.fleet.supervisor import Supervisor

Capture = pytest.CaptureFixture[str]

AT_ONCE = RestartPolicy(first=0.01, longest=0.01)
NEVER = RestartPolicy(first=3600.0, longest=3600.0)
SILENT = Showing(interval=0, as_json=False, status_file=None)

PRELUDE = """
import os, signal, subprocess, sys, time
index, link = sys.argv[1], int(sys.argv[2].removeprefix("--link="))
def note(text):
    with open("log", "a") as file:
        file.write(f"{index} {text}\\n")
def say_last(failure):
    os.write(link, b'{"a report that was cut off\\n{"failure": "%s"}\\n' % failure.encode())
note(f"pid {os.getpid()}")
"""
DRAINS = "os.read(link, 1); note('drained')"
LINGERS = "os.read(link, 1); note('asked'); time.sleep(3600)"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scripts take notes in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").touch()
    return tmp_path


def scripts(*bodies: str) -> Callable[[int], Sequence[str]]:
    """What runs each member: Python without all that makes its start slow."""
    return lambda index: [sys.executable, "-I", "-S", "-c", PRELUDE + bodies[index], str(index)]


def log() -> list[str]:
    """What the scripts have noted."""
    return [line.partition(" ")[2] for line in Path("log").read_text().splitlines()]


def pids() -> list[int]:
    """The processes that there were."""
    return [int(note.removeprefix("pid ")) for note in log() if note.startswith("pid ")]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test has the bound."""
    while not condition():
        await trio.sleep(0.01)


@asynccontextmanager
async def supervised(
    *bodies: str, policy: RestartPolicy = AT_ONCE, showing: Showing = SILENT
) -> AsyncIterator[list[int]]:
    """Run a fleet beside a block; its exit status is there afterwards."""
    status: list[int] = []
    supervisor = Supervisor(range(len(bodies)), scripts(*bodies), policy)

    async def run() -> None:
        status.append(await supervisor.run(showing))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield status
        await until(lambda: not any(map(is_alive, pids())))  # what was killed takes a moment


def send(number: int) -> None:
    """What an operator does."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(capfd: Capture, number: int) -> None:
    """The first signal asks all members to drain; once they have, the status is 0."""
    async with supervised(DRAINS, DRAINS) as status:
        await until(lambda: len(log()) == 2)
        send(number)
    assert status == [0]
    assert log().count("drained") == 2
    err = capfd.readouterr().err
    assert "draining member 0 (pid " in err
    assert "a second signal kills" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_kills(capfd: Capture, number: int) -> None:
    """It kills every member and what it has started; the status is that of the signal."""
    child = "child = subprocess.Popen(['sleep', '3600']); note(f'pid {child.pid}'); "
    async with supervised(child + LINGERS, LINGERS) as status:
        await until(lambda: len(pids()) == 3)
        send(number)
        await until(lambda: log().count("asked") == 2)
        send(number)
    assert status == [128 + number]
    assert "killing member 0 (pid " in capfd.readouterr().err


async def test_members_do_not_hear_the_terminal() -> None:
    """Each member leads a session of its own."""
    async with supervised(DRAINS):
        await until(lambda: len(pids()) == 1)
        (pid,) = pids()
        assert os.getsid(pid) == os.getpgid(pid) == pid
        send(signal.SIGTERM)


async def test_a_dead_member_is_started_again(capfd: Capture) -> None:
    """However it dies, it is started again with its own index, while the others go on; and says why."""
    dies = (
        "n = open('log').read().count(f'{index} pid')\n"
        "if n == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "if n == 2: say_last('ValueError: bad'); sys.exit(1)\n"
        "if n == 3: sys.exit(0)\n"
        "if n == 4: os.kill(os.getpid(), signal.SIGRTMIN + 1)\n"
    )
    async with supervised(DRAINS, dies + DRAINS) as status:
        await until(lambda: len(log()) == 6)
        send(signal.SIGTERM)
    assert status == [0]
    err = capfd.readouterr().err
    assert "member 1 was killed by SIGKILL; it is started again in 0.0 s" in err
    assert "member 1 ended with status 1 (ValueError: bad); it is started again" in err
    assert "member 1 has drained, and not on our behalf; it is started again" in err
    assert f"member 1 was killed by signal {signal.SIGRTMIN + 1}; it is started again" in err
    assert f"last error: its process was killed by signal {signal.SIGRTMIN + 1}" in err
    assert "4 restarts" in err
    assert "member 0 " not in err.replace("draining member 0 ", "")


async def test_what_a_dead_member_leaves_behind_is_killed() -> None:
    """A process that it had started doesn't go on beside its successor."""
    leaves = (
        "if open('log').read().count('pid') == 1:\n"
        "    child = subprocess.Popen(['sleep', '3600']); note(f'pid {child.pid}')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    async with supervised(leaves + DRAINS):
        await until(lambda: len(pids()) == 3)
        left = pids()[1]
        await until(lambda: not is_alive(left))
        send(signal.SIGTERM)


async def test_delays_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that fail again and again are started less and less often; one that has run well begins anew."""
    delays: list[float] = []
    policy = RestartPolicy(first=0.01, longest=0.04, well_after=100.0)
    delay = RestartPolicy.delay

    def noted(self: RestartPolicy, failures: int, _chance: float) -> float:
        delays.append(delay(self, failures, 1.0))
        return delays[-1]

    monkeypatch.setattr(RestartPolicy, "delay", noted)
    well = MemberReport(running_for=200.0).as_line()
    fails = f"if open('log').read().count('pid') == 5: os.write(link, {well!r})\nsys.exit(1)"
    async with supervised(fails, policy=policy) as status:
        await until(lambda: len(delays) == 6)
        send(signal.SIGTERM)
    assert delays == [0.01, 0.02, 0.04, 0.04, 0.01, 0.02]
    assert status == [1]


async def test_a_drain_does_not_wait_for_a_restart() -> None:
    """A member that waits to be started again isn't; it has failed in the end."""
    async with supervised("sys.exit(1)", DRAINS, policy=NEVER) as status:
        await until(lambda: len(log()) == 2)
        await trio.sleep(0.1)
        send(signal.SIGTERM)
    assert status == [1]
    assert log().count("drained") == 1


async def test_a_member_that_fails_while_it_drains(capfd: Capture) -> None:
    """It isn't started again, is named, and makes the status 1."""
    async with supervised("os.read(link, 1); say_last('CommitError: no answer'); sys.exit(1)", DRAINS) as status:
        await until(lambda: len(log()) == 2)
        send(signal.SIGTERM)
    assert status == [1]
    assert len(pids()) == 2
    assert "member 0 ended with status 1 (CommitError: no answer) while it drained" in capfd.readouterr().err


async def test_what_a_restart_cannot_mend(capfd: Capture) -> None:
    """Status 2 of one member makes all drain, says why once, and is the status of all."""
    unusable = "time.sleep(0.1); say_last('ConfigError: topics'); sys.exit(2)"
    async with supervised(unusable, DRAINS, unusable) as status:
        pass
    assert status == [2]
    assert len(pids()) == 3
    assert log().count("drained") == 1
    err = capfd.readouterr().err
    assert err.count("a restart wouldn't help, so all are drained: ConfigError: topics") == 1


BEGAN = MemberReport(has_begun=True).as_line()


async def test_what_goes_wrong_later_ends_nobody_else(capfd: Capture) -> None:
    """Status 2 of a member whose fleet has worked is a failure like any other: it is shown, and tried again."""
    works = f"os.write(link, {BEGAN!r}); note('begun'); "
    fails = (
        "while 'begun' not in open('log').read(): time.sleep(0.01)\n"
        "if open('log').read().count(f'{index} pid') < 3: say_last('ConfigError: topics'); sys.exit(2)\n"
    )
    async with supervised(works + DRAINS, fails + DRAINS) as status:
        await until(lambda: len(pids()) == 4)
        assert "drained" not in log()
        send(signal.SIGTERM)
    assert status == [0]
    assert "member 1 ended with status 2 (ConfigError: topics); it is started again" in capfd.readouterr().err


async def test_a_member_that_worked_before_it_was_restarted(capfd: Capture) -> None:
    """It counts as one that has worked, although it does no more."""
    works = f"if open('log').read().count('pid') == 1: os.write(link, {BEGAN!r}); sys.exit(1)\n"
    fails = f"os.write(link, {MemberReport().as_line()!r}); say_last('ConfigError: topics'); sys.exit(2)"
    async with supervised(works + fails) as status:
        await until(lambda: len(pids()) == 4)
        send(signal.SIGTERM)
    assert status == [1]
    assert "a restart wouldn't help" not in capfd.readouterr().err


async def test_a_member_that_says_nothing_of_what_it_lacks(capfd: Capture) -> None:
    """Without last words there is what it has printed."""
    async with supervised("sys.exit(2)") as status:
        pass
    assert status == [2]
    assert "so all are drained: see what it has printed" in capfd.readouterr().err


async def test_a_process_that_cannot_be_started(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that is out of processes for a moment is no reason to end the others."""
    open_process = trio.lowlevel.open_process
    refusals = [OSError("Resource temporarily unavailable")]

    async def refused_once(*args: Any, **options: Any) -> trio.Process:
        if refusals:
            raise refusals.pop()
        return await open_process(*args, **options)

    monkeypatch.setattr(trio.lowlevel, "open_process", refused_once)
    async with supervised(DRAINS) as status:
        await until(lambda: len(log()) == 1)
        send(signal.SIGTERM)
    assert status == [0]
    assert "its process can't be started: Resource temporarily unavailable" in capfd.readouterr().err


async def test_who_keeps_the_link_open_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a member has left behind holds up neither its restart nor the end."""
    monkeypatch.setattr(life, "LAST_WORDS_TIMEOUT", 0.05)
    leaves = "child = subprocess.Popen(['sleep', '3600'], pass_fds=[link]); note(f'pid {child.pid}')\n"
    async with supervised(leaves + DRAINS) as status:
        await until(lambda: len(pids()) == 2)
        send(signal.SIGTERM)
        await until(lambda: bool(status))
        os.kill(pids()[1], signal.SIGKILL)  # after a clean end it is the member's own business
        await until(lambda: not is_alive(pids()[1]))
    assert status == [0]


async def test_cancellation_kills(nursery: trio.Nursery) -> None:
    """A supervisor that is cancelled leaves no process."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as inner:
            inner.start_soon(Supervisor([0], scripts(LINGERS), AT_ONCE).run, SILENT)
            await until(lambda: len(pids()) == 1)
            inner.cancel_scope.cancel()
    assert not is_alive(pids()[0])


async def test_statistics_are_shown(capfd: Capture, folder: Path) -> None:
    """Every so often as JSON, in the file each second, and both once more at the end."""
    showing = Showing(interval=0.05, as_json=True, status_file=str(folder / "status.json"))
    async with supervised(DRAINS, showing=showing):
        await until((folder / "status.json").exists)
        first = (folder / "status.json").read_text()
        await until(lambda: (folder / "status.json").read_text() != first)
        send(signal.SIGTERM)
    lines = [FleetStatistics.from_json(line) for line in capfd.readouterr().out.splitlines()]
    assert len(lines) > 3
    assert [(lines[0].state, lines[-1].state)] == [("running", "stopped")]
    assert FleetStatistics.from_json((folder / "status.json").read_text()).state == "stopped"
    assert not (folder / "status.json.new").exists()


def output_that_nobody_reads() -> TextIO:
    """A pipe without a reader."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def output_that_was_closed() -> TextIO:
    """A file whose descriptor is free for others."""
    with Path(os.devnull).open("w") as file:
        return file


def output_on_a_full_disk() -> TextIO:
    """A file that takes nothing."""
    return Path("/dev/full").open("w")


@pytest.mark.parametrize("make_output", [output_that_nobody_reads, output_on_a_full_disk])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
async def test_nobody_takes_the_statistics(
    monkeypatch: pytest.MonkeyPatch, capfd: Capture, name: str, make_output: Callable[[], TextIO]
) -> None:
    """An output that is closed, or full, is no reason to end the work."""
    showing = Showing(interval=0.01, as_json=name == "stdout", status_file=None)
    with make_output() as closed:
        monkeypatch.setattr(sys, f"__{name}__", closed)
        async with supervised(DRAINS, showing=showing) as status:
            await until(lambda: len(log()) == 1)
            await trio.sleep(0.05)
            send(signal.SIGTERM)
    assert status == [0]
    assert capfd.readouterr().err.count("the statistics can't be written: ") == (name == "stdout")


@pytest.mark.parametrize("is_there", [False, True])
async def test_no_output(monkeypatch: pytest.MonkeyPatch, capfd: Capture, *, is_there: bool) -> None:
    """What isn't there, or was closed, isn't written to: its number may be another file's."""
    monkeypatch.setattr(sys, "__stderr__", output_that_was_closed() if is_there else None)
    async with supervised(DRAINS) as status:
        await until(lambda: len(log()) == 1)
        send(signal.SIGTERM)
    assert status == [0]
    assert capfd.readouterr() == ("", "")


async def test_a_status_file_that_cannot_be_written_any_more(capfd: Capture, folder: Path) -> None:
    """It is said once for each reason, and the work goes on."""
    place = folder / "run"
    place.mkdir()
    showing = Showing(interval=0, as_json=False, status_file=str(place / "status.json"))
    async with supervised(DRAINS, showing=showing) as status:
        await until(lambda: (place / "status.json").exists() and len(log()) == 1)
        (place / "status.json").unlink()
        (place / "status.json").mkdir()
        complaints = ""
        while "status file can't be written" not in complaints:
            await trio.sleep(0.01)
            complaints += capfd.readouterr().err
        send(signal.SIGTERM)
    complaints += capfd.readouterr().err
    assert status == [0]
    assert complaints.count("the status file can't be written, so health checks will fail") == 1
    assert [each.name for each in place.iterdir()] == ["status.json"]


class FailingMember:
    """A member whose client had trouble before its handler failed."""

    async def run(self) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("no such customer")

    def report(self) -> MemberReport:
        return MemberReport(statistics=consumer_statistics(last_error="the broker was away"))


async def test_what_ends_a_lone_member_is_its_last_error(capfd: Capture) -> None:
    """And not what its client had reported before."""
    member: Any = FailingMember()
    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        await run_alone(member, 0, SILENT)
    assert "last error: RuntimeError: no such customer" in capfd.readouterr().err


def test_what_handlers_start_does_not_inherit_the_link() -> None:
    """Or a process that a handler has started would keep the link open after its member."""
    own, theirs = socket.socketpair()
    descriptor = theirs.detach()
    os.set_inheritable(descriptor, True)  # noqa: FBT003 - its only form
    link = MemberEnd(descriptor)
    try:
        assert not os.get_inheritable(descriptor)
    finally:
        link.close()
        own.close()
