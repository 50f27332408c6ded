"""What every execution engine does, and what the consumer makes of it, whichever runs the handlers.

``from engines.engine_contract import CONTRACT, KINDS``: functions of a :class:`Stage` and a :class:`Kind`.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import attrs
import pytest
import trio
import trio.testing
from engines import contract_handlers
from engines.live import IMPATIENCE, PATIENCE, Stage, is_through, until
from shell.kit import P0, P1, of

from trio_parallel_kafka import HandlerTimeoutError, InvalidHandlerError, ParallelConsumer, Record, parallel_consumer
from trio_parallel_kafka.config import RetryPolicy
from trio_parallel_kafka.control import rebalance
from trio_parallel_kafka.execution.engine import Attempt, ExecutionEngine
from trio_parallel_kafka.execution.engines.processes import ProcessEngine
from trio_parallel_kafka.execution.engines.threads import ThreadEngine

AT_ONCE: Final = RetryPolicy(max_attempts=None, initial_backoff=0.0)


@attrs.frozen
class Kind:
    """An engine, and handlers that it can run.

    Attributes:
        mode: what the configuration calls it.
        is_plain: its handlers are plain functions.
        wrong: what it refuses as a handler.
        narrow: makes an engine of this kind that can run one handler at a time; ``None``: there is none.
        can_stop: it can end a handler that doesn't look at its cancellation.
    """

    mode: str
    is_plain: bool
    wrong: Sequence[Any]
    narrow: Callable[[], ExecutionEngine] | None = None
    can_stop: bool = True

    def __str__(self) -> str:
        return self.mode if self.is_plain == (self.mode != "async") else f"{self.mode}-of-async"

    @property
    def fields(self) -> dict[str, Any]:
        """The configuration."""
        return {"execution_mode": self.mode, "process_workers": 2}

    @property
    def handler(self) -> Any:
        """A handler of records."""
        return getattr(contract_handlers, "handle" if self.is_plain else "handle_async")

    @property
    def batch_handler(self) -> Any:
        """A handler of batches."""
        return getattr(contract_handlers, "handle_batch" if self.is_plain else "handle_batch_async")


NOWHERE: Final = ("nowhere:handle", "engines.contract_handlers:nothing", "engines.contract_handlers")

KINDS: Final = [
    Kind("async", is_plain=False, wrong=[None, contract_handlers.handle, lambda _record: None, *NOWHERE]),
    Kind(
        "thread",
        is_plain=True,
        wrong=[None, contract_handlers.handle_async, *NOWHERE],
        narrow=lambda: ThreadEngine(1),
        can_stop=False,
    ),
    Kind("process", is_plain=True, wrong=[None, 42, lambda _record: None], narrow=lambda: ProcessEngine(1)),
]

ASYNC_IN_PROCESSES: Final = Kind("process", is_plain=False, wrong=())


def given_up(kind: Kind) -> int:
    """How many handlers go on where one was given up."""
    return 0 if kind.can_stop else 1


async def batches_and_their_outcomes(stage: Stage, kind: Kind) -> None:
    """A batch handler's outcomes decide about each record; what it raises, about all; deserialisers come before."""
    stage.send(P0, [("a", "do"), ("b", "send"), ("c", "skip"), ("d", "retry 1"), ("e", "fail 1"), ("f", "garbled")])
    stage.send(P1, [("a", "do"), ("a", "raise 2"), ("a", "do"), ("b", "several")])

    def decode(data: bytes | None, _context: object) -> str:
        text = (data or b"").decode()
        if text == "garbled":
            raise ValueError(text)
        return text.upper()

    def may_retry(error: Exception) -> bool:
        return isinstance(error, contract_handlers.HandlerError)

    policy = RetryPolicy(max_attempts=None, initial_backoff=0.0, retry_on=may_retry)
    async with stage.running(
        kind.batch_handler,
        method=ParallelConsumer.run_batches,
        retry=policy,
        on_failure="skip",
        deserialize_value=decode,
        **kind.fields,
    ) as pc:
        await until(lambda: is_through(pc, P0, 6)() and is_through(pc, P1, 4)())
        totals = pc.statistics().totals
    assert [stage.journal.attempts(0, offset) for offset in range(6)] == [[1], [1], [1], [1, 2], [1, 2], []]
    assert [stage.journal.attempts(1, offset) for offset in range(4)] == [[1, 2, 3]] * 4
    assert not stage.journal.overlaps()
    assert (totals.completed, totals.skipped, totals.retried) == (10, 2, 10)
    sent = [(place, record.value) for place, record in stage.outbox.sent]
    assert sorted(sent) == [((0, 1), "'SEND'"), ((1, 3), "0"), ((1, 3), "1")]


