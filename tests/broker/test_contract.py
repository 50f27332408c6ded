"""Kafka itself keeps the contract that the simulated and the embedded broker are held against."""

from __future__ import annotations

import pytest
import trio
from broker.cluster import Cluster
from contract.clauses import CLAUSES, REBALANCING
from contract.librdkafka_stage import LibrdkafkaStage
from contract.stage import PATIENCE, PROTOCOLS, Clause

CLASSIC = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 100}


class RealStage(LibrdkafkaStage):
    """A cluster that others use, too."""

    def __init__(self, kafka: Cluster, protocol: str) -> None:
        super().__init__(kafka.bootstrap_servers, protocol, {} if protocol == "consumer" else CLASSIC)
        self._kafka = kafka

    def unique(self, name: str) -> str:
        return self._kafka.unique(name)

    async def create_topic(self, name: str, partitions: int) -> None:
        await trio.to_thread.run_sync(self._kafka.create_topic, name, partitions)

    async def delete_records(self, topic: str, partition: int, before: int) -> None:
        await trio.to_thread.run_sync(self._kafka.delete_records_before, topic, {partition: before})


@pytest.mark.parametrize("clause", CLAUSES)
async def test_contract(kafka: Cluster, clause: Clause) -> None:
    """See the clause."""
    with trio.fail_after(PATIENCE):
        await clause(RealStage(kafka, "consumer"))


@pytest.mark.parametrize("clause", REBALANCING)
async def test_rebalancing(kafka: Cluster, clause: Clause) -> None:
    """See the clause; under all protocols at once, since it waits for the most part."""

    async def keep(protocol: str) -> None:
        try:
            await clause(RealStage(kafka, protocol))
        except Exception as error:
            error.add_note(f"under the protocol {protocol}")
            raise

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for protocol in PROTOCOLS:
                nursery.start_soon(keep, protocol)
