"""Execution engines on a real broker: CPU-bound handlers, killed workers, a control plane that stays responsive."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from broker import engine_handlers
from broker.cluster import Cluster
from broker.engine_handlers import Burn
from broker.recorder import Recorder, Workload, examine
from broker.scenario import committed_offsets, numbered, topic_with, until

from trio_parallel_kafka import (
    ConsumerConfig,
    ConsumerStatistics,
    Record,
    RetryPolicy,
    WorkerDiedError,
    parallel_consumer,
)

PATIENCE = 240.0
"""Seconds after which a test hangs for certain."""

SECONDS = float(os.environ.get("TPK_LONG_SECONDS", "8"))
"""For how long chaos reigns, or all cores are busy."""

BURN = 0.002
"""Seconds of computing that a record takes."""


def configured(kafka: Cluster, topic: str, /, **fields: Any) -> ConsumerConfig:
    """A configuration for one topic, with two worker processes if it is to have any."""
    return ConsumerConfig(
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=kafka.unique("billing"),
        topics=topic,
        process_workers=2,
        **fields,
    )


async def test_workers_killed_again_and_again(kafka: Cluster, tmp_path: Path) -> None:
    """Worker processes killed once a second: nothing missing, keys in order and one at a time, nothing left behind."""
    workload = Workload(round(SECONDS / BURN * 1.6), 1_000)
    topic = topic_with(kafka, workload.records(), 16)
    config = configured(
        kafka,
        topic,
        execution_mode="process",
        retry=RetryPolicy(max_attempts=None, initial_backoff=0.01, max_backoff=0.1, retry_on=(WorkerDiedError,)),
    )
    recorder = Recorder(tmp_path / "log")
    kills = handled = 0
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, Burn(tmp_path / "log", BURN))
            end = trio.current_time() + SECONDS
            while trio.current_time() < end and recorder.refresh() < workload.count:
                await trio.sleep(1)
                if recorder.refresh() > handled:  # on a busy machine a process takes longer than that to begin
                    handled = len(recorder.done)
                    kills += await kill_one(recorder)
            await recorder.wait_done(workload.count)
            statistics = pc.statistics()
            pc.stop()
    findings = examine(recorder.entries, workload)
    recorder.close()
    print(
        f"\n{workload.count} records, {kills} kills: {sum(findings.replayed.values())} handled again, "
        f"{sum(findings.cut.values())} cut, {statistics.engine}"
    )
    assert kills > SECONDS / 4
    assert statistics.engine.died >= kills - 1, "the last one may have gone unnoticed"
    assert not findings.missing
    assert not findings.out_of_order
    assert not findings.key_overlaps
    assert committed_offsets(kafka, config) == kafka.end_offsets(topic)
    assert not multiprocessing.active_children()


async def kill_one(recorder: Recorder) -> int:
    """Kill a worker process, and note when it can't have done anything any more; return how many were killed."""
    children = multiprocessing.active_children()
    if not children:
        return 0
    pid = random.choice(children).pid
    assert pid is not None
    try:
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: state_of(pid) in {"T", "Z", ""})
        recorder.died(f"process-{pid}")
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def state_of(pid: int) -> str:
    """The letter that the system has for what a process does; nothing for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


async def test_poison_record_ends_in_the_dead_letters(kafka: Cluster) -> None:
    """A record that no worker process survives is given up after its attempts; all others are handled."""
    topic = topic_with(kafka, numbered(0, 200, 0))
    kafka.create_topic(f"{topic}.dlt")
    config = configured(
        kafka,
        topic,
        execution_mode="process",
        retry=RetryPolicy(max_attempts=2, initial_backoff=0.01),
        on_failure="dead_letter",
    )
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, "broker.engine_handlers:end_the_process_on_13")
            await until(lambda: pc.statistics().totals.completed == 200)
            pc.stop()
    statistics = pc.statistics()
    assert (statistics.totals.dead_lettered, statistics.totals.failed, statistics.engine.died) == (1, 2, 2)
    (letter,) = kafka.read(f"{topic}.dlt")
    assert letter.value() == b"13"
    assert dict(letter.headers() or ())["kafka_dlt-exception-message"] == (
        b"the worker process that handled the record died: it exited with status 1"
    )
    assert committed_offsets(kafka, config) == {0: 200}


async def test_threads_on_a_busy_topic(kafka: Cluster, tmp_path: Path) -> None:
    """Blocking handlers in threads: each record once, keys in order, and the rest of the program keeps its threads."""
    workload = Workload(3_000, 200)
    topic = topic_with(kafka, workload.records(), 8)
    config = configured(kafka, topic, execution_mode="thread", max_concurrency=64)
    recorder = Recorder(tmp_path / "log")

    def handle(record: Record) -> None:
        with recorder.handling("a", record):
            time.sleep(0.005)

    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await recorder.wait_done(workload.count)
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens <= 1  # the poll has its own
            pc.stop()
    findings = examine(recorder.entries, workload)
    recorder.close()
    findings.check()
    assert not findings.replayed
    assert 8 < findings.peak["a"] <= 64
    assert committed_offsets(kafka, config) == kafka.end_offsets(topic)


@pytest.mark.performance
async def test_two_processes_against_one_loop(kafka: Cluster) -> None:
    """2 ms of Python for each record: the target is 1.8 times the rate of the async engine, on 2 idle cores."""
    ratios = []
    for _ in range(3):
        rates = {
            mode: await rate(kafka, 3_000, handler, execution_mode=mode)
            for mode, handler in (
                ("async", engine_handlers.burn_on_the_loop),
                ("process", engine_handlers.burn_two_milliseconds),
            )
        }
        ratios.append(rates["process"] / rates["async"])
    print(f"\nprocesses against the loop: {[f'{ratio:.2f}' for ratio in ratios]}")


@pytest.mark.performance
async def test_cost_of_crossing(kafka: Cluster) -> None:
    """Handlers that do nothing, in 2 processes; the target is 20,000 records/s on 2 idle cores."""
    found = await rate(kafka, 60_000, engine_handlers.nothing, execution_mode="process")
    print(f"\nno-op handlers in 2 worker processes: {found:,.0f} records/s")


@pytest.mark.performance
async def test_control_plane_while_all_cores_burn(kafka: Cluster) -> None:
    """Workers that leave no core idle cost no membership; the target for poll hops is 100 ms (99th percentile)."""
    workload = Workload(round(SECONDS / BURN * 4), 1_000)
    topic = topic_with(kafka, workload.records(), 16)
    config = configured(
        kafka,
        topic,
        execution_mode="process",
        shutdown_timeout=0,
        kafka={"max.poll.interval.ms": 10_000, "session.timeout.ms": 6_000},
        revoke_grace=1,
        close_timeout=5,
    )
    seen: list[ConsumerStatistics] = []
    with trio.fail_after(SECONDS + PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, engine_handlers.burn_two_milliseconds)
            end = trio.current_time() + SECONDS
            while trio.current_time() < end:
                await trio.sleep(0.5)
                seen.append(pc.statistics())
            pc.stop()
    epochs = {(each.partition, each.assignment_epoch) for each in seen[-1].partitions}
    print(f"\npoll hops over {SECONDS:.0f} s: {seen[-1].poll}; completed {seen[-1].totals.completed}")
    assert len(epochs) == 16
    assert all(
        each.partitions == () or {(p.partition, p.assignment_epoch) for p in each.partitions} == epochs for each in seen
    )


async def rate(kafka: Cluster, count: int, handler: Any, /, **fields: Any) -> float:
    """Records a second, from when the engine is ready to the last record."""
    workload = Workload(count, 1_000, value_size=100)
    config = configured(kafka, topic_with(kafka, workload.records(), 16), **fields)
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handler)
            tally = pc._controller.tally  # a snapshot of everything would cost a part of what is measured
            await until(lambda: tally.completed > 0)
            first, began = tally.completed, time.perf_counter()
            while (done := tally.completed) < count:
                await trio.sleep(0.01)
            seconds = time.perf_counter() - began
            pc.stop()
    assert committed_offsets(kafka, config) == kafka.end_offsets(config.topics[0])
    return (done - first) / seconds
