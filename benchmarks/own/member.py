"""One of several members in processes of their own; :mod:`benchmarks.own.members` runs it.

It says ``"ready"``, joins when it is told anything, prints a sample as a line of JSON whenever it has handled more, and
ends when its input does; its outcome comes last.
"""

from __future__ import annotations

import json
import sys
from typing import Final

import attrs
import trio

from benchmarks.job import Checker, Job, Moment, Outcome, load_job, print_outcome
from benchmarks.own.handlers import open_handler
from benchmarks.own.samples import Sample
from benchmarks.own.setup import config_of, settings_of, versions
from trio_parallel_kafka import parallel_consumer

EVERY: Final = 0.02


async def take_part(job: Job) -> Outcome:
    """Handle what comes until told to stop."""
    checker = Checker(job, lambda: None)
    config = config_of(job)
    print("ready", flush=True)
    await _next_line()
    async with open_handler(job, checker) as handle, trio.open_nursery() as around:
        around.start_soon(_tell, checker)
        async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handle)
            await _next_line()
            pc.stop()
        around.cancel_scope.cancel()
    return checker.outcome(versions(), settings_of(job))


async def _next_line() -> str:
    return await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)


async def _tell(checker: Checker) -> None:
    told = 0
    while True:
        await trio.sleep(EVERY)
        done = checker.done()
        if done > told:
            if not told:
                _print(Sample(checker.first.at, 0, checker.first.cpu))
            now = Moment.now()
            _print(Sample(now.at, done, now.cpu))
            told = done


def _print(sample: Sample) -> None:
    print(json.dumps(attrs.asdict(sample)), flush=True)


if __name__ == "__main__":
    print_outcome(trio.run(take_part, load_job(sys.argv)))
