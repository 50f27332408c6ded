"""The simulated broker keeps the contract, in whatever order its tasks run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio
from contract.clauses import CLAUSES, REBALANCING
from contract.faults import FAULTS, FaultClause
from contract.simulated_stage import SimulatedStage
from contract.stage import PATIENCE, PROTOCOLS, Clause

from trio_parallel_kafka.testing.simulation import open_simulated_broker, simulate

SEEDS: Final = range(3)


async def keep(clause: Callable[[SimulatedStage], Awaitable[None]], protocol: str) -> None:
    """Hold the simulated broker against a clause."""
    with trio.fail_after(PATIENCE):
        async with open_simulated_broker() as broker:
            await clause(SimulatedStage(broker, protocol))


@pytest.mark.parametrize("clause", CLAUSES)
def test_contract(clause: Clause) -> None:
    """See the clause."""
    for seed in SEEDS:
        simulate(keep, clause, "consumer", seed=seed)


@pytest.mark.parametrize("clause", FAULTS)
def test_faults(clause: FaultClause) -> None:
    """See the clause."""
    for seed in SEEDS:
        simulate(keep, clause, "consumer", seed=seed)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("clause", REBALANCING)
def test_rebalancing(clause: Clause, protocol: str) -> None:
    """See the clause."""
    for seed in SEEDS:
        simulate(keep, clause, protocol, seed=seed)
