"""How far behind a group is, as the simulated broker tells it."""

from __future__ import annotations

import trio

from trio_parallel_kafka.testing import SimulatedBroker


async def test_lag(simulated_broker: SimulatedBroker, autojump_clock: trio.abc.Clock) -> None:
    """It is the number of records from the committed offset on, in all partitions; not of offsets, nor of topics."""
    broker = simulated_broker
    broker.create_topic("orders", 2)
    broker.create_topic("returns")
    assert broker.lag("billing", "orders") == 0
    for partition in (0, 0, 0, 1):
        broker.produce("orders", partition=partition)
    broker.produce("returns")
    assert broker.lag("billing", "orders") == 4
    broker.commit("billing", "orders", 0, 2)
    assert broker.lag("billing", "orders") == 2
    assert broker.lag("shipping", "orders") == 4
    broker.delete_records("orders", 1, before=1)
    broker.commit("billing", "orders", 0, 3)
    assert broker.lag("billing", "orders") == 0
