"""The way of a record through the package, from a fetched batch to its completion."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio
from confluent_kafka import Message

from benchmarks.micro.preloaded import TOPIC, Preloaded, found
from trio_parallel_kafka import ConsumerConfig, Record, parallel_consumer


def config(**fields: Any) -> ConsumerConfig:
    """The consumer's defaults, and these."""
    return ConsumerConfig(**{"bootstrap_servers": "nowhere:9092", "group_id": "way", "topics": [TOPIC], **fields})


async def handle_nothing(_record: Record) -> None:
    """The cheapest handler there is."""


async def consume(
    batches: Sequence[Sequence[Message]],
    given: ConsumerConfig,
    handler: Callable[[Record[Any, Any]], Awaitable[object]] = handle_nothing,
) -> int:
    """Handle everything; return how many records that were."""
    count = sum(map(len, batches))
    with found(Preloaded(batches)):
        async with parallel_consumer(given) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(pc.run, handler)
            while pc.statistics().totals.completed < count:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    return count
