"""Members come and go on a real broker: one owner at a time, key order over all members, little replay."""

from __future__ import annotations

import itertools
import logging
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from broker.cluster import Cluster
from broker.member import member_process, wait_for_end
from broker.recorder import Entry, Recorder, Step, Workload, examine
from broker.scenario import committed_offsets, topic_with, until
from confluent_kafka import ConsumerGroupState, KafkaException

from trio_parallel_kafka import ConsumerConfig, ParallelConsumer, parallel_consumer

PATIENCE = 180.0
"""Seconds after which a test hangs for certain."""

PARTITIONS = 8
BACKLOG = 2_000
"""Records not handled yet, where load is kept up."""

CLASSIC = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 200}
PROTOCOLS: dict[str, dict[str, str | int]] = {
    "range": {"partition.assignment.strategy": "range", **CLASSIC},
    "cooperative-sticky": {"partition.assignment.strategy": "cooperative-sticky", **CLASSIC},
    "consumer": {"group.protocol": "consumer"},
}

all_protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


Work = Callable[[int], Awaitable[object]]


def fields_for(kafka: Cluster, topic: str, protocol: str, **fields: Any) -> dict[str, Any]:
    """The configuration's fields, for members of one group."""
    return {
        "bootstrap_servers": kafka.bootstrap_servers,
        "group_id": kafka.unique("billing"),
        "topics": topic,
        "kafka": PROTOCOLS[protocol],
        **fields,
    }


@asynccontextmanager
async def member(name: str, config: ConsumerConfig, recorder: Recorder, work: Work) -> AsyncIterator[ParallelConsumer]:
    """A member that handles records for the length of the block, and is stopped at its end."""
    async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, recorder.handler(name, work))
        yield pc
        pc.stop()


async def be_member(
    name: str,
    config: ConsumerConfig,
    recorder: Recorder,
    work: Work,
    *,
    task_status: trio.TaskStatus[ParallelConsumer],
) -> None:
    """Likewise, in a task of its own, until it is cancelled."""
    async with parallel_consumer(config) as pc:
        task_status.started(pc)
        await pc.run(recorder.handler(name, work))


def partitions_of(pc: ParallelConsumer) -> set[int]:
    """The partitions that a member reads now."""
    return {each.partition for each in pc.statistics().partitions if each.phase == "active"}


@asynccontextmanager
async def fed(kafka: Cluster, topic: str, workload: Workload, recorder: Recorder) -> AsyncIterator[None]:
    """Keep some load before the members for the length of the block; ``workload.count`` grows with it."""

    async def feed() -> None:
        while True:
            await until(lambda: workload.count - recorder.refresh() < BACKLOG)
            end = workload.count + BACKLOG // 4
            await trio.to_thread.run_sync(kafka.produce, topic, workload.records(workload.count, end))
            workload.count = end

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed)
        yield
        nursery.cancel_scope.cancel()


def moves(entries: Iterable[Entry]) -> int:
    """How often a partition went from one member to another."""
    owners: dict[int, str] = {}
    count = 0
    for entry in sorted(entries, key=lambda each: each.at):
        if entry.step is Step.START:
            count += owners.get(entry.partition, entry.member) != entry.member
            owners[entry.partition] = entry.member
    return count


