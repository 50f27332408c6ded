"""Batches: several records for one call of the handler."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Concatenate, Final

import attrs
import trio

from trio_parallel_kafka.config.model import Deserializer
from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.batching import BatchTaker
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.core.lanes import LaneScheduler
from trio_parallel_kafka.errors import InvalidResultError, SerializationError
from trio_parallel_kafka.execution.attempts import GivenUp
from trio_parallel_kafka.execution.clock import CoarseClock
from trio_parallel_kafka.execution.decoding import Decoder, Rest
from trio_parallel_kafka.execution.outbox import Parcel
from trio_parallel_kafka.execution.settling import Settler, is_decision, outputs_of
from trio_parallel_kafka.execution.tally import Tally
from trio_parallel_kafka.execution.verdicts import RetryLater, Stop
from trio_parallel_kafka.execution.visits import Probing
from trio_parallel_kafka.execution.worker import Worker
from trio_parallel_kafka.outcomes import Outcome
from trio_parallel_kafka.record import Record, next_attempt

BatchHandler = Callable[[tuple[Record[Any, Any], ...]], Awaitable[object]]


@attrs.define(eq=False)
class _Remains:
    """What is left of a lane after a batch."""

    records: list[Record] = attrs.field(factory=list)
    delay: float = 0.0
    is_stopped: bool = False


class BatchVisits:
    """Takes batches and deals with each record's outcome.

    Args:
        taker: makes batches of ready lanes.
        scheduler: the lanes.
        attempt: what is done with a batch.
        settler: sees to what comes of it.
        tally: counted here.
        probing: lets records through an open breaker.
        on_progress: told of a completion in a partition that is paused.
        on_unripe: told when a batch becomes ripe that isn't yet.
        on_left: told when lanes have left a batch whose other lanes are still dealt with.
        clock: the time.
        given_up: waits for handlers that can't be stopped.
    """

    def __init__(
        self,
        taker: BatchTaker[Record],
        scheduler: LaneScheduler[Record],
        attempt: BatchHandler,
        *,
        settler: Settler,
        tally: Tally,
        probing: Probing,
        on_progress: Callable[[Assignment[Record]], None],
        on_unripe: Callable[[float], None],
        on_left: Callable[[], None],
        clock: CoarseClock,
        given_up: GivenUp,
    ) -> None:
        self._given_up: Final = given_up
        self._taker: Final = taker
        self._scheduler: Final = scheduler
        self._attempt: Final = attempt
        self._settler: Final = settler
        self._tally: Final = tally
        self._probing: Final = probing
        self._on_progress: Final = on_progress
        self._on_unripe: Final = on_unripe
        self._on_left: Final = on_left
        self._clock: Final = clock

    def take(self) -> Sequence[Lane[Record]]:
        lanes = self._taker.take(trio.current_time())
        if not lanes and (probe := self._probing.take(self._scheduler)) is not None:
            self._scheduler.gather(probe, 1)
            return (probe,)
        if not lanes and (due := self._taker.next_due()) is not None:
            self._on_unripe(due)
        return lanes

    def stop_lingering(self) -> None:
        self._taker.stop_lingering()

    def next_due(self) -> float | None:
        return self._taker.next_due()

    async def visit(self, worker: Worker) -> None:
        lanes = worker.lanes
        for lane in lanes:
            lane.since = self._clock.now
        batch = sorted(((record, lane) for lane in lanes if lane.error is None for record in lane.in_hands), key=_place)
        worker.streak += len(batch)
        outcomes = await self._outcomes(worker, tuple(record for record, _ in batch))
        undone = await self._complete_done(batch, outcomes)
        undone += [(lane.head, lane, lane.error) for lane in lanes if lane.error is not None]
        if undone:
            await trio.lowlevel.checkpoint_if_cancelled()  # what fails then says nothing of its record
            self._leave_done(worker, {lane for _, lane, _ in undone})
        # Cancelled until here, the lanes are as they were, but for what is complete.
        try:
            rest = await self._settle_all(undone)
        finally:
            for error in {error for _, _, error in undone}:
                await self._given_up.wait_after(error)  # noqa: ASYNC102 - it can't be stopped
        self._leave_all(worker.lanes, rest)

    def abandon(self, worker: Worker) -> None:
        for lane in worker.lanes:
            assignment: Assignment[Record] = lane.group.owner
            remaining = [record for record in lane.in_hands if record.offset in assignment.tracker]
            self._tally.abandoned += len(remaining)
            self._probing.ended(lane, well=None)
            if assignment in worker.doomed:
                self._scheduler.seal(lane)
            elif self._scheduler.keep(lane, remaining):
                self._scheduler.put_back(lane)

    async def _outcomes(self, worker: Worker, records: tuple[Record, ...]) -> Sequence[object]:
        """What the handler says of each record."""
        if not records:
            return ()
        try:
            return _outcomes_of(await self._attempt(records), len(records))
        except Exception as error:
            if worker.doomed:
                raise
            return [error] * len(records)

    async def _complete_done(
        self, batch: Sequence[tuple[Record, Lane[Record]]], outcomes: Sequence[object]
    ) -> list[tuple[Record, Lane[Record], Exception]]:
        """Complete what is done, its outputs sent; return the rest, each with its error."""
        errors: dict[Record, Exception | None] = {}
        parcels = []
        for (record, lane), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                errors[record] = outcome
                continue
            try:
                outputs = outputs_of(outcome)
            except Exception as invalid:  # noqa: BLE001 - it may be a generator, which is the user's code
                errors[record] = invalid
            else:
                if outputs:
                    parcels.append(Parcel(lane.group.owner, record, outputs))
        sent = await self._settler.send_all(parcels)
        errors.update((parcel.record, error) for parcel, error in zip(parcels, sent, strict=True))
        undone: list[tuple[Record, Lane[Record], Exception]] = []
        for record, lane in batch:
            error = errors.get(record)
            if error is None:
                self._complete(lane, record)
            else:
                undone.append((record, lane, error))
        return undone

    async def _settle_all(
        self, undone: Sequence[tuple[Record, Lane[Record], Exception]]
    ) -> Sequence[tuple[Record, Lane[Record], RetryLater | Stop]]:
        """Deal with failures; complete what may be, and return the rest, each with its verdict."""
        rest: list[tuple[Record, Lane[Record], RetryLater | Stop]] = []
        stopped_by: Exception | None = None
        for record, lane, error in undone:
            self._probing.ended(lane, well=is_decision(error) if lane.error is None else None)
            if error is stopped_by:
                self._settler.count_failure(error)
                rest.append((record, lane, Stop()))
                continue
            verdict = await self._settle(lane, record, error)
            if verdict is None:
                self._complete(lane, record)
                continue
            if isinstance(verdict, Stop):
                stopped_by = error
            rest.append((record, lane, verdict))
        return rest

    async def _settle(self, lane: Lane[Record], record: Record, error: Exception) -> RetryLater | Stop | None:
        """Deal with a failure; a dead letter that is to be tried again is waited for here."""
        known = lane.error
        try:
            while True:
                verdict = await self._settler.settle(lane, record, error)
                if lane.error is None or not isinstance(verdict, RetryLater):
                    return verdict
                await trio.sleep(verdict.delay)
        finally:
            lane.error = known

    def _complete(self, lane: Lane[Record], record: Record) -> None:
        assignment: Assignment[Record] = lane.group.owner
        if not assignment.complete(record):
            self._tally.fenced += 1
            self._probing.ended(lane, well=None)
            return
        self._tally.completed += 1
        if assignment.pause_reason is not None:
            self._on_progress(assignment)

    def _leave_done(self, worker: Worker, undone: Collection[Lane[Record]]) -> None:
        """Let lanes go that don't have to wait for what becomes of others."""
        done = [lane for lane in worker.lanes if lane not in undone]
        worker.lanes = [lane for lane in worker.lanes if lane in undone]
        if done:
            self._leave_all(done, ())
            self._on_left()

    def _leave_all(
        self, lanes: Sequence[Lane[Record]], rest: Sequence[tuple[Record, Lane[Record], RetryLater | Stop]]
    ) -> None:
        """Put lanes where they belong after a batch."""
        remains = {lane: _Remains() for lane in lanes}
        for record, lane, verdict in rest:
            left = remains[lane]
            if isinstance(verdict, RetryLater):
                again = next_attempt(record)
                lane.group.owner.replace(again)
                left.records.append(again)
                left.delay = max(left.delay, verdict.delay)
            else:
                left.records.append(record)
                left.is_stopped = True
        for lane, left in remains.items():
            self._probing.ended(lane, well=True)
            self._leave(lane, left)

    def _leave(self, lane: Lane[Record], left: _Remains) -> None:
        if not self._scheduler.keep(lane, left.records):
            return
        if left.is_stopped:
            self._scheduler.seal(lane)
        elif left.records:
            self._scheduler.park(lane, trio.current_time() + left.delay)
        else:
            self._scheduler.put_back(lane)


