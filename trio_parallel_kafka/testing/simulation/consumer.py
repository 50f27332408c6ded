"""A consumer and the simulated broker that it finds, in one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.config.policies import DEAD_LETTER_SUFFIX
from trio_parallel_kafka.consumer import ParallelConsumer, parallel_consumer
from trio_parallel_kafka.control.failure_policy import buries
from trio_parallel_kafka.testing.history import History
from trio_parallel_kafka.testing.simulation.broker import SimulatedBroker, open_simulated_broker

PARTITIONS: Final = 4
"""Of each topic that ``topics`` doesn't name."""


@asynccontextmanager
async def open_simulated_consumer(
    config: ConsumerConfig, *, topics: Mapping[str, int] | None = None, history: History | None = None
) -> AsyncIterator[tuple[ParallelConsumer, SimulatedBroker]]:
    """Open a consumer at a simulated broker of its own.

    Args:
        config: the consumer's; its ``bootstrap_servers`` aren't asked.
        topics: The topics to make, each with its number of partitions; by default those that ``config`` names, and the
            one of its dead letters, each with 4.
        history: as for :func:`open_simulated_broker`.

    Yields:
        The consumer, and the broker.

    Raises:
        ParallelKafkaError: what :func:`.parallel_consumer` raises.
    """
    made = _topics_of(config) if topics is None else topics
    async with open_simulated_broker(made, history=history) as broker, parallel_consumer(config) as pc:
        yield pc, broker


def _topics_of(config: ConsumerConfig) -> dict[str, int]:
    named = [topic for topic in config.topics if not topic.startswith("^")]
    chosen = config.dead_letter.topic if config.dead_letter else None
    buried: list[str] = []
    if chosen is None and buries(config):
        buried = [topic + DEAD_LETTER_SUFFIX for topic in named]
    elif isinstance(chosen, str):
        buried = [chosen]
    return dict.fromkeys([*named, *buried], PARTITIONS)
