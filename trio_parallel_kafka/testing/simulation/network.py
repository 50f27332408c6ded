"""What is between clients and the simulated broker: time, errors by script, and whether the broker is there at all."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Final

import trio
from confluent_kafka import KafkaError as ClientError

APIS: Final = frozenset(
    {
        "AddOffsetsToTxn",
        "DescribeTopicPartitions",
        "EndTxn",
        "InitProducerId",
        "JoinGroup",
        "ListOffsets",
        "Metadata",
        "OffsetCommit",
        "OffsetFetch",
        "Produce",
    }
)
"""The requests that the simulated broker answers, by Kafka's names."""

REQUEST_TIMEOUT: Final = 3.0
"""Seconds for which a question waits for a broker that is down."""


class Network:
    """Carries requests.

    Attributes:
        requests: how many came so far, by their names.
        is_down: whether the broker is away.
        errors: what the next requests of a name are answered with, in order; ``None`` lets one pass.
        delays: seconds that answers to a name take.
        latency: asked for the seconds that a request of a name, and its answer, take besides.
    """

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.errors: Final[dict[str, deque[ClientError | None]]] = defaultdict(deque)
        self.delays: Final[dict[str, float]] = defaultdict(float)
        self.latency: Callable[[str], float] = lambda _api: 0.0
        self.is_down: bool = False
        self._is_back: Final = trio.lowlevel.ParkingLot()

    async def request(self, api: str, patience: float = REQUEST_TIMEOUT) -> ClientError | None:
        """Let a request get to the broker; return the error that it is to be answered with."""
        self.requests[api] += 1
        await trio.sleep(self.latency(api))
        if self.is_down:
            with trio.move_on_after(patience):
                while self.is_down:
                    await self._is_back.park()
        return ClientError(ClientError._TRANSPORT) if self.is_down else self.next_error(api)  # noqa: SLF001 - its name

    async def answer(self, api: str) -> None:
        """Let the answer get back."""
        if (seconds := self.delays[api] + self.latency(api)) > 0:
            await trio.sleep(seconds)

    def next_error(self, api: str) -> ClientError | None:
        """Use up what the next request is to be answered with."""
        return self.errors[api].popleft() if self.errors[api] else None

    def down(self) -> None:
        """Answer nothing until :meth:`up`."""
        self.is_down = True

    def up(self) -> None:
        """Answer again."""
        self.is_down = False
        self._is_back.unpark_all()


def checked(api: str) -> str:
    """The name of a request.

    Raises:
        ValueError: there is none of that name.
    """
    if api not in APIS:
        raise ValueError(f"unknown request {api!r}; known are {', '.join(sorted(APIS))}")
    return api
