"""Runs by seed, in virtual time."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Final

import pytest
import trio
from trio._core import _run

from trio_parallel_kafka.testing import seeded, simulate

SEEDS: Final = range(8)


def test_trio_has_the_names_that_are_used() -> None:
    """The private names of Trio that seeding relies on are there, and are what they were."""
    assert isinstance(_run._r, random.Random)
    assert isinstance(_run._ALLOW_DETERMINISTIC_SCHEDULING, bool)


async def order() -> list[int]:
    """In which order tasks run that are ready at once."""
    ran: list[int] = []

    async def run(number: int) -> None:
        await trio.lowlevel.checkpoint()
        ran.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(run, number)
    return ran


async def chances() -> list[float]:
    """What the module ``random`` gives."""
    await trio.lowlevel.checkpoint()
    return [random.random() for _ in range(3)]


@pytest.mark.parametrize("look", [order, chances])
def test_a_seed_is_a_course(look: Callable[[], object]) -> None:
    """The same seed gives the same order of tasks and the same chance, others give others."""

    def courses() -> list[object]:
        return [simulate(look, seed=seed) for seed in SEEDS]  # type: ignore[arg-type]  # it is async

    found = courses()
    assert found == courses()
    assert len({str(course) for course in found}) > len(SEEDS) // 2


def test_nothing_stays_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the block, chance goes on as if there had been none, also when the block fails."""
    monkeypatch.setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", False)

    def state() -> object:
        return _run._r.getstate(), random.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING

    before = state()
    with seeded(1):
        assert _run._ALLOW_DETERMINISTIC_SCHEDULING is True
        within = state()
        random.random()
        _run._r.random()
    assert state() == before
    with pytest.raises(ZeroDivisionError), seeded(1):
        random.seed(1 // 0)
    assert state() == before
    with seeded(2), seeded(1):
        assert state() == within


def test_time_passes_at_once() -> None:
    """A month takes no time; arguments are handed over, and what is returned comes back."""

    async def wait(days: int) -> float:
        began = trio.current_time()
        await trio.sleep(days * 86_400)
        return trio.current_time() - began

    assert simulate(wait, 30) == pytest.approx(30 * 86_400)


def test_a_failure_names_its_seed() -> None:
    """What a run raises leaves as it is, with a note that tells how to repeat it."""

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("in the run")

    with pytest.raises(ZeroDivisionError, match="in the run") as caught:
        simulate(fail, seed=77)
    assert caught.value.__notes__ == ["simulated with seed 77"]


COURSE: Final = """
import hashlib, random, trio
from trio_parallel_kafka import ConsumerConfig, ProducerRecord, RetryPolicy, parallel_consumer
from trio_parallel_kafka.testing import SimulatedProcess, open_simulated_broker, simulate

async def main():
    steps = []

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task):
            steps.append((trio.current_time(), task.name))

    trio.lowlevel.add_instrument(Steps())
    topics = {"orders": 5, "refunds": 3, "orders.dlt": 2, "refunds.dlt": 2, "out": 2}
    async with open_simulated_broker(topics) as broker:
        broker.network.latency = lambda api: random.random() / 50
        for number in range(80):
            broker.produce(("orders", "refunds")[number % 2], str(number), key=f"k{number % 7}")

        async def handle(record):
            await trio.sleep(random.random() / 5)
            if random.random() < 0.1:
                raise ValueError(record.offset)
            return ProducerRecord("out", record.value, key=record.key)

        async def live(name):
            config = ConsumerConfig(
                bootstrap_servers="any:1", group_id="g", topics=["orders", "refunds"], max_concurrency=4,
                retry=RetryPolicy(max_attempts=2), on_failure="dead_letter", max_buffered_records=10,
                kafka={"client.id": name, "session.timeout.ms": 6000, "partition.assignment.strategy": "range"},
            )
            async with parallel_consumer(config) as pc:
                await pc.run(broker.history.watch(handle, name, config=config))

        processes = [SimulatedProcess() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for number, process in enumerate(processes):
                nursery.start_soon(process.run, live, f"m{number}")
                await trio.sleep(0.5)
            broker.down()
            await trio.sleep(1)
            broker.up()
            processes[1].kill()
            await trio.sleep(8)
            nursery.cancel_scope.cancel()
        steps += map(repr, broker.history.events)
    return hashlib.sha256(repr(steps).encode()).hexdigest()

for seed in (1, 1, 2):
    print(simulate(main, seed=seed))
"""


def test_a_whole_consumer_takes_the_same_course() -> None:
    """Each step of each task, with its time, in whatever interpreter and whatever the order of its sets; by seed."""
    courses, again = (_output(COURSE, hash_seed=hash_seed) for hash_seed in ("1", "2"))
    assert courses == again
    first, repeated, other = courses
    assert first == repeated != other


def _output(program: str, hash_seed: str) -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-W", "ignore", "-c", f"import logging\nlogging.disable()\n{program}"]
    ran = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return ran.stdout.split()
