"""Fleets on a real broker: ``trio-parallel-kafka run --members 2``, killed and drained."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from broker.cluster import Cluster
from broker.recorder import Recorder, Workload, examine
from broker.scenario import topic_with
from cli.fleet_kit import PATIENCE, Program, environment, is_alive, running

from trio_parallel_kafka.cli import main

HANDLER = """
import os, random
from pathlib import Path
import trio
from broker.recorder import Recorder

async def work(number):
    await trio.sleep(random.uniform(0, 0.04))

handle = Recorder(Path("log")).handler(str(os.getpid()), work)
hang = Recorder(Path("log")).handler(str(os.getpid()), lambda number: trio.sleep_forever())
"""

NO_OP = """
import os, time
from pathlib import Path
import trio

count, may_begin = 0, False
ends = os.open("ends", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

async def handle(record):
    global count, may_begin
    while not may_begin:
        may_begin = Path("go").exists()
        await trio.sleep(0.01)
    count += 1
    if count % 1000 == 0:
        os.write(ends, f"{time.monotonic()}\\n".encode())
"""

TWO = ["billing:handle", "--members=2"]


class Rig:
    """A topic, and programs that consume it together, one after another."""

    def __init__(self, kafka: Cluster, folder: Path, workload: Workload, partitions: int = 8) -> None:
        self.topic = topic_with(kafka, [], partitions)
        self._kafka = kafka
        self.log = Recorder(folder / "log")
        self.workload = workload
        self.variables = environment(
            kafka.bootstrap_servers,
            KAFKA_TOPICS=self.topic,
            KAFKA_CONSUMER_GROUP=kafka.unique("billing"),
            PARALLEL_CONSUMER_MAX_BUFFERED_RECORDS="100",  # or a drain would handle all there is
        )

    def start(self, run: Program) -> None:
        """Give the members work once both have partitions."""
        run.wait_for(lambda: both_work(run))
        self._kafka.produce(self.topic, self.workload.records())

    def until(self, run: Program, done: int) -> None:
        """Wait until so many records are handled."""
        run.wait_for(lambda: self.log.refresh() >= done)

    def finish(self, run: Program) -> None:
        """Drain a fleet."""
        run.process.send_signal(signal.SIGTERM)
        code, _, err = run.ended()
        assert code == 0, err
        self.log.refresh()


def wait_until_dead(pids: list[int]) -> None:
    """Wait until none of these processes is left."""
    wait(lambda: not any(map(is_alive, pids)))


def wait(condition: Callable[[], bool]) -> None:
    """Wait for something, not for ever."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def both_work(run: Program) -> bool:
    """Whether both members have partitions."""
    status = run.status()
    return status is not None and all(member.partitions for member in status.members)


def test_a_drain_replays_nothing(kafka: Cluster, tmp_path: Path) -> None:
    """Two members, drained in the midst of their work and run again, handle each record exactly once."""
    workload = Workload(4_000, 40)
    rig = Rig(kafka, tmp_path, workload)
    status_file = str(tmp_path / "status.json")
    with running(tmp_path, TWO, rig.variables, HANDLER) as run:
        rig.start(run)
        rig.until(run, 300)
        rig.finish(run)
    assert 300 <= len(rig.log.done) < workload.count
    first = len(rig.log.done)
    with running(tmp_path, TWO, rig.variables, HANDLER) as run:
        run.wait_for(lambda: both_work(run))
        assert main(["health", status_file]) == main(["health", status_file, "--ready"]) == 0
        rig.until(run, workload.count)
        rig.finish(run)
    assert main(["health", status_file]) == 1
    findings = examine(rig.log.entries, workload)
    findings.check()
    print(f"\n{first} handled before the drain, by {len(findings.peak)} processes in all")
    assert len(findings.peak) == 4
    assert not findings.replayed
    assert not findings.cut


def test_a_killed_static_member_comes_back(kafka: Cluster, tmp_path: Path) -> None:
    """Killed and started again within the session, it has its partitions back; the other one notices nothing."""
    workload = Workload(3_000, 40)
    rig = Rig(kafka, tmp_path, workload)
    static = {
        **rig.variables,
        "PARALLEL_CONSUMER_KAFKA_GROUP_INSTANCE_ID": "till",
        # Under the new one the broker refuses the restarted member until the session of the killed one is over.
        "PARALLEL_CONSUMER_KAFKA_GROUP_PROTOCOL": "classic",
        # A member that is missed only as its session ends would be back too late for this test.
        "PARALLEL_CONSUMER_KAFKA_SESSION_TIMEOUT_MS": "120000",
    }
    with running(tmp_path, TWO, static, HANDLER) as run:
        rig.start(run)
        rig.until(run, 300)
        before = assignment_epochs(run)
        killed, kept = run.members()
        os.kill(killed, signal.SIGKILL)
        wait_until_dead([killed])
        rig.log.died(str(killed))
        run.wait_for(lambda: both_work(run) and killed not in run.members())
        rig.until(run, workload.count)
        run.wait_for(lambda: (status := run.status()) and not status.buffered_records)
        after = assignment_epochs(run)
        assert run.members()[1] == kept
        rig.finish(run)
    print(f"\nmember 0 {before[0]} -> {after[0]}, member 1 {before[1]} -> {after[1]}")
    assert after[1] == before[1], "the other member's assignments began anew"
    assert after[0].keys() == before[0].keys(), "the restarted member has other partitions"
    findings = examine(rig.log.entries, workload)
    findings.check()


def assignment_epochs(run: Program) -> list[dict[int, int]]:
    """For each member, its partitions, and in which assignment."""
    status = run.status()
    assert status is not None
    return [{each.partition: each.assignment_epoch for each in member.partitions} for member in status.members]


def test_a_killed_supervisor(kafka: Cluster, tmp_path: Path) -> None:
    """Its members drain and end by themselves, so that the next fleet sees nothing again."""
    workload = Workload(4_000, 40)
    rig = Rig(kafka, tmp_path, workload)
    with running(tmp_path, TWO, rig.variables, HANDLER) as run:
        rig.start(run)
        rig.until(run, 200)
        members = run.members()
        run.process.kill()
        wait_until_dead(members)
    assert 200 <= rig.log.refresh() < workload.count
    with running(tmp_path, TWO, rig.variables, HANDLER) as run:
        rig.until(run, workload.count)
        rig.finish(run)
    findings = examine(rig.log.entries, workload)
    findings.check()
    assert not findings.replayed
    assert not findings.cut


def test_a_second_signal_kills(kafka: Cluster, tmp_path: Path) -> None:
    """A fleet whose handlers hang is gone after the second signal; nothing of its work counts as done."""
    workload = Workload(100, 100)
    rig = Rig(kafka, tmp_path, workload)
    with running(tmp_path, ["billing:hang", "--members=2"], rig.variables, HANDLER) as run:
        rig.start(run)
        run.wait_for(lambda: rig.log.refresh() == 0 and len(rig.log.entries) >= workload.count)
        members = run.members()
        run.process.send_signal(signal.SIGTERM)
        run.wait_for(lambda: (status := run.status()) and status.state == "draining")
        run.process.send_signal(signal.SIGTERM)
        assert run.ended()[0] == 128 + signal.SIGTERM
        wait_until_dead(members)
    for pid in members:
        rig.log.died(str(pid))
    assert sum(offset for offset, _ in kafka.committed(rig.variables["KAFKA_CONSUMER_GROUP"], rig.topic).values()) == 0


@pytest.mark.performance
def test_two_members_against_one(kafka: Cluster, tmp_path: Path) -> None:
    """No-op handlers, 1,000 keys, 16 partitions: the target is 1.5 times the records of one member."""
    workload = Workload(1_000_000, 1_000, value_size=100)
    topic = topic_with(kafka, workload.records(), 16)
    rates = []
    for run, members in enumerate((1, 2, 2, 1)):
        variables = environment(
            kafka.bootstrap_servers, KAFKA_TOPICS=topic, KAFKA_CONSUMER_GROUP=kafka.unique("billing")
        )
        rates.append(rate_of(members, workload.count, tmp_path / str(run), variables))
    one, two = max(rates[0], rates[3]), max(rates[1], rates[2])
    shown = ", ".join(f"{rate:,.0f}" for rate in rates)
    print(f"\none, two, two, one member: {shown} records/s; two make {two / one:.2f} times the records of one")
    assert min(rates) > 0


def rate_of(members: int, count: int, folder: Path, variables: dict[str, str]) -> float:
    """Records a second that so many members handle, from the moment that all have their partitions."""
    folder.mkdir()
    with running(folder, ["billing:handle", f"--members={members}"], variables, NO_OP) as run:
        run.wait_for(lambda: is_shared_evenly(run, 16 // members))
        (folder / "go").touch()
        began = time.monotonic()
        run.wait_for(lambda: (status := run.status()) and status.totals.completed == count)
        run.process.send_signal(signal.SIGTERM)
        assert run.ended()[0] == 0
    ends = [float(line) for line in (folder / "ends").read_text().splitlines()]
    return len(ends) * 1_000 / (max(ends) - began)


def is_shared_evenly(run: Program, share: int) -> bool:
    """Whether each member reads as many partitions."""
    return run.status() is not None and {len(each) for each in assignment_epochs(run)} == {share}
