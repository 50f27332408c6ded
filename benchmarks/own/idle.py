"""This library with nothing to do: what CPU time it takes all the same. ``python -m benchmarks.own.idle JOB``."""

from __future__ import annotations

import sys
from typing import Final

import trio

from benchmarks.job import Job, Moment, Outcome, load_job, memory_mb, print_outcome
from benchmarks.own.setup import config_of, settings_of, versions
from trio_parallel_kafka import Record, parallel_consumer

SETTLING: Final = 2.0
"""Seconds from the assignment on that don't count."""


async def idle(job: Job) -> Outcome:
    """Be assigned partitions in which nothing happens."""
    handled = 0

    async def handle(_record: Record) -> None:
        nonlocal handled
        handled += 1

    async with parallel_consumer(config_of(job)) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, handle)
        while len(pc.statistics().partitions) < job.partitions:
            await trio.sleep(0.1)
        await trio.sleep(SETTLING)
        first = Moment.now()
        await trio.sleep(job.seconds)
        last = Moment.now()
        pc.stop()
    return Outcome(
        records=handled,
        seconds=last.at - first.at,
        warm_records=0,
        warm_seconds=0.0,
        cpu_seconds=last.cpu - first.cpu,
        peak_rss_mb=memory_mb("VmHWM"),
        order_violations=0,
        missing=0,
        peak_concurrency=0,
        versions=versions(),
        settings=settings_of(job),
        figures={"cpu_percent": (last.cpu - first.cpu) / (last.at - first.at) * 100},
    )


if __name__ == "__main__":
    print_outcome(trio.run(idle, load_job(sys.argv)))
