"""Handlers in threads, in real time: a limit of their own, and no way to stop one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from engines.live import IMPATIENCE, PATIENCE, Stage, is_through, until
from shell.failing import graveyard
from shell.kit import P0, P1, of

from trio_parallel_kafka import (
    Attempt,
    DeadLetterConfig,
    HandlerStuckError,
    HandlerTimeoutError,
    ParallelConsumer,
    ProducerRecord,
    Record,
    parallel_consumer,
)
from trio_parallel_kafka.config import RetryPolicy
from trio_parallel_kafka.control import rebalance
from trio_parallel_kafka.execution.engines.threads import ThreadEngine

THREADS: dict[str, Any] = {"execution_mode": "thread"}
SOON = 0.25
"""A ``handler_timeout`` for handlers that are to overrun it."""

POLICIES: dict[str, dict[str, Any]] = {
    "retry": {"retry": RetryPolicy(max_attempts=None, initial_backoff=0.0)},
    "skip": {"on_failure": "skip"},
    "dead letter": {"on_failure": "dead_letter", "dead_letter": DeadLetterConfig()},
}


class Threaded:
    """A plain handler that keeps ``held`` offsets, in their first attempt, until they are let go."""

    def __init__(self, *held: int) -> None:
        self.begun: list[tuple[int, int]] = []
        self.ended: list[tuple[int, int]] = []
        self.overlaps: list[int] = []
        self._gates = {offset: threading.Event() for offset in held}
        self._at_work: set[tuple[int, bytes]] = set()

    def __call__(self, record: Record) -> object:
        lane = record.partition, record.raw_key or b""
        if lane in self._at_work:
            self.overlaps.append(record.offset)
        self._at_work.add(lane)
        self.begun.append((record.offset, record.attempt))
        if record.attempt == 1 and record.offset in self._gates:
            assert self._gates[record.offset].wait(PATIENCE)
        self.ended.append((record.offset, record.attempt))
        self._at_work.discard(lane)
        return ProducerRecord("results", f"{record.offset}") if record.raw_value == b"send" else None

    def batch(self, records: Sequence[Record]) -> list[object]:
        """Handle them one after another."""
        return [self(record) for record in records]

    @property
    def offsets(self) -> list[int]:
        """What has begun."""
        return [offset for offset, _ in self.begun]

    def let_go(self) -> None:
        """Let all of them end."""
        for gate in self._gates.values():
            gate.set()

    @contextmanager
    def letting_go(self) -> Iterator[None]:
        """Do so at the end of a block, on every path: nothing could end before."""
        try:
            yield
        finally:
            self.let_go()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control plane doesn't wait long for handlers that won't end."""
    monkeypatch.setattr(rebalance, "SETTLE", IMPATIENCE)


def engine_says(pc: ParallelConsumer) -> tuple[int, int]:
    """Threads at work, and those of them that were given up."""
    engine = pc.statistics().engine
    return engine.busy, engine.abandoned


async def test_limit_is_the_engines_own(stage: Stage) -> None:
    """As many threads as ``max_concurrency`` run at once, more than Trio's default limit, which stays untouched."""
    count = 50
    default = trio.to_thread.current_default_thread_limiter()
    assert default.total_tokens < count
    barrier = threading.Barrier(count + 1, timeout=PATIENCE)
    stage.send(P0, [(None, "do")] * count)

    def handle(_record: Record) -> None:
        barrier.wait()

    async with stage.running(handle, max_concurrency=count, **THREADS) as pc:
        await until(lambda: pc.statistics().engine.busy == count)
        assert default.borrowed_tokens == 0
        await trio.to_thread.run_sync(barrier.wait)
        await until(is_through(pc, P0, count))
        assert engine_says(pc) == (0, 0)


async def test_default_limit_is_not_needed(stage: Stage) -> None:
    """Handlers run although all of the default limit is taken."""
    stage.send(P0, [("a", "do")])
    handle = Threaded()
    default = trio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(default.total_tokens))]
    for each in borrowers:
        default.acquire_on_behalf_of_nowait(each)
    async with stage.running(handle, **THREADS) as pc:
        await until(is_through(pc, P0, 1))
    for each in borrowers:
        default.release_on_behalf_of(each)
    assert handle.offsets == [0]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("method", [ParallelConsumer.run, ParallelConsumer.run_batches])
