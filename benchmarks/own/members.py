"""This library, several members in processes of their own. ``python -m benchmarks.own.members JOB``.

The option ``members`` says how many. They join at the same time. Measured is from the first record that any of them
handles to the last.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import trio
from confluent_kafka import Consumer, TopicPartition

from benchmarks.job import Job, Outcome, dump_job, load_job, load_outcome, print_outcome
from benchmarks.own.samples import Sample, combined, sample_of
from benchmarks.systems import as_installed


class Member:
    """One of them, and what it has said so far."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.ready = trio.Event()
        self.last_line = ""

    @property
    def done(self) -> int:
        """Records that it has handled."""
        return self.samples[-1].done if self.samples else 0

    async def listen(self, output: trio.abc.ReceiveStream) -> None:
        """Take its lines until it ends."""
        rest = b""
        async for chunk in output:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(line.decode())

    def _take(self, line: str) -> None:
        self.last_line = line
        if line == "ready":
            self.ready.set()
        elif line.startswith('{"at"'):
            self.samples.append(sample_of(json.loads(line)))


async def run_members(job: Job) -> Outcome:
    """Run them until all records are handled."""
    members = [Member() for _ in range(job.options["members"])]
    module = "benchmarks.own.member"
    program = as_installed(sys.executable, module) if sys.flags.safe_path else [sys.executable, "-m", module]
    command = [*program, dump_job(job)]
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        processes: list[trio.Process] = [await nursery.start(run) for _ in members]
        for member, process in zip(members, processes, strict=True):
            assert process.stdout is not None
            nursery.start_soon(member.listen, process.stdout)
        for member in members:
            await member.ready.wait()
        for process in processes:
            assert process.stdin is not None
            await process.stdin.send_all(b"go\n")
        while sum(member.done for member in members) < job.count:
            await trio.sleep(0.02)
        for process in processes:
            assert process.stdin is not None
            await process.stdin.aclose()
    told = [(member.samples, load_outcome(member.last_line)) for member in members if member.samples]
    return combined(told, job.count - committed(job))


def committed(job: Job) -> int:
    """Below which offsets the group has done all: their sum over the partitions."""
    consumer = Consumer({"bootstrap.servers": job.bootstrap_servers, "group.id": job.group_id})
    places = [TopicPartition(job.topic, partition) for partition in range(job.partitions)]
    found = consumer.committed(places, timeout=10)
    consumer.close()
    return sum(max(each.offset, 0) for each in found)


if __name__ == "__main__":
    print_outcome(trio.run(run_members, load_job(sys.argv)))
