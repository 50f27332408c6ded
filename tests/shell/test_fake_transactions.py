"""The fake transactional producer keeps the contract of the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from shell.fake_transactions import LARGEST, Coordinator, FakeTransactions
from shell.kit import P0, World
from shell.transaction_contract import CONTRACT, Stage
from trio.testing import MockClock


class FakeStage:
    """The fake broker."""

    source = P0
    output = "results"
    largest = LARGEST

    def __init__(self, world: World) -> None:
        self._world = world
        self._coordinator = Coordinator(world.broker)

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[FakeTransactions]:
        fields: dict[str, Any] = {"delivery": "exactly_once", "transactional_id": "billing-0"}
        producer = self._coordinator.make(self._world.config(**fields))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.host)
            yield producer
            await producer.close()

    async def metadata(self) -> object:
        return self._world.broker.generation

    async def leave(self) -> None:
        self._world.broker.generation += 1

    async def seen(self) -> list[bytes]:
        return [record.value for record in self._coordinator.outputs]

    async def committed(self) -> tuple[int, str] | None:
        found = self._world.broker.group.get(P0)
        return None if found is None else (found[0], found[1] or "")


@pytest.mark.parametrize("clause", CONTRACT)
async def test_contract(autojump_clock: MockClock, world: World, clause: Callable[[Stage], Awaitable[None]]) -> None:
    """See the clause."""
    await clause(FakeStage(world))
