"""A handler that fails as it is told, and notes when it was called for which attempt."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import trio
from shell.kit import HandlerError, World

from trio_parallel_kafka import Record
from trio_parallel_kafka.core.assignments import TopicPartition


class Attempt(NamedTuple):
    """One call of the handler."""

    at: float
    partition: int
    offset: int
    number: int


class Failing:
    """A handler that takes ``work`` seconds.

    Args:
        plan: by offset, what becomes of its attempts in turn: what is raised, or ``None``; after the last, it is done.
        work: seconds for each.
    """

    def __init__(self, plan: Mapping[int, Iterable[Exception | None]] | None = None, *, work: float = 0.0) -> None:
        self.attempts: list[Attempt] = []
        self.done: list[tuple[int, int]] = []
        self._plan: dict[int, Iterator[Exception | None]] = {
            offset: iter(outcomes) for offset, outcomes in (plan or {}).items()
        }
        self.work = work

    async def __call__(self, record: Record) -> Any:
        self.attempts.append(Attempt(trio.current_time(), record.partition, record.offset, record.attempt))
        await trio.sleep(self.work)
        outcome = next(self._plan.get(record.offset, iter(())), None)
        if outcome is not None:
            raise outcome
        self.done.append((record.partition, record.offset))
        return None

    def started(self, partition: TopicPartition) -> list[tuple[int, int]]:
        """The offsets attempted in a partition, each with the number of the attempt."""
        return [(each.offset, each.number) for each in self.attempts if each.partition == partition.partition]

    def of(self, offset: int) -> list[tuple[int, int]]:
        """The numbers of the attempts at an offset, each with the second in which it began."""
        return [(each.number, round(each.at)) for each in self.attempts if each.offset == offset]


def fails(
    times: int | None = None, error: Callable[[], Exception] = lambda: HandlerError("bad")
) -> Iterator[Exception]:
    """So many failures; without a number, no end of them."""
    return (error() for _ in (itertools.count() if times is None else range(times)))


def graveyard(world: World) -> None:
    """Make the topic that dead letters go to."""
    world.broker.add(TopicPartition("orders.dlt", 0), [])
