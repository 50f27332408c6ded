"""Topics with records, and records that come at a steady rate."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from broker.cluster import ANSWER_TIMEOUT, Cluster
from confluent_kafka import Producer

from benchmarks.scenarios import Load

SEED: Final = 11
STAMP_SIZE: Final = 8
"""Bytes at the start of a value that tell when it was produced."""


class Topics:
    """Makes topics, and deletes them.

    Args:
        kafka: where.
    """

    def __init__(self, kafka: Cluster) -> None:
        self._kafka: Final = kafka
        self._filled: Final[dict[Load, str]] = {}
        self._others: Final[list[str]] = []

    def filled(self, load: Load) -> str:
        """The topic that holds these records; it is filled once.

        Raises:
            RuntimeError: records weren't delivered.
        """
        if load not in self._filled:
            topic = self._made(load)
            self._filled[load] = topic
            self._fill(topic, load)
        return self._filled[load]

    def empty(self, load: Load) -> str:
        """A new topic without records."""
        topic = self._made(load)
        self._others.append(topic)
        return topic

    def delete_all(self) -> None:
        """Make room."""
        for topic in [*self._filled.values(), *self._others]:
            self._kafka.delete_topic(topic)
        self._filled.clear()
        self._others.clear()

    @contextmanager
    def producing(self, topic: str, load: Load, rate: int) -> Iterator[None]:
        """Produce so many records a second for the length of the block."""
        over = threading.Event()
        thread = threading.Thread(target=self._produce_steadily, args=(topic, load, rate, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _made(self, load: Load) -> str:
        topic = self._kafka.unique("records")
        self._kafka.create_topic(topic, load.partitions)
        return topic

    def _producer(self, **settings: Any) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._kafka.bootstrap_servers,
                "partitioner": "murmur2_random",
                "delivery.report.only.error": True,
                "log_level": 0,
                "error_cb": lambda _error: None,
                **settings,
            }
        )

    def _fill(self, topic: str, load: Load) -> None:
        producer = self._producer(**{"linger.ms": 20, "batch.size": 262_144})
        value = b"x" * load.value_size
        names = [str(number).encode() for number in range(load.keys or load.count)]
        keys = random.Random(SEED).choices(names, k=load.count) if load.keys else names
        for key in keys:
            _enqueue(producer, topic, value, key)
        producer.flush(ANSWER_TIMEOUT)
        there = sum(self._kafka.end_offsets(topic).values())
        if there != load.count:
            raise RuntimeError(f"{there:,} of {load.count:,} records came to be in {topic}")

    def _produce_steadily(self, topic: str, load: Load, rate: int, over: threading.Event) -> None:
        producer = self._producer(**{"linger.ms": 0})
        padding = b"x" * (load.value_size - STAMP_SIZE)
        began, number = time.monotonic(), 0
        while not over.is_set():
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            stamp = time.monotonic_ns().to_bytes(STAMP_SIZE, "big")
            producer.produce(topic, stamp + padding, str(number % load.keys).encode())
            number += 1
        producer.flush(ANSWER_TIMEOUT)


def _enqueue(producer: Producer, topic: str, value: bytes, key: bytes) -> None:
    while True:
        try:
            producer.produce(topic, value, key)
        except BufferError:
            producer.poll(0.05)
        else:
            return
