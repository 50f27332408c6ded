"""A consumer in a process of its own, whose memory is nobody else's, that says what it took to handle a topic.

``python -m broker.measured COUNT CONFIG``: it handles ``COUNT`` records whose values are their numbers, 0 and up, and
writes :class:`Figures` as JSON. It begins once its buffers are full, and the first record isn't done before all others
are. ``CONFIG`` is a JSON object with the fields of :class:`ConsumerConfig`.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from pathlib import Path

import attrs
import trio

from trio_parallel_kafka import ConsumerConfig, ConsumerStatistics, ParallelConsumer, Record, parallel_consumer
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.core.member import FULL

WARM_UP = 0.1
"""The part of the records after which memory should have come to rest."""

SAMPLES_EVERY = 0.02
"""Seconds."""


@attrs.define
class Figures:
    """What was seen. Memory is in bytes.

    Attributes:
        handled: how many records were handled; -1: not each of them once.
        most_records: buffered at once, over all partitions; as the statistics have it.
        most_bytes: the same of keys and values.
        most_lanes: keys that had anything buffered.
        statistics_size: characters of the longest statistics.
        memory_before: resident, before the consumer was opened.
        memory_after: resident, after its block.
        early_peak: the most that was ever resident by the end of the warm-up, all of Python and the client included.
        peak: the same at the end.
        objects_left: records and lanes that are alive after the block.
        blocks_left: pieces of memory that Python holds for objects after the block, more than before it.
    """

    handled: int = 0
    most_records: int = 0
    most_bytes: int = 0
    most_lanes: int = 0
    statistics_size: int = 0
    memory_before: int = 0
    memory_after: int = 0
    early_peak: int = 0
    peak: int = 0
    objects_left: int = 0
    blocks_left: int = 0

    def look(self, statistics: ConsumerStatistics, lanes: int) -> None:
        """Keep the highest of what is there now."""
        self.most_records = max(self.most_records, statistics.buffered_records)
        self.most_bytes = max(self.most_bytes, statistics.buffered_bytes)
        self.most_lanes = max(self.most_lanes, lanes)
        self.statistics_size = max(self.statistics_size, len(repr(statistics)))


def memory(what: str = "VmRSS") -> int:
    """Bytes that this process holds, or (``VmHWM``) has held at most."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def lanes_of(pc: ParallelConsumer) -> int:
    """How many keys have a lane."""
    return sum(len(assignment.lanes.by_key) for assignment in pc._controller.member.assignments)


def is_full(statistics: ConsumerStatistics, count: int) -> bool:
    """Whether nothing more is fetched."""
    reasons = {each.paused for each in statistics.partitions}
    return statistics.buffered_records == count or (bool(reasons) and reasons <= FULL)


async def measure(count: int, config: ConsumerConfig) -> Figures:
    """Handle so many records."""
    figures = Figures(memory_before=memory())
    handled = bytearray(count)
    others_done = trio.Event()
    done = 0

    async def handle(record: Record) -> None:
        nonlocal done
        number = int((record.value or b"")[:20])
        if number == 0:
            await others_done.wait()
        handled[number] += 1
        done += 1
        if done == count - 1:
            others_done.set()

    async def sample(pc: ParallelConsumer) -> None:
        while pc.statistics().state in {"open", "running"}:
            figures.look(pc.statistics(), lanes_of(pc))
            await trio.sleep(SAMPLES_EVERY)

    async def reach(part: float) -> None:
        while done < count * part:
            await trio.sleep(SAMPLES_EVERY)

    gc.collect()
    blocks = sys.getallocatedblocks()
    async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
        pc.pause()
        nursery.start_soon(pc.run, handle)
        nursery.start_soon(sample, pc)
        while not is_full(pc.statistics(), count):
            await trio.sleep(SAMPLES_EVERY)
        pc.resume()
        await reach(WARM_UP)
        figures.early_peak = memory("VmHWM")
        await reach(1)
        pc.stop()
    del pc, nursery
    gc.collect()
    figures.handled = done if set(handled) == {1} else -1
    figures.objects_left = sum(isinstance(each, Record | Lane) for each in gc.get_objects())
    figures.blocks_left = sys.getallocatedblocks() - blocks
    figures.memory_after, figures.peak = memory(), memory("VmHWM")
    return figures


async def measured(count: int, **config: object) -> Figures:
    """Run this program, to its end or until cancelled."""
    command = [sys.executable, "-m", "broker.measured", str(count), json.dumps(config)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = await trio.run_process(command, env=environ, capture_stdout=True)
    return Figures(**json.loads(ended.stdout))


if __name__ == "__main__":
    _, COUNT, CONFIG = sys.argv
    print(json.dumps(attrs.asdict(trio.run(measure, int(COUNT), ConsumerConfig.from_mapping(json.loads(CONFIG))))))