def _place(item: tuple[Record, Lane[Record]]) -> tuple[str, int, int]:
    record, _ = item
    return record.topic, record.partition, record.offset


def _outcomes_of(result: object, count: int) -> Sequence[object]:
    """One outcome for each record.

    Raises:
        InvalidResultError: it isn't that.
    """
    if result is None:
        return [None] * count
    if not isinstance(result, Sequence) or isinstance(result, str | bytes):
        raise InvalidResultError(
            f"the handler of a batch returned a {type(result).__name__}; return nothing, or a list with one outcome "
            "for each record: None, what is to be sent, Retry(), Skip(), or DeadLetter()"
        )
    if len(result) != count:
        raise InvalidResultError(
            f"the handler of a batch returned {len(result)} outcomes for {count} records; return one for each"
        )
    return result


def decoding_batches(
    handler: Callable[Concatenate[Any, Rest], Awaitable[object]],
    deserialize_key: Deserializer | None,
    deserialize_value: Deserializer | None,
) -> Callable[Concatenate[Any, Rest], Awaitable[object]]:
    """Give what takes raw batches, and hands ``handler`` deserialised records, without those that can't be."""
    if deserialize_key is None and deserialize_value is None:
        return handler
    decode = Decoder(deserialize_key, deserialize_value)

    async def decode_and_handle(records: Any, /, *rest: Rest.args, **named: Rest.kwargs) -> object:  # noqa: ASYNC910 - it is up to the handler
        decoded: list[Record[Any, Any]] = []
        outcomes: list[object] = []
        for record in records:
            try:
                decoded.append(await decode(record))
            except (SerializationError, Outcome) as error:
                outcomes.append(error)
            else:
                outcomes.append(_DECODED)
        if not decoded:
            return outcomes
        try:
            handled = iter(_outcomes_of(await handler(tuple(decoded), *rest, **named), len(decoded)))
        except Exception as error:
            if len(decoded) == len(records):
                raise
            handled = itertools.repeat(error)
        return [next(handled) if outcome is _DECODED else outcome for outcome in outcomes]

    return decode_and_handle


_DECODED: Final = object()
