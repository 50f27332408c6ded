"""A consumer on the fake broker in real time: threads and processes know no other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from engines.journal import VARIABLE, Journal
from shell.fake_outbox import FakeOutbox
from shell.kit import NEVER, World, of

from trio_parallel_kafka import ParallelConsumer, parallel_consumer
from trio_parallel_kafka.core.assignments import TopicPartition

PATIENCE: Final = 60.0
"""Seconds after which a test hangs for certain."""

IMPATIENCE: Final = 0.05
"""Seconds that the control plane waits for cancelled handlers, where a test knows that they won't end."""

Gates = Iterable[str]


class Stage(World):
    """A fake broker, where results go, and the handlers' journal."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.journal = Journal(folder)
        self.outbox = FakeOutbox()

    def send(self, partition: TopicPartition, records: Iterable[tuple[str | None, str]]) -> None:
        """Produce records, each with its key and what the handler is to do."""
        for key, command in records:
            self.broker.add(partition, [key], value=command.encode())

    @asynccontextmanager
    async def running(
        self,
        handler: Any,
        *,
        opens: Gates = (),
        method: Callable[..., Any] = ParallelConsumer.run,
        options: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> AsyncIterator[ParallelConsumer]:
        """Consume for the length of the block, then stop gracefully; these gates are open by its end at the latest."""
        with trio.fail_after(PATIENCE):
            async with (
                parallel_consumer(self.config(commit_interval=NEVER, **fields)) as pc,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(lambda: method(pc, handler, **(options or {})))
                try:
                    yield pc
                    pc.stop()
                finally:
                    for gate in opens:
                        self.journal.open(gate)


@contextmanager
def live_stage(folder: Path) -> Iterator[Stage]:
    """Have consumers find a fake broker and outbox, and handlers their journal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder))
        stage = Stage(folder)
        patch.setattr("trio_parallel_kafka.control.controller.ProducerOutbox", stage.outbox)
        with stage.found():
            yield stage


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    while not condition():
        await trio.sleep(0.002)


def is_through(pc: ParallelConsumer, partition: TopicPartition, position: int) -> Callable[[], bool]:
    """Whether all below an offset is completed."""
    return lambda: bool(pc.statistics().partitions) and (of(pc, partition).position or 0) >= position
