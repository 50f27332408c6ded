"""A member that makes one result of each record, in a process of its own, to be killed at any moment.

``python -m broker.exactly_once_member OUTPUT WORK_MS CONFIG``: it takes up to ``WORK_MS`` milliseconds for a record and
returns it as a record for the topic ``OUTPUT``. Where dead letters are configured, each record whose number is a
multiple of :data:`FAILS` fails. ``CONFIG`` is a JSON object with the fields of :class:`ConsumerConfig`. ``SIGTERM``
stops it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys

import trio

from trio_parallel_kafka import ConsumerConfig, ProducerRecord, Record, parallel_consumer

FAILS = 97
"""Which numbers fail: those that it divides."""


def start_member(output: str, work_ms: float, config: dict[str, object]) -> subprocess.Popen[bytes]:
    """Run this program."""
    command = [sys.executable, "-m", "broker.exactly_once_member", output, str(work_ms), json.dumps(config)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


async def main(output: str, work_ms: str, mapping: str) -> None:
    """Be a member until ``SIGTERM``."""
    logging.getLogger("trio_parallel_kafka.dead_letters").setLevel(logging.ERROR)
    config = ConsumerConfig.from_mapping(json.loads(mapping))
    longest = float(work_ms) / 1000

    async def handle(record: Record) -> ProducerRecord:
        await trio.sleep(random.uniform(0, longest))
        if config.on_failure == "dead_letter" and int(record.value or b"") % FAILS == 0:
            raise ValueError(record.value)
        return ProducerRecord(output, record.value, key=record.key)

    async with parallel_consumer(config) as pc:
        token = trio.lowlevel.current_trio_token()
        signal.signal(signal.SIGTERM, lambda _signal, _frame: token.run_sync_soon(pc.stop))
        await pc.run(handle)


if __name__ == "__main__":
    _, OUTPUT, WORK_MS, CONFIG = sys.argv
    trio.run(main, OUTPUT, WORK_MS, CONFIG)