async def final_failure_stops(stage: Stage, kind: Kind) -> None:
    """An exception arrives with type, message and traceback and ends the run; others finish what they have begun."""
    stage.send(P1, [("a", "hold gate")])
    with pytest.RaisesGroup(pytest.RaisesGroup(contract_handlers.HandlerError)) as caught:
        async with stage.running(kind.handler, **kind.fields) as pc:
            await until(lambda: stage.journal.begun(1))
            stage.send(P0, [("a", "fail 9"), ("a", "do")])
            with trio.CancelScope(shield=True):
                await until(lambda: pc.statistics().state == "draining")
                assert stage.journal.running()
                stage.journal.open("gate")
            await trio.sleep_forever()
    error = caught.value.exceptions[0].exceptions[0]
    assert error.args == ("it is bad", 0)
    assert "offset=0" in error.__notes__[-1]
    shown = "".join(traceback.format_exception(error))
    assert "contract_handlers.py" in shown
    assert "in _act" in shown
    assert stage.journal.begun(0) == [0]
    assert (stage.committed(P0) or 0, stage.committed(P1)) == (0, 1)


async def timeout_is_a_failed_attempt(stage: Stage, kind: Kind) -> None:
    """An attempt that takes too long has failed; the next never runs beside it, nor do records behind it."""
    stage.send(P0, [("a", "hang gate"), ("a", "do")])
    failures: list[Exception] = []

    def note(error: Exception) -> bool:
        failures.append(error)
        return True

    policy = RetryPolicy(max_attempts=None, initial_backoff=0.0, retry_on=note)
    async with stage.running(kind.handler, opens=["gate"], handler_timeout=0.3, retry=policy, **kind.fields) as pc:
        await until(lambda: failures and pc.statistics().engine.abandoned == given_up(kind))
        if not kind.can_stop:
            assert stage.journal.begun(0) == [0]
        assert pc.statistics().totals.failed >= 1
        stage.journal.open("gate")
        await until(is_through(pc, P0, 2))
        assert pc.statistics().totals.failed == len(failures)
    assert {type(each) for each in failures} == {HandlerTimeoutError}
    assert "0.3 s (handler_timeout)" in str(failures[0])
    assert stage.journal.attempts(0, 0) == list(range(1, len(stage.journal.attempts(0, 0)) + 1))
    assert len(stage.journal.attempts(0, 0)) > 1
    assert not stage.journal.overlaps()


async def stop_drains(stage: Stage, kind: Kind) -> None:
    """A stop lets handlers finish that run; nothing new begins once the run has ended; all of it is committed."""
    stage.send(P0, [("a", "hold gate"), ("b", "do")])
    async with stage.running(kind.handler, **kind.fields) as pc:
        await until(lambda: stage.journal.begun(0))
        assert pc.statistics().engine.mode == kind.mode
        await until(lambda: pc.statistics().engine.busy >= (kind.mode != "async"))
        pc.stop()
        await until(lambda: pc.statistics().state == "draining")
        await until(lambda: len(stage.journal.begun(0)) == 2)
        assert stage.journal.running()
        stage.journal.open("gate")
    assert pc.statistics().state == "closed"
    assert pc.statistics().engine.busy == 0
    assert stage.committed(P0) == 2
    assert [each.what for each in stage.journal.entries()].count("ended") == 2


async def cancelled_block(stage: Stage, kind: Kind) -> None:
    """Once a cancelled block is left no handler runs; what was completed is committed, what was cut off isn't."""
    stage.send(P0, [("a", "do"), ("a", "hold gate")])
    with trio.CancelScope() as scope:
        async with stage.running(kind.handler, opens=["gate"], **kind.fields) as pc:
            await until(lambda: len(stage.journal.begun(0)) == 2)
            scope.cancel()
    assert scope.cancelled_caught
    assert not stage.journal.running()
    assert (stage.committed(P0), pc.statistics().totals.completed) == (1, 1)
    assert pc.statistics().engine.abandoned == 0


