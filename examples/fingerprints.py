"""Make a costly fingerprint of each document, in worker processes, and send it on.

Computing keeps a core busy, so it belongs neither on the loop nor in threads. A document that a worker doesn't get done
in time, or dies of, ends in the dead letters (the topic ``<topic>.dlt``), and the next worker goes on.

The configuration comes from the environment: KAFKA_BOOTSTRAP_SERVERS, KAFKA_CONSUMER_GROUP, KAFKA_TOPICS and
PARALLEL_CONSUMER_<FIELD>, see ``ConsumerConfig.from_env``. Needs the extra ``process``.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import signal

import attrs
import trio

from trio_parallel_kafka import (
    ConsumerConfig,
    ExecutionMode,
    OnFailure,
    ParallelConsumer,
    ProducerRecord,
    Record,
    RetryPolicy,
    WorkerDiedError,
    parallel_consumer,
)


def fingerprint(output: str, record: Record) -> ProducerRecord:
    """Take some 20 ms of a core; plain and blocking, as it runs in a process of its own."""
    digest = hashlib.scrypt(record.value or b"", salt=b"fingerprints", n=2**13, r=8, p=1, dklen=16)
    return ProducerRecord(output, digest.hex().encode(), key=record.key)


async def stop_on_signal(pc: ParallelConsumer, *, task_status: trio.TaskStatus[None]) -> None:
    """Drain on the first signal."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            pc.stop()


async def main() -> None:
    """Run until stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="the topic that fingerprints go to")
    options = parser.parse_args()
    config = attrs.evolve(
        ConsumerConfig.from_env(),
        execution_mode=ExecutionMode.PROCESS,
        max_concurrency=16,  # handed to the workers at once
        handler_timeout=10.0,
        retry=RetryPolicy(max_attempts=2, retry_on=(WorkerDiedError,)),
        on_failure=OnFailure.DEAD_LETTER,
    )
    async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
        await nursery.start(stop_on_signal, pc)
        await pc.run(functools.partial(fingerprint, options.output))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
