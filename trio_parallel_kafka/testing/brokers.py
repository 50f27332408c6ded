"""What the brokers that tests run against have in common."""

from __future__ import annotations

from typing import Protocol


class Broker(Protocol):
    """A broker to test against: simulated, embedded or real.

    What is tested with this alone runs against any of them. Records are produced by :func:`.open_producer`.
    """

    @property
    def bootstrap_servers(self) -> str:
        """Where consumers and producers find it, for their configuration."""

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Make a topic."""
