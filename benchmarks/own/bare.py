"""Trio alone, no Kafka: so many tasks that only wait, again and again. ``python -m benchmarks.own.bare JOB``."""

from __future__ import annotations

import sys
from importlib.metadata import version

import trio

from benchmarks.job import Job, Moment, Outcome, load_job, memory_mb, print_outcome
from benchmarks.own.handlers import ANSWER_SIZE, QUESTION, connect
from benchmarks.own.setup import client_versions


async def wait_often(job: Job) -> Outcome:
    """Wait as often as there are records."""
    left = job.count
    half = Moment.now()

    async def sleep() -> None:
        nonlocal left, half
        while left > 0:
            left -= 1
            if left == job.count // 2:
                half = Moment.now()
            await trio.sleep(job.delay)

    async def ask(stream: trio.SocketStream) -> None:
        nonlocal left, half
        while left > 0:
            left -= 1
            if left == job.count // 2:
                half = Moment.now()
            await stream.send_all(QUESTION)
            await stream.receive_some(ANSWER_SIZE)

    streams = [await connect(job.ask) for _ in range(job.concurrency)] if job.ask else []
    first = Moment.now()
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(ask, stream)
        for _ in range(0 if streams else job.concurrency):
            nursery.start_soon(sleep)
    last = Moment.now()
    for stream in streams:
        await stream.aclose()
    return Outcome(
        records=job.count,
        seconds=last.at - first.at,
        warm_records=job.count // 2,
        warm_seconds=last.at - half.at,
        cpu_seconds=last.cpu - first.cpu,
        peak_rss_mb=memory_mb("VmHWM"),
        order_violations=0,
        missing=0,
        peak_concurrency=job.concurrency,
        versions={"trio": version("trio"), **client_versions()},
    )


if __name__ == "__main__":
    print_outcome(trio.run(wait_often, load_job(sys.argv)))