@all_protocols
async def test_a_second_member_comes_and_goes(kafka: Cluster, protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    """The second member joins and leaves ten times under load: one owner, key order, and nothing is replayed."""
    caplog.set_level(logging.WARNING, "trio_parallel_kafka")
    workload = Workload(BACKLOG, 500)
    topic = topic_with(kafka, workload.records(), PARTITIONS)
    fields = fields_for(kafka, topic, protocol, max_concurrency=32, max_buffered_records=200)
    config = ConsumerConfig(**fields)
    recorder = Recorder()

    async def work(_number: int) -> None:
        await trio.sleep(random.uniform(0.001, 0.05))

    with trio.fail_after(PATIENCE):
        began = trio.current_time()
        async with member("first", config, recorder, work) as first:
            await until(lambda: len(partitions_of(first)) == PARTITIONS)
            async with fed(kafka, topic, workload, recorder):
                for number in range(10):
                    async with member(f"second-{number}", config, recorder, work) as second:
                        await until(lambda: bool(partitions_of(second)))
                        await recorder.wait_done(len(recorder.done) + 200)
            seconds = trio.current_time() - began
            await recorder.wait_done(workload.count)

    findings = examine(recorder.entries, workload)
    print(
        f"\n{protocol}: the second member came and went 10 times in {seconds:.0f} s, partitions changed hands "
        f"{moves(recorder.entries)} times; of {workload.count:,} records {findings.replayed.total()} were replayed, "
        f"{findings.cut.total()} cut"
    )
    findings.check()
    assert not findings.replayed
    assert not findings.cut
    assert not [each.getMessage() for each in caplog.records if each.name.startswith("trio_parallel_kafka")]
    assert committed_offsets(kafka, config) == kafka.end_offsets(topic)


@pytest.mark.parametrize("protocol", ["cooperative-sticky", "consumer"])
async def test_members_in_two_processes(kafka: Cluster, protocol: str, tmp_path: Path) -> None:
    """The same with a process for each member."""
    workload = Workload(BACKLOG, 500)
    topic = topic_with(kafka, workload.records(), PARTITIONS)
    fields = fields_for(kafka, topic, protocol, max_concurrency=32, max_buffered_records=200)
    log = tmp_path / "log"
    recorder = Recorder(log)

    def has_started(name: str) -> bool:
        recorder.refresh()
        return any(entry.member == name for entry in reversed(recorder.entries))

    with trio.fail_after(PATIENCE), member_process("first", log, work_ms=40, **fields) as first:
        await until(lambda: has_started("first"))
        async with fed(kafka, topic, workload, recorder):
            for number in range(4):
                name = f"second-{number}"
                with member_process(name, log, work_ms=40, **fields) as second:
                    await until(lambda: has_started(name))  # noqa: B023 - called in this round
                    await recorder.wait_done(recorder.refresh() + 200)
                    second.terminate()
                    assert await wait_for_end(second) == 0
        await recorder.wait_done(workload.count)
        first.terminate()
        assert await wait_for_end(first) == 0
    recorder.refresh()
    recorder.close()

    findings = examine(recorder.entries, workload)
    print(
        f"\n{protocol}, two processes: partitions changed hands {moves(recorder.entries)} times, "
        f"{findings.replayed.total()} records replayed, {findings.cut.total()} cut"
    )
    findings.check()
    assert not findings.replayed
    assert not findings.cut
    assert committed_offsets(kafka, ConsumerConfig(**fields)) == kafka.end_offsets(topic)


@all_protocols
async def test_slow_handlers_are_cut_at_revoke(kafka: Cluster, protocol: str) -> None:
    """Handlers that outlast the grace are cancelled before the hand-over, and the new owner handles their records."""
    workload = Workload(400, 40)
    topic = topic_with(kafka, workload.records(), 2)
    config = ConsumerConfig(**fields_for(kafka, topic, protocol, revoke_grace=0.5, shutdown_timeout=0.5))
    recorder = Recorder()
    slow = set(range(10))
    tries = dict.fromkeys(slow, 0)

    async def work(number: int) -> None:
        if number in slow:
            tries[number] += 1
            if tries[number] == 1:
                await trio.sleep_forever()

    with trio.fail_after(PATIENCE):
        async with member("first", config, recorder, work) as first:
            behind = set(itertools.chain.from_iterable(workload.lane(number) for number in slow))
            await recorder.wait_done(workload.count - len(behind))
            async with member("second", config, recorder, work) as second:
                await until(lambda: partitions_of(second) == _others(partitions_of(first)))
                (moved,) = partitions_of(second)
                on_moved = {entry.number for entry in recorder.entries if entry.partition == moved} & slow
                if protocol == "range":
                    on_moved = slow
                behind_moved = set(itertools.chain.from_iterable(workload.lane(number) for number in on_moved))
                await recorder.wait_done(workload.count - len(behind) + len(behind_moved))
            # Those that weren't moved hang still: they are cut when the first is revoked, too.

    findings = examine(recorder.entries, workload)
    print(
        f"\n{protocol}: {len(on_moved)} of 10 slow handlers cut at the revoke, their records and the "
        f"{len(behind_moved) - len(on_moved)} behind them handled afterwards"
    )
    assert set(findings.missing) == behind - behind_moved
    findings._replace(missing=[]).check()
    assert not findings.replayed
    assert all(findings.cut[number] == 1 for number in on_moved)


def _others(partitions: set[int]) -> set[int]:
    return {0, 1} - partitions if len(partitions) == 1 else {-1}


@all_protocols
async def test_a_member_stops_while_the_group_rebalances(kafka: Cluster, protocol: str) -> None:
    """The last commit of a member that leaves in the middle of a rebalance counts: nothing is replayed."""
    workload = Workload(4_000, 500)
    topic = topic_with(kafka, workload.records(), PARTITIONS)
    # Whatever is committed is committed at the revoke or at the end.
    config = ConsumerConfig(**fields_for(kafka, topic, protocol, commit_interval=60.0))
    recorder = Recorder()

    async def work(_number: int) -> None:
        await trio.sleep(random.uniform(0, 0.01))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            async with member("first", config, recorder, work) as first:
                await recorder.wait_done(workload.count)
                second = await nursery.start(be_member, "second", config, recorder, work)
                await until(lambda: len(partitions_of(first)) < PARTITIONS)
            ends = kafka.end_offsets(topic)
            await until(lambda: {each.partition: each.position for each in second.statistics().partitions} == ends)
            nursery.cancel_scope.cancel()

    findings = examine(recorder.entries, workload)
    print(f"\n{protocol}: stopped in the middle of a rebalance, {findings.replayed.total()} records replayed")
    findings.check()
    assert not findings.replayed


class Group:
    """A group of named members that a frozen one holds up: whoever joins, all wait for it."""

    def __init__(self, kafka: Cluster, partitions: int) -> None:
        self.fields = fields_for(kafka, topic_with(kafka, [], partitions), "cooperative-sticky")
        self._admin = kafka.admin

    def named(self, name: str, **fields: Any) -> dict[str, Any]:
        # Whoever doesn't say good-bye is a member for three minutes.
        kafka = {**self.fields["kafka"], "client.id": name, "session.timeout.ms": 180_000}
        return {**self.fields, **fields, "kafka": kafka}

    def members(self) -> tuple[ConsumerGroupState, set[str]]:
        (described,) = self._admin.describe_consumer_groups([self.fields["group_id"]]).values()
        try:
            found = described.result(30)
        except KafkaException:  # no such group yet, or its coordinator is just being found
            return ConsumerGroupState.UNKNOWN, set()
        return found.state, {each.client_id for each in found.members}

    async def wait_settled(self, *names: str) -> None:
        await until(lambda: self.members() == (ConsumerGroupState.STABLE, set(names)))

    async def wait_held_up(self, late: str) -> None:
        await until(lambda: late in self.members()[1])
        await trio.sleep(1)  # by then all others have asked to join again


async def test_a_member_leaves_in_the_middle_of_a_join(kafka: Cluster, tmp_path: Path) -> None:
    """A cooperative member without partitions stops while the group waits for another: it doesn't stay on as a ghost.

    The client itself, closed in that moment, tells the group nothing.
    """
    group = Group(kafka, partitions=1)
    recorder = Recorder()

    async def go_on_soon(process: subprocess.Popen[bytes]) -> None:
        await trio.sleep(0.5)
        process.send_signal(signal.SIGCONT)

    with trio.fail_after(PATIENCE), member_process("slow", tmp_path / "log", work_ms=0, **group.named("slow")) as slow:
        await group.wait_settled("slow")
        async with trio.open_nursery() as nursery:
            async with member("early", ConsumerConfig(**group.named("early")), recorder, trio.sleep):
                await group.wait_settled("slow", "early")
                slow.send_signal(signal.SIGSTOP)
                await nursery.start(be_member, "late", ConsumerConfig(**group.named("late")), recorder, trio.sleep)
                await group.wait_held_up("late")
                nursery.start_soon(go_on_soon, slow)
            assert "early" not in group.members()[1]
            nursery.cancel_scope.cancel()


async def test_a_member_leaves_a_group_that_is_held_up(
    kafka: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A member whose partitions aren't taken back in time, with all committed, ends with a warning, not an error."""
    group = Group(kafka, partitions=2)
    recorder = Recorder()
    warning = "weren't taken back"

    async def go_on_after_warning(process: subprocess.Popen[bytes]) -> None:
        await until(lambda: warning in caplog.text)
        process.send_signal(signal.SIGCONT)

    with trio.fail_after(PATIENCE), member_process("slow", tmp_path / "log", work_ms=0, **group.named("slow")) as slow:
        async with trio.open_nursery() as nursery:
            config = ConsumerConfig(**group.named("early", close_timeout=2.0))
            async with member("early", config, recorder, trio.sleep) as early:
                await group.wait_settled("slow", "early")
                await until(lambda: len(partitions_of(early)) == 1)
                slow.send_signal(signal.SIGSTOP)
                await nursery.start(be_member, "late", ConsumerConfig(**group.named("late")), recorder, trio.sleep)
                await group.wait_held_up("late")
                nursery.start_soon(go_on_after_warning, slow)
            assert warning in caplog.text
            nursery.cancel_scope.cancel()
