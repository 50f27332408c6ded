"""The programs in examples/ work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from embedded.kit import PATIENCE, send

from trio_parallel_kafka.testing import EmbeddedBroker

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_graceful(embedded_broker: EmbeddedBroker) -> None:
    """It handles what is there, drains on SIGTERM and ends well."""
    send(embedded_broker, 20)
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": embedded_broker.bootstrap_servers,
        "KAFKA_CONSUMER_GROUP": "billing",
        "KAFKA_TOPICS": "orders",
        "PARALLEL_CONSUMER_KAFKA_GROUP_PROTOCOL": "consumer",
    }
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "graceful.py")], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        handled = {process.stdout.readline().split()[0] for _ in range(20)}
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert handled == {f"orders[{number % 2}]@{number // 2}" for number in range(20)}
