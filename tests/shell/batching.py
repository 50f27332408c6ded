"""Consumers of batches, and a handler of batches that does as it is told."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from shell.kit import Place, World

from trio_parallel_kafka import ParallelConsumer, ProducerRecord, Record, parallel_consumer

SCOPES = ["key", "partition", "any"]


def place(record: Record) -> Place:
    """Its partition and offset."""
    return record.partition, record.offset


def output(name: str) -> ProducerRecord:
    """Something to be sent."""
    return ProducerRecord("results", name)


class Batches:
    """A handler that takes ``work`` seconds for a batch, and sees to it that no two batches have a key in common.

    Args:
        plan: by place, the outcomes of a record's attempts in turn; after the last, it is done.
        raises: what whole calls raise in turn; ``None``: nothing.
        work: seconds.
    """

    def __init__(
        self,
        plan: Mapping[Place, Iterable[object]] | None = None,
        *,
        raises: Iterable[Exception | None] = (),
        work: float = 0.0,
    ) -> None:
        self.given: list[tuple[Record, ...]] = []
        self.times: list[float] = []
        self.cancelled: list[list[Place]] = []
        self.peak = 0
        self.work = work
        self._plan: dict[Place, Iterator[object]] = {each: iter(outcomes) for each, outcomes in (plan or {}).items()}
        self._raises = iter(raises)
        self._running: list[set[tuple[int, bytes]]] = []

    async def __call__(self, records: tuple[Record, ...]) -> Sequence[object]:
        self.given.append(records)
        self.times.append(round(trio.current_time(), 3))
        keys = {(each.partition, each.key) for each in records if each.key is not None}
        assert not keys.intersection(*self._running) or not self._running
        self._running.append(keys)
        self.peak = max(self.peak, len(self._running))
        try:
            await trio.sleep(self.work)
        except trio.Cancelled:
            self.cancelled.append(list(map(place, records)))
            raise
        finally:
            self._running.remove(keys)
        if error := next(self._raises, None):
            raise error
        return [next(self._plan.get(place(each), iter(())), None) for each in records]

    @property
    def places(self) -> list[list[Place]]:
        """The records of each batch."""
        return [list(map(place, batch)) for batch in self.given]

    @property
    def attempts(self) -> list[list[tuple[int, int]]]:
        """The offsets in each batch, each with the number of the attempt."""
        return [[(each.offset, each.attempt) for each in batch] for batch in self.given]


@asynccontextmanager
async def batching(
    world: World,
    handler: Any,
    *,
    max_size: int = 100,
    linger: float = 0.0,
    scope: Any = "partition",
    **fields: Any,
) -> AsyncIterator[ParallelConsumer]:
    """Consume batches in the background for the length of the block, then stop gracefully."""
    async with parallel_consumer(world.config(**fields)) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(pc.run_batches, handler, max_size=max_size, linger=linger, scope=scope))
        yield pc
        pc.stop()


async def run(world: World, handler: Any, *, scope: Any = "partition", **fields: Any) -> None:
    """Consume batches until that ends by itself."""
    async with parallel_consumer(world.config(**fields)) as pc:
        await pc.run_batches(handler, scope=scope)
