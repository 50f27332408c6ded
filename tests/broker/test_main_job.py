"""The main job on a real broker: in parallel, in key order, nothing lost, whatever is killed."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from broker.cluster import Cluster
from broker.kafka_server import KafkaServer
from broker.member import member_process, wait_for_end
from broker.recorder import Recorder, Workload, examine, number_of
from broker.scenario import committed_offsets, topic_with, until

from trio_parallel_kafka import ConsumerConfig, Record, parallel_consumer

PATIENCE = 120.0
"""Seconds after which a test hangs for certain."""

SHORT_SESSION = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}

Work = Callable[[int], Awaitable[object]]


async def some_milliseconds(_number: int) -> None:
    """What a handler does that waits for 1 to 5 ms."""
    await trio.sleep(random.uniform(0.001, 0.005))


def configured(kafka: Cluster, topic: str, /, **fields: Any) -> ConsumerConfig:
    """A configuration for one topic, with a group of its own unless named."""
    group = fields.pop("group_id", None) or kafka.unique("billing")
    return ConsumerConfig(bootstrap_servers=kafka.bootstrap_servers, group_id=group, topics=topic, **fields)


async def run_until_done(config: ConsumerConfig, recorder: Recorder, workload: Workload, work: Work) -> float:
    """Be a member until the whole workload is done; return the seconds from the assignment to the last record."""
    async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
        await pc.wait_assigned()
        began = time.perf_counter()
        nursery.start_soon(pc.run, recorder.handler("a", work))
        await recorder.wait_done(workload.count)
        seconds = time.perf_counter() - began
        pc.stop()
    return seconds


def assert_all_committed(kafka: Cluster, config: ConsumerConfig) -> None:
    """The group's committed offsets are the ends of the log."""
    assert committed_offsets(kafka, config) == kafka.end_offsets(config.topics[0])


async def test_a_hundred_thousand_records(kafka: Cluster) -> None:
    """100,000 records of 1,000 keys: none missing, exact key order, as many handlers at once as allowed."""
    workload = Workload(100_000, 1_000)
    config = configured(kafka, topic_with(kafka, workload.records(), 16), max_concurrency=256)
    recorder = Recorder()
    with trio.fail_after(PATIENCE):
        seconds = await run_until_done(config, recorder, workload, some_milliseconds)

    findings = examine(recorder.entries, workload)
    print(f"\n100,000 records, 1-5 ms handlers: {workload.count / seconds:,.0f} records/s, peak {findings.peak['a']}")
    findings.check()
    assert not findings.replayed
    assert findings.peak == {"a": 256}
    assert_all_committed(kafka, config)


@pytest.mark.performance
async def test_hot_path(kafka: Cluster) -> None:
    """Records whose handlers do nothing pass through, each once; the target is 60,000 records/s on 2 idle cores."""
    workload = Workload(300_000, 1_000, value_size=100)
    config = configured(kafka, topic_with(kafka, workload.records(), 16))
    seen = bytearray(workload.count)
    left = workload.count

    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc:

            async def handle(record: Record) -> None:
                nonlocal left
                seen[number_of(record)] += 1
                left -= 1
                if not left:
                    pc.stop()

            await pc.wait_assigned()
            began = time.perf_counter()
            await pc.run(handle)
            seconds = time.perf_counter() - began
            hops = pc.statistics().poll

    print(f"\nno-op handlers: {workload.count / seconds:,.0f} records/s; poll hops {_shown(hops)}")
    assert seen == b"\1" * workload.count
    assert_all_committed(kafka, config)


@pytest.mark.performance
async def test_against_bare_tasks(kafka: Cluster) -> None:
    """256 handlers that sleep 5 ms, beside 256 bare Trio tasks; the target is half as many a second."""
    workload = Workload(50_000, 1_000, value_size=100)
    config = configured(kafka, topic_with(kafka, workload.records(), 16), max_concurrency=256)
    with trio.fail_after(PATIENCE):
        bare_before = await _bare_rate(workload.count)
        left = workload.count
        async with parallel_consumer(config) as pc:

            async def handle(_record: Record) -> None:
                nonlocal left
                await trio.sleep(0.005)
                left -= 1
                if not left:
                    pc.stop()

            await pc.wait_assigned()
            began = time.perf_counter()
            await pc.run(handle)
            rate = workload.count / (time.perf_counter() - began)
            hops = pc.statistics().poll
        bare_after = await _bare_rate(workload.count)

    bare = (bare_before + bare_after) / 2
    print(
        f"\n5 ms handlers at concurrency 256: {rate:,.0f} records/s, bare tasks {bare:,.0f}/s: {rate / bare:.0%}; "
        f"poll hops {_shown(hops)}"
    )
    assert_all_committed(kafka, config)


