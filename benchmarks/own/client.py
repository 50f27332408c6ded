"""The client alone: it reads and counts, and does nothing else. ``python -m benchmarks.own.client JOB``."""

from __future__ import annotations

import sys
from typing import Final

from confluent_kafka import Consumer

from benchmarks.job import Job, Moment, Outcome, load_job, memory_mb, print_outcome
from benchmarks.own.setup import client_versions

BATCH: Final = 500
SETTINGS: Final = {
    "fetch.queue.backoff.ms": "5",
    "fetch.wait.max.ms": "100",
    "enable.auto.commit": "false",
    "auto.offset.reset": "earliest",
}


def read(job: Job) -> Outcome:
    """Read the whole topic."""
    consumer = Consumer({**SETTINGS, "bootstrap.servers": job.bootstrap_servers, "group.id": job.group_id})
    consumer.subscribe([job.topic])
    first = half = Moment.now()
    read = read_by_half = 0
    while read < job.count:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if not read:
            first = Moment.now()
        read += 1 + len(consumer.consume(BATCH - 1, 0))
        if not read_by_half and read >= job.count // 2:
            read_by_half, half = read, Moment.now()
    last = Moment.now()
    passed = sum(each.offset for each in consumer.position(consumer.assignment()) if each.offset > 0)
    consumer.close()
    return Outcome(
        records=read,
        seconds=last.at - first.at,
        warm_records=read - read_by_half,
        warm_seconds=last.at - half.at,
        cpu_seconds=last.cpu - first.cpu,
        peak_rss_mb=memory_mb("VmHWM"),
        order_violations=0,
        missing=job.count - passed,
        peak_concurrency=1,
        versions=client_versions(),
        settings={**SETTINGS, "records at once": str(BATCH)},
    )


if __name__ == "__main__":
    print_outcome(read(load_job(sys.argv)))
