"""The embedded broker keeps the contract, as far as it goes."""

from __future__ import annotations

from typing import Final

import pytest
import trio
from contract.clauses import CLAUSES, REBALANCING
from contract.faults import FAULTS, FaultClause
from contract.librdkafka_stage import EmbeddedStage
from contract.reading import deleted_records
from contract.stage import PATIENCE, Clause
from contract.transacting import TRANSACTING

from trio_parallel_kafka.testing import open_embedded_broker

BEYOND_IT: Final = {deleted_records, *TRANSACTING}
"""It can't be asked to delete records, loses the offsets of transactions, and shuts out no earlier producer."""


@pytest.mark.parametrize("clause", [each for each in (*CLAUSES, *REBALANCING) if each not in BEYOND_IT])
async def test_contract(clause: Clause) -> None:
    """See the clause. Rebalancing is that of the consumer protocol: classic groups take it seconds."""
    with open_embedded_broker() as broker, trio.fail_after(PATIENCE):
        await clause(EmbeddedStage(broker))


@pytest.mark.parametrize("clause", FAULTS)
async def test_faults(clause: FaultClause) -> None:
    """See the clause."""
    with open_embedded_broker() as broker, trio.fail_after(PATIENCE):
        await clause(EmbeddedStage(broker))