async def _bare_rate(count: int) -> float:
    left = count

    async def task() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await trio.sleep(0.005)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(256):
            nursery.start_soon(task)
    return count / (time.perf_counter() - began)


async def test_kill_and_restart(kafka: Cluster, tmp_path: Path) -> None:
    """A member that is killed in the middle, twice: none missing, keys in order; it replays, and never skips."""
    workload = Workload(20_000, 200)
    config = configured(kafka, topic_with(kafka, workload.records(), 8), kafka=SHORT_SESSION)
    recorder = Recorder(tmp_path / "log")
    fields = {
        "bootstrap_servers": config.bootstrap_servers,
        "group_id": config.group_id,
        "topics": config.topics,
        "max_concurrency": 64,
        "commit_interval": 0.3,
        "kafka": SHORT_SESSION,
    }
    with trio.fail_after(PATIENCE):
        for name, share in (("first", 0.3), ("second", 0.6)):
            with member_process(name, tmp_path / "log", work_ms=20, **fields) as process:
                await recorder.wait_done(int(workload.count * share))
                process.kill()
                await wait_for_end(process)
                recorder.died(name)
        with member_process("third", tmp_path / "log", work_ms=20, **fields) as process:
            await recorder.wait_done(workload.count)
            process.terminate()
            assert await wait_for_end(process) == 0
    recorder.refresh()
    recorder.close()

    findings = examine(recorder.entries, workload)
    print(
        f"\nkilled twice under load: {findings.replayed.total()} of {workload.count:,} records replayed, "
        f"{findings.cut.total()} handlers died"
    )
    findings.check()
    assert findings.cut, "the kills came while nothing ran"
    assert_all_committed(kafka, config)


async def test_graceful_restart_beside_a_hung_record(kafka: Cluster) -> None:
    """After a graceful restart only the record that hung comes again, and what waited behind it in its lane."""
    workload = Workload(8_000, 100)
    config = configured(kafka, topic_with(kafka, workload.records(), 4), shutdown_timeout=0.5)
    recorder = Recorder()
    hung = 1_234
    stuck = workload.lane(hung)

    async def work(number: int) -> None:
        await trio.sleep(math.inf if number == hung else random.uniform(0, 0.02))

    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, recorder.handler("a", work))
            await recorder.wait_done(workload.count - len(stuck))
            oldest = [each.oldest_incomplete for each in pc.statistics().partitions if each.oldest_incomplete]
            assert [(each.key, each.is_running) for each in oldest] == [(workload.key(hung), True)]
            pc.stop()
        (hung_partition,) = {entry.partition for entry in recorder.entries if entry.number == hung}
        offset, metadata = kafka.committed(config.group_id, config.topics[0])[hung_partition]
        first_run = len(recorder.entries)

        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, recorder.handler("b", some_milliseconds))
            await recorder.wait_done(workload.count)
            pc.stop()

    findings = examine(recorder.entries, workload)
    again = {entry.number for entry in recorder.entries[first_run:]}
    print(
        f"\nrestarted beside a hung record: {len(again)} records came again; {hung_partition=} committed at {offset} "
        f"with a map of {len(metadata)} bytes"
    )
    findings.check()
    assert again == stuck
    assert not findings.replayed
    assert findings.cut == {hung: 1}
    assert_all_committed(kafka, config)


def kill_for_a_while(server: KafkaServer) -> None:
    """The broker's process is killed, and started again after 2 s."""
    server.kill()
    time.sleep(2)
    server.start_again()


def freeze_for_10_seconds(server: KafkaServer) -> None:
    """The broker keeps its connections and answers nothing."""
    server.freeze()
    time.sleep(10)
    server.thaw()


