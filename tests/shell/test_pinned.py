"""Faults that were found by misusing the consumer, each pinned by what went wrong."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

import pytest
import trio
from shell.kit import P0, Handling, World
from trio.testing import MockClock

from trio_parallel_kafka import Record


class Incomparable:
    """A key like none that ever was: equal hashes, and no answer whether it equals another."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise ValueError("can't be compared")


def coroutine(record: Record) -> object:
    """What a lambda around an async function returns."""

    async def key() -> bytes | None:
        return record.key

    return key()


@pytest.mark.parametrize(
    ("key_of", "failed"),
    [(lambda _record: Incomparable(), 1), (coroutine, 0)],
    ids=["incomparable", "coroutine"],
)
async def test_key_that_is_none_is_a_failure_of_its_record(
    autojump_clock: MockClock, world: World, key_of: Callable[[Record], object], failed: int
) -> None:
    """A key that can't be compared crashed the consumer without a note; a coroutine cost all records their order."""
    world.broker.add(P0, ["a", "a", "a"])
    handle = Handling(work=1.0)
    either = pytest.RaisesExc(check=lambda error: isinstance(error, ValueError | TypeError))
    with pytest.RaisesGroup(pytest.RaisesGroup(either)) as caught:
        async with world.consuming(handle, key_of=key_of):
            await trio.sleep(5)
    (failure,) = caught.value.exceptions
    assert isinstance(failure, ExceptionGroup)
    (note,) = failure.exceptions[0].__notes__
    assert f"offset={failed} " in note
    assert world.committed(P0) in {None, 0, failed}


async def test_nothing_is_fetched_behind_a_failure(autojump_clock: MockClock, world: World) -> None:
    """While handlers drain after a failure nothing is taken; a broken ``key_of`` failed on every record till then."""
    world.broker.add(P0, ["slow"])
    handle = Handling(work=20.0)

    def key_of(record: Record) -> bytes | None:
        if record.key == b"bad":
            raise ValueError
        return record.key

    with pytest.RaisesGroup(pytest.RaisesGroup(ValueError)):
        async with world.consuming(handle, key_of=key_of) as pc:
            await trio.sleep(1)
            world.broker.add(P0, ["bad"] * 10)
            await trio.sleep(1)
            world.broker.add(P0, ["bad", "late"])
            await trio.sleep(1)
            assert pc.statistics().totals.received == 11
            await trio.sleep_forever()
    assert handle.offsets(P0) == [0]
    assert world.committed(P0) == 1


class Interrupter(logging.Handler):
    """Presses Ctrl-C at a log line."""

    def emit(self, _record: logging.LogRecord) -> None:
        signal.raise_signal(signal.SIGINT)


def test_interrupt_while_the_control_plane_is_at_work() -> None:
    """Ctrl-C that strikes in the control plane's own code ended it, and what completed wasn't committed."""
    world = World()
    world.broker.add(P0, ["a", "b"])

    async def main() -> None:
        async with world.consuming(Handling(held={1}), commit_interval=1000.0, stall_warning=3.0):
            await trio.sleep_forever()

    interrupter = Interrupter()
    log = logging.getLogger("trio_parallel_kafka.control")
    log.addHandler(interrupter)
    try:
        with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True), world.found():
            trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        log.removeHandler(interrupter)
    assert world.committed(P0) == 1


async def test_stop_within_the_grace_of_a_revoke(autojump_clock: MockClock, world: World) -> None:
    """Leaving cuts a grace; the partition was let go while the cancelled handler still cleaned up."""
    world.broker.add(P0, ["a"])
    ended = let_go = 0.0

    async def handle(_record: Record) -> None:
        nonlocal ended
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.7)
            ended = trio.current_time()

    async def revoke() -> None:
        nonlocal let_go
        await world.rebalance(revoke=[P0])
        let_go = trio.current_time()

    async with trio.open_nursery() as nursery, world.consuming(handle, revoke_grace=50.0, shutdown_timeout=1.0):
        await trio.sleep(1)
        nursery.start_soon(revoke)
        await trio.sleep(1)
    assert 0.0 < ended <= let_go