async def test_thread_that_goes_on(stage: Stage, method: Callable[..., Any], policy: str) -> None:
    """Neither the next attempt nor the next record of its lane begins before a thread ends whose time was up."""
    graveyard(stage)
    stage.send(P0, [("a", "send"), ("a", "do"), ("b", "do")])
    handle = Threaded(0)
    is_batch = method is ParallelConsumer.run_batches
    options = {"max_size": 1} if is_batch else {}
    handler = handle.batch if is_batch else handle
    with handle.letting_go():
        async with stage.running(
            handler, method=method, options=options, handler_timeout=SOON, **POLICIES[policy], **THREADS
        ) as pc:
            await until(lambda: engine_says(pc) == (1, 1) and 2 in handle.offsets)
            if policy != "retry":
                await until(is_through(pc, P0, 1))
            assert sorted(handle.offsets) == [0, 2]
            handle.let_go()
            await until(is_through(pc, P0, 3))
            await until(lambda: engine_says(pc) == (0, 0))
    assert not handle.overlaps
    begun = [each for each in handle.begun if each[0] < 2]
    assert begun == sorted(begun)
    assert ((0, 2) in begun) is (policy == "retry")
    results = [place for place, record in stage.outbox.sent if record.topic == "results"]
    assert results == ([(0, 0)] if policy == "retry" else [])  # a late result is dropped


@pytest.mark.parametrize("method", [ParallelConsumer.run, ParallelConsumer.run_batches])
async def test_thread_that_goes_on_counts(stage: Stage, method: Callable[..., Any]) -> None:
    """A thread that was given up keeps its place under the limit; others have what is left of it."""
    stage.send(P0, [("a", "do"), ("b", "do"), ("c", "do")])
    handle = Threaded(0)
    is_batch = method is ParallelConsumer.run_batches
    options = {"engine": ThreadEngine(1)} | ({"max_size": 1} if is_batch else {})
    handler = handle.batch if is_batch else handle
    with handle.letting_go():
        async with stage.running(
            handler, method=method, options=options, handler_timeout=SOON, on_failure="skip", max_concurrency=3
        ) as pc:
            await until(lambda: engine_says(pc) == (1, 1))
            await until(is_through(pc, P0, 1))
            assert handle.offsets == [0]
            assert pc.statistics().totals.failed == 1  # the time of those that wait doesn't run
            handle.let_go()
            await until(is_through(pc, P0, 3))
    assert sorted(handle.offsets) == [0, 1, 2]


async def test_revoked_thread(stage: Stage, impatient: None, caplog: pytest.LogCaptureFixture) -> None:
    """Its partition is let go without it; its completion is fenced; the partition that comes back waits for it."""
    stage.send(P0, [("a", "send"), ("a", "do")])
    stage.send(P1, [("a", "do")])
    handle = Threaded(0)
    with handle.letting_go():
        async with stage.running(handle, revoke_grace=0.0, **THREADS) as pc:
            await until(lambda: 0 in handle.offsets)
            await stage.rebalance(revoke=[P0])
            assert "doesn't react to its cancellation" in caplog.text
            assert engine_says(pc)[1] == 1
            await stage.rebalance(assign=[P0])
            assert of(pc, P0).phase == "starting"
            assert (0, 1) not in handle.ended[1:]
            handle.let_go()
            await until(is_through(pc, P0, 2))
            assert engine_says(pc) == (0, 0)
    assert not handle.overlaps
    assert stage.outbox.places == [(0, 0)]  # of the second tenure alone
    assert stage.committed(P0) == 2


