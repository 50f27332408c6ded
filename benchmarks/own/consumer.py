"""This library, one member. ``python -m benchmarks.own.consumer JOB``.

Options, all off by default: ``heartbeat`` (a task sleeps 1 ms again and again, and notes how late it ever was),
``burn`` (a task keeps the loop busy in slices of 2 ms, half of the time), ``hang`` (the first record of partition 0
hangs until all others are handled), ``freeze`` (the garbage collector doesn't look at what was imported), ``config``
(further fields of the configuration).
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Final

import attrs
import trio

from benchmarks.job import Checker, Job, Outcome, load_job, print_outcome
from benchmarks.own.handlers import Handler, open_handler
from benchmarks.own.setup import config_of, settings_of, versions
from trio_parallel_kafka import Record, parallel_consumer

BEAT: Final = 0.001
SLICE: Final = 0.002


class Heartbeat:
    """A task of the application that wants its turn.

    Attributes:
        worst_gap: by how many seconds it came late at most.
    """

    def __init__(self) -> None:
        self.worst_gap = 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        clock = time.monotonic
        while True:
            due = clock() + BEAT
            await trio.sleep(BEAT)
            self.worst_gap = max(self.worst_gap, clock() - due)


async def burn() -> None:
    """Keep the loop busy half of the time, until cancelled."""
    clock = time.monotonic
    while True:
        ends = clock() + SLICE
        while clock() < ends:
            pass
        await trio.sleep(SLICE)


async def consume(job: Job) -> Outcome:
    """Handle all that the job names."""
    if job.options.get("freeze"):
        gc.collect()
        gc.freeze()
    over = trio.Event()
    hanging = 1 if job.options.get("hang") else 0
    checker = Checker(job, over.set, job.count - hanging)
    heart = Heartbeat()
    async with open_handler(job, checker) as handle, trio.open_nursery() as around:
        if job.options.get("burn"):
            around.start_soon(burn)
        async with parallel_consumer(config_of(job)) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, _hanging(handle, over) if hanging else handle)
            await pc.wait_assigned()
            if job.options.get("heartbeat"):
                around.start_soon(heart.run)
            await over.wait()
            figures = {"worst_gap_ms": heart.worst_gap * 1000} if job.options.get("heartbeat") else {}
            pc.stop()
        around.cancel_scope.cancel()
    outcome = checker.outcome(versions(), settings_of(job), figures)
    return attrs.evolve(outcome, records=outcome.records + hanging)


def _hanging(handle: Handler, over: trio.Event) -> Handler:
    async def hang_first(record: Record) -> None:
        if record.offset or record.partition:
            await handle(record)
        else:
            await over.wait()

    return hang_first


if __name__ == "__main__":
    print_outcome(trio.run(consume, load_job(sys.argv)))
