"""The cluster that all systems read from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from broker.cluster import Cluster
from broker.kafka_server import KafkaServer

SETTINGS: Final = {
    # Members that start together join together: none has everything first, to hand half of it over.
    "group.initial.rebalance.delay.ms": "500",
    "log.cleaner.backoff.ms": "15000",
    "log.retention.check.interval.ms": "60000",
}
"""Over those for tests."""


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """The cluster that the user named, or a broker that runs for the length of the block.

    Args:
        folder: where its data go.

    Raises:
        BrokerStartError: it doesn't start.
    """
    given = os.environ.get("TPK_BOOTSTRAP_SERVERS")
    if given:
        kafka = Cluster(given)
        yield kafka
        kafka.clean_up()
    else:
        with KafkaServer.start(folder / "kafka", properties=SETTINGS) as server:
            yield Cluster(server.bootstrap_servers)
