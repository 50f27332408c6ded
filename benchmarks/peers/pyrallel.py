"""Pyrallel Consumer, its engine for asyncio. ``python -m benchmarks.peers.pyrallel JOB``; Python 3.12 or later.

Options: ``max_in_flight`` (records read and not yet handled, at most about, and handlers at once, as the library has
one figure for both; the job's concurrency by default) and what else its ``ParallelConsumerConfig`` has a field for.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Final

from pyrallel_consumer import (
    ExecutionConfig,
    ExecutionMode,
    KafkaConfig,
    OrderingMode,
    ParallelConsumerConfig,
    PyrallelConsumer,
    WorkItem,
)

from benchmarks.job import Checker, Job, Outcome, load_job, print_outcome
from benchmarks.peers.asyncio_handlers import open_handler
from benchmarks.peers.by_hand import StallGuard, check_options

ORDERINGS: Final = {"key": "key_hash", "partition": "partition", "unordered": "unordered"}
SETTINGS: Final[dict[str, Any]] = {
    "poll_batch_size": 20_000,
    "queue_max_messages": 5_000,
    "strict_completion_monitor_enabled": True,
}
TUNABLE: Final = ParallelConsumerConfig.model_fields.keys() - {"execution", "ordering_mode"}
LOOK_EVERY: Final = 1.0


async def consume(job: Job) -> Outcome:
    """Handle all that the job names."""
    check_options(job.options, "max_in_flight", *TUNABLE)
    over = asyncio.Event()
    checker = Checker(job, over.set)
    config = _config_of(job)
    async with open_handler(job, checker) as handle:

        async def worker(item: WorkItem) -> None:
            await handle(item.key, item.tp.partition, item.offset, item.payload)

        consumer = PyrallelConsumer(config=config, worker=worker, topic=job.topic)
        await consumer.start()
        check_progress = StallGuard(checker.done, job.count, time.monotonic)
        while not over.is_set():
            check_progress()
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), LOOK_EVERY)
        await consumer.stop()
    return checker.outcome(_versions(), _settings_of(job, config))


def _config_of(job: Job) -> KafkaConfig:
    chosen = {**SETTINGS, **job.options}
    execution = ExecutionConfig(mode=ExecutionMode.ASYNC, max_in_flight=chosen.pop("max_in_flight", job.concurrency))
    ordering = OrderingMode(ORDERINGS[job.ordering])
    return KafkaConfig(
        BOOTSTRAP_SERVERS=job.bootstrap_servers,
        CONSUMER_GROUP=job.group_id,
        dlq_enabled=False,
        parallel_consumer=ParallelConsumerConfig(ordering_mode=ordering, execution=execution, **chosen),
    )


def _settings_of(job: Job, config: KafkaConfig) -> dict[str, str]:
    parallel = config.parallel_consumer
    return {
        "ordering_mode": parallel.ordering_mode.value,
        "max_in_flight": str(parallel.execution.max_in_flight),
        "dlq_enabled": str(config.dlq_enabled),
        "commits": "as soon as there is something to commit",
        **{name: str(getattr(parallel, name)) for name in [*SETTINGS, *(TUNABLE & job.options.keys())]},
    }


def _versions() -> dict[str, str]:
    return {
        "pyrallel-consumer": version("pyrallel-consumer"),
        "confluent-kafka": version("confluent-kafka"),
        platform.python_implementation(): platform.python_version(),
    }


if __name__ == "__main__":
    # It warns of each pause.
    logging.basicConfig(level=logging.ERROR)
    print_outcome(asyncio.run(consume(load_job(sys.argv))))