@pytest.fixture(scope="module")
def mortal_kafka(can_start_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker for the outages; each leaves it running."""
    with KafkaServer.start(tmp_path_factory.mktemp("kafka") / "mortal") as server:
        yield server


@pytest.mark.parametrize(
    ("outage", "group", "stays"),
    [
        pytest.param(kill_for_a_while, {}, True, id="killed"),
        pytest.param(freeze_for_10_seconds, SHORT_SESSION, False, id="frozen for longer than the session"),
        pytest.param(freeze_for_10_seconds, {"group.protocol": "consumer"}, False, id="frozen, new protocol"),
    ],
)
async def test_broker_outage(
    mortal_kafka: KafkaServer, outage: Callable[[KafkaServer], None], group: dict[str, Any], stays: bool
) -> None:
    """A broker that goes under load and comes back: the consumer goes on, and none is missing."""
    kafka = Cluster(mortal_kafka.bootstrap_servers)
    workload = Workload(20_000, 200)
    topic = topic_with(kafka, workload.records(), 8)
    config = configured(kafka, topic, max_concurrency=64, max_buffered_records=500, kafka=group)
    ends = kafka.end_offsets(topic)
    recorder = Recorder()

    async def work(_number: int) -> None:
        await trio.sleep(random.uniform(0, 0.04))

    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, recorder.handler("a", work))
            await recorder.wait_done(workload.count // 4)
            await trio.to_thread.run_sync(outage, mortal_kafka)
            back_at = time.perf_counter()
            done_by_then = recorder.refresh()
            await recorder.wait_done(done_by_then + 1)
            on_again_after = time.perf_counter() - back_at
            await recorder.wait_done(workload.count)
            await until(lambda: {each.partition: each.position for each in pc.statistics().partitions} == ends)
            pc.stop()

    findings = examine(recorder.entries, workload)
    print(
        f"\n{outage.__name__}, {group}: {done_by_then:,} of {workload.count:,} done when it was back, went on "
        f"{on_again_after:.1f} s later, {findings.replayed.total()} replayed, {findings.cut.total()} cut"
    )
    findings.check()
    assert done_by_then < workload.count
    if stays:
        assert not findings.replayed
        assert not findings.cut
    assert_all_committed(kafka, config)


def _shown(hops: Any) -> str:
    return f"p50 {hops.hop_p50 * 1000:.1f} ms, p99 {hops.hop_p99 * 1000:.1f} ms, max {hops.hop_max * 1000:.1f} ms"


async def _burn(slices: int) -> None:
    for _ in range(slices):
        end = time.perf_counter() + 0.005
        while time.perf_counter() < end:
            pass
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "blocking",
    [pytest.param(0, id="slices", marks=pytest.mark.performance), pytest.param(3, id="slices and a block")],
)
async def test_busy_loop(kafka: Cluster, blocking: float, caplog: pytest.LogCaptureFixture) -> None:
    """Handlers that burn the loop, or block it: the member stays, and the log shows where a blocker stands."""
    caplog.set_level(logging.INFO, "trio_parallel_kafka")
    workload = Workload(10_000, 1_000)
    config = configured(
        kafka,
        topic_with(kafka, workload.records(), 16),
        max_concurrency=8,
        max_buffered_records=100,  # so that it fetches all the while
        revoke_grace=2,
        close_timeout=5,
        shutdown_timeout=0,
        kafka={**SHORT_SESSION, "max.poll.interval.ms": 10_000},
    )
    recorder = Recorder()

    async def work(_number: int) -> None:
        await _burn(slices=4)
        if len(recorder.done) == 100:
            time.sleep(blocking)  # noqa: ASYNC251 - the fault under test

    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, recorder.handler("a", work))
            await trio.sleep(10 + blocking)
            statistics = pc.statistics()
            caught = caplog.text
            pc.stop()

    print(f"\nloop burnt in 5 ms slices, 8 at once, blocked for {blocking} s: poll hops {_shown(statistics.poll)}")
    assert statistics.totals.completed > 100
    assert sorted(each.assignment_epoch for each in statistics.partitions) == list(range(1, 17))
    assert "revoked" not in caught
    assert "lost" not in caught
    assert ("time.sleep(blocking)" in caught) == bool(blocking)