async def revoke_within_grace(stage: Stage, kind: Kind) -> None:
    """A handler that ends within the grace of a revoke counts; what waits behind it isn't begun."""
    stage.send(P0, [("a", "hold gate"), ("a", "do")])
    async with (
        stage.running(kind.handler, opens=["gate"], revoke_grace=PATIENCE, **kind.fields) as pc,
        trio.open_nursery() as nursery,
    ):
        await until(lambda: stage.journal.begun(0))
        nursery.start_soon(lambda: stage.rebalance(revoke=[P0]))
        await until(lambda: of(pc, P0).phase == "revoking")
        assert stage.journal.running()
        stage.journal.open("gate")
        await until(lambda: P0 not in stage.client.owned)
        assert stage.committed(P0) == 1
        assert not stage.journal.running()
    assert stage.journal.begun(0) == [0]


async def revoke_after_grace(stage: Stage, kind: Kind) -> None:
    """After the grace nothing of the old assignment runs, or it is fenced, and the partition waits for it."""
    stage.send(P0, [("a", "hang gate"), ("a", "do")])
    stage.send(P0, [("b", "do")])
    async with stage.running(kind.handler, opens=["gate"], revoke_grace=0.0, **kind.fields) as pc:
        await until(lambda: {0, 2} <= set(stage.journal.begun(0)) and pc.statistics().totals.completed)
        with pytest.MonkeyPatch.context() as patch:
            if not kind.can_stop:
                patch.setattr(rebalance, "SETTLE", IMPATIENCE)  # it waits in vain
            await stage.rebalance(revoke=[P0])
            assert pc.statistics().engine.abandoned == given_up(kind)
            assert len(stage.journal.running()) == given_up(kind)
            assert stage.committed(P0) == 0
            if kind.can_stop:
                stage.journal.open("gate")
            await stage.rebalance(assign=[P0])
            if not kind.can_stop:
                assert of(pc, P0).phase == "starting"
                assert sorted(stage.journal.begun(0)) == [0, 2]
                stage.journal.open("gate")
        await until(is_through(pc, P0, 3))
        totals = pc.statistics().totals
        assert totals.completed == 3
        assert pc.statistics().engine.abandoned == 0
    assert stage.journal.order() == {(0, "a"): [0, 0, 1], (0, "b"): [2]}
    epochs = [each.assignment_epoch for each in stage.journal.entries() if each.what == "begun" and each.key == "a"]
    assert epochs[0] < epochs[1] == epochs[2]
    assert not stage.journal.overlaps()
    assert stage.committed(P0) == 3


async def wrong_handlers(stage: Stage, kind: Kind) -> None:
    """What an engine can't run is refused before a record is touched, and the consumer stays usable."""
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(stage.config(**kind.fields)) as pc:
            for wrong in kind.wrong:
                with pytest.raises(InvalidHandlerError):
                    await pc.run(wrong)
                with pytest.raises(InvalidHandlerError):
                    await pc.run_batches(wrong)
            assert pc.statistics().state == "open"
            assert pc.statistics().engine.mode == kind.mode


async def time_runs_from_the_start(stage: Stage, kind: Kind) -> None:
    """While a call waits for its turn its time doesn't run; a call that is cancelled then is never made."""
    if kind.narrow is None:
        return
    engine = kind.narrow()
    attempts = [Attempt(1000.0) for _ in range(3)]

    async def call(number: int) -> None:
        attempts[number].waits()
        with attempts[number].scope:
            await execute(Record("orders", 0, number, value=b"hold %d" % number), attempts[number])

    def has_begun(number: int) -> bool:
        return attempts[number].scope.deadline < math.inf

    with trio.fail_after(PATIENCE):
        async with engine.open(kind.handler) as execute, trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(call, number)
                await trio.testing.wait_all_tasks_blocked(0.001)
            await until(lambda: has_begun(0) and stage.journal.begun(0))
            assert not has_begun(1)
            attempts[2].scope.cancel()
            await until(lambda: attempts[2].scope.cancelled_caught)
            stage.journal.open("0")
            await until(lambda: has_begun(1))
            assert engine.statistics().busy == 1
            stage.journal.open("1")
    assert stage.journal.begun(0) == [0, 1]
    assert [each.ended for each in attempts] == [None] * 3
    assert engine.statistics().busy == 0


CONTRACT: Final[Sequence[Callable[[Stage, Kind], Awaitable[None]]]] = [
    batches_and_their_outcomes,
    final_failure_stops,
    timeout_is_a_failed_attempt,
    stop_drains,
    cancelled_block,
    revoke_within_grace,
    revoke_after_grace,
    wrong_handlers,
    time_runs_from_the_start,
]
