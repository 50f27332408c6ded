"""The simulated transactional producer keeps the contract of the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from shell.kit import P0, World
from shell.transaction_contract import CONTRACT, Stage
from trio.testing import MockClock

from trio_parallel_kafka.testing.simulation.client import SimulatedClient
from trio_parallel_kafka.testing.simulation.group import GroupMetadata
from trio_parallel_kafka.testing.simulation.transactions import SimulatedTransactions


class SimulatedStage:
    """The simulated broker, with a member of its group that has nothing else to do."""

    source = P0
    output = "results"
    largest = 1000

    def __init__(self, world: World) -> None:
        self._world = world
        world.broker.create_topic(self.output, 2)
        world.broker.max_message_bytes = self.largest
        fields: dict[str, Any] = {"delivery": "exactly_once", "transactional_id": "billing-0"}
        self._config = world.config(**fields)
        self._member = SimulatedClient(world.broker, self._config, "billing-0")
        world.broker.one_group.join(self._member)

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[SimulatedTransactions]:
        producer = self._world.transactional_producer(self._config)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.host)
            yield producer
            await producer.close()

    async def metadata(self) -> object:
        return GroupMetadata("billing-0", self._world.broker.one_group.generation)

    async def leave(self) -> None:
        self._world.broker.one_group.leave(self._member)

    async def seen(self) -> list[bytes]:
        return [record.value for record in self._world.broker.transactions.outputs]

    async def committed(self) -> tuple[int, str] | None:
        found = self._world.broker.one_group.offsets.get(P0)
        return None if found is None else (found[0], found[1] or "")


@pytest.mark.parametrize("clause", CONTRACT)
async def test_contract(autojump_clock: MockClock, world: World, clause: Callable[[Stage], Awaitable[None]]) -> None:
    """See the clause."""
    await clause(SimulatedStage(world))
