"""Handle records until SIGTERM or Ctrl-C, then drain, commit and leave.

The configuration comes from the environment: KAFKA_BOOTSTRAP_SERVERS, KAFKA_CONSUMER_GROUP, KAFKA_TOPICS and
PARALLEL_CONSUMER_<FIELD>, see ``ConsumerConfig.from_env``.
"""

from __future__ import annotations

import signal

import trio

from trio_parallel_kafka import ConsumerConfig, ParallelConsumer, Record, parallel_consumer


async def handle(record: Record) -> None:
    """Stand in for what awaits a service or a database; idempotent, as a record may come again."""
    await trio.sleep(0.005)
    print(f"{record.topic}[{record.partition}]@{record.offset} {record.key!r}", flush=True)


async def stop_on_signal(pc: ParallelConsumer, *, task_status: trio.TaskStatus[None]) -> None:
    """Drain on the first signal."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            pc.stop()


async def main() -> None:
    """Run until stopped."""
    async with parallel_consumer(ConsumerConfig.from_env()) as pc, trio.open_nursery() as nursery:
        await nursery.start(stop_on_signal, pc)
        await pc.run(handle)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
