"""A member in a process of its own: one that stays, or one that comes and goes.

``python -m soak.member stays|visits EVERY LEDGER KEYS CONFIG``: it handles records and notes that in the ledger, and
writes a sample of itself as a line of JSON every ``EVERY`` seconds; one that visits does so once before each visit,
when nothing of the last should be left. Now and then a handler takes its time, or fails once. ``SIGTERM`` ends it in
good order.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path
from typing import Final

import trio
from broker.recorder import number_of
from soak.ledger import Ledger
from soak.samples import Sample

from trio_parallel_kafka import ConsumerConfig, ParallelConsumer, Record, parallel_consumer

VISIT: Final = 15.0
"""Seconds that a visit lasts, and that lie between two."""

WAITS: Final = 100
FAILS: Final = 1_000
"""One record in so many waits, or fails once."""

LONGEST_WAIT: Final = 0.02


class HiccupError(Exception):
    """What a handler raises in the first attempt at some records."""


class Member:
    """Both kinds.

    Args:
        config: the consumer's.
        ledger: where it is noted what is done.
        every: seconds between two samples.
    """

    def __init__(self, config: ConsumerConfig, ledger: Ledger, every: float) -> None:
        self._config = config
        self._ledger = ledger
        self._every = every
        self.stopping = trio.Event()

    async def stay(self) -> None:
        """Be a member until stopped."""
        async with parallel_consumer(self._config) as pc, trio.open_nursery() as nursery:
            nursery.start_soon(self._sample_regularly, pc)
            async with trio.open_nursery() as running:
                running.start_soon(pc.run, self._handle)
                await self.stopping.wait()
                pc.stop()
            nursery.cancel_scope.cancel()

    async def visit(self) -> None:
        """Be a member now and then until stopped."""
        while not self.stopping.is_set():
            with trio.move_on_after(VISIT):
                await self.stopping.wait()
            self._sample(None)
            async with parallel_consumer(self._config) as pc, trio.open_nursery() as running:
                running.start_soon(pc.run, self._handle)
                with trio.move_on_after(VISIT):
                    await self.stopping.wait()
                pc.stop()

    async def _handle(self, record: Record) -> None:
        number = number_of(record)
        with self._ledger.handling(number):
            if number % WAITS == 0:
                await trio.sleep(random.uniform(0, LONGEST_WAIT))
            if number % FAILS == 1 and record.attempt == 1:
                raise HiccupError

    async def _sample_regularly(self, pc: ParallelConsumer) -> None:
        while True:
            await trio.sleep(self._every)
            self._sample(pc)

    def _sample(self, pc: ParallelConsumer | None) -> None:
        print(Sample.take(pc, self._ledger.faults).to_json(), flush=True)


async def main(kind: str, every: str, path: str, keys: str, config: str) -> None:
    """Be a member until ``SIGTERM``."""
    with Ledger(Path(path), int(keys)) as ledger, trio.open_signal_receiver(signal.SIGTERM) as signals:
        member = Member(ConsumerConfig.from_mapping(json.loads(config)), ledger, float(every))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.stay if kind == "stays" else member.visit)
            async for _ in signals:
                member.stopping.set()
                break


if __name__ == "__main__":
    _, KIND, EVERY, PATH, KEYS, CONFIG = sys.argv
    trio.run(main, KIND, EVERY, PATH, KEYS, CONFIG)