async def test_lost_thread_is_not_committed(stage: Stage, impatient: None) -> None:
    """What a thread completes of a partition that was lost is neither counted nor committed."""
    stage.send(P0, [("a", "do")])
    handle = Threaded(0)
    with handle.letting_go():
        async with stage.running(handle, **THREADS) as pc:
            await until(lambda: handle.begun)
            await stage.rebalance(lose=[P0])
            handle.let_go()
            await until(lambda: engine_says(pc) == (0, 0))
            assert pc.statistics().totals.completed == 0
    assert stage.committed(P0) in {None, 0}


async def test_leaving_the_block_waits_and_names(stage: Stage, impatient: None) -> None:
    """A cancelled block isn't left before its threads have ended; the error names what they were on."""
    stage.send(P0, [("a", "do"), ("a", "do")])
    handle = Threaded(0)
    with handle.letting_go(), trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def let_go() -> None:
                await until(lambda: handle.begun)
                await stage.client.ended.wait()  # all else is done
                assert engine_says(pc) == (1, 1)
                handle.let_go()

            async def cancel() -> None:
                await until(lambda: handle.begun)
                scope.cancel()

            nursery.start_soon(let_go)
            nursery.start_soon(cancel)
            with pytest.raises(HandlerStuckError, match=r"<Record orders\[0\]@0"), trio.CancelScope() as scope:
                async with parallel_consumer(stage.config(**THREADS)) as pc:
                    await pc.run(handle)
            assert handle.ended == [(0, 1)]
    assert engine_says(pc) == (0, 0)
    assert handle.offsets == [0]
    assert stage.committed(P0) in {None, 0}


async def test_thread_may_ask_whether_it_was_given_up(stage: Stage) -> None:
    """``trio.from_thread.check_cancelled`` raises in a handler that was given up, and so ends it."""
    stage.send(P0, [("a", "do"), ("a", "do")])
    asked: list[int] = []
    tick = threading.Event()

    def handle(record: Record) -> None:
        while record.offset == 0:
            trio.from_thread.check_cancelled()
            asked.append(record.attempt)
            tick.wait(0.001)

    async with stage.running(handle, handler_timeout=SOON, on_failure="skip", **THREADS) as pc:
        await until(is_through(pc, P0, 2))
        assert engine_says(pc) == (0, 0)
        assert pc.statistics().totals.skipped >= 1
    assert set(asked) == {1}


async def test_thread_may_call_the_loop(stage: Stage) -> None:
    """A handler in a thread reaches the consumer's run by ``trio.from_thread``."""
    stage.send(P0, [("a", "do")])
    seen: list[object] = []

    def handle(record: Record) -> None:
        seen.append(trio.from_thread.run_sync(trio.lowlevel.current_task).name)
        trio.from_thread.run(trio.sleep, 0)

    async with stage.running(handle, **THREADS) as pc:
        await until(is_through(pc, P0, 1))
    assert len(seen) == 1


async def test_thread_that_ends_as_it_is_cancelled() -> None:
    """A call that is cancelled leaves nothing to wait for once its thread has ended, and tells so if it hasn't."""
    gate = threading.Event()
    engine = ThreadEngine(1)
    attempt = Attempt(None)
    with trio.fail_after(PATIENCE):
        async with engine.open(lambda _given: gate.wait(PATIENCE)) as execute:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(execute, "a", attempt)
                    await until(lambda: engine.statistics().busy)
                    scope.cancel()
            assert attempt.ended is not None
            assert not attempt.ended.is_set()
            assert engine.statistics().busy == 1
            gate.set()
            await attempt.ended.wait()
            assert engine.statistics().busy == 0


async def test_timeout_says_so(stage: Stage) -> None:
    """The failure that ends the run is the timeout; the thread is waited for within ``shutdown_timeout``."""
    stage.send(P0, [("a", "do"), ("a", "do")])
    handle = Threaded(0)
    with (
        handle.letting_go(),
        pytest.RaisesGroup(pytest.RaisesGroup(pytest.RaisesExc(HandlerTimeoutError, match="handler_timeout"))),
    ):
        async with stage.running(handle, handler_timeout=SOON, **THREADS) as pc:
            await until(lambda: pc.statistics().state == "draining")
            handle.let_go()
            await trio.sleep_forever()
    assert handle.offsets == [0]
