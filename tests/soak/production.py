"""Produces a workload: as fast as it goes, or at a rate."""

from __future__ import annotations

import time
from typing import Final

import trio
from broker.cluster import ANSWER_TIMEOUT, Cluster
from broker.recorder import Workload
from confluent_kafka import KafkaError, KafkaException, Message, Producer as Client

TICK: Final = 0.02
"""Seconds between two portions."""

_LONGEST_CATCH_UP: Final = 0.5
"""Seconds of delay that are made up for at once; the rest of a longer one is left out."""


class Production:
    """Makes a workload grow, in a topic. Its calls block.

    Args:
        kafka: where.
        topic: the topic; records of one key go to one partition.
        keys: how many keys take turns.
    """

    def __init__(self, kafka: Cluster, topic: str, keys: int) -> None:
        self.workload: Final = Workload(0, keys)
        self._topic: Final = topic
        self._error: KafkaError | None = None
        self._client: Final = Client(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 20,
                "partitioner": "murmur2_random",
                "on_delivery": self._delivered,
            }
        )

    @property
    def produced(self) -> int:
        """How many records there are."""
        return self.workload.count

    def produce(self, count: int) -> None:
        """Produce so many more.

        Raises:
            KafkaException: some weren't delivered.
        """
        first = self.workload.count
        for key, value in self.workload.records(first, first + count):
            self._enqueue(key, value)
        self.workload.count += count
        self._client.poll(0)
        if self._error is not None:
            raise KafkaException(self._error)

    async def produce_at(self, rate: float) -> None:
        """Produce so many records a second until cancelled."""
        due = 0.0
        before = time.monotonic()
        while True:
            await trio.sleep(TICK)
            now = time.monotonic()
            due += min(now - before, _LONGEST_CATCH_UP) * rate
            before = now
            count, due = int(due), due % 1
            await trio.to_thread.run_sync(self.produce, count)

    def flush(self) -> None:
        """Wait until all is delivered.

        Raises:
            TimeoutError: it isn't.
        """
        if self._client.flush(ANSWER_TIMEOUT):
            raise TimeoutError(f"records for {self._topic} were never acknowledged")
        self.produce(0)

    def _enqueue(self, key: bytes, value: bytes) -> None:
        while True:
            try:
                self._client.produce(self._topic, value, key)
            except BufferError:
                self._client.poll(0.1)
            else:
                return

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        self._error = self._error or error
