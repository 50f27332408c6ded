"""Around a handler: notes its attempts and how they end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Self, TypeGuard, TypeVar, cast

import trio

from trio_parallel_kafka.config import ConsumerConfig, Delivery, OnFailure, RetryPolicy
from trio_parallel_kafka.errors import InvalidResultError, ProducerClosedError, ProducerFencedError
from trio_parallel_kafka.execution.deadline import timeout_error
from trio_parallel_kafka.execution.engines.handlers import is_async
from trio_parallel_kafka.execution.settling import outputs_of
from trio_parallel_kafka.failures import is_cancellation
from trio_parallel_kafka.outcomes import DeadLetter, Retry, Skip, unwrapped
from trio_parallel_kafka.record import Record
from trio_parallel_kafka.testing.events import Cancelled, Completed, Event, Failed, GivenUp, Place, Started

Handler = TypeVar("Handler", bound=Callable[[Any], Any])
Attempted = tuple[str, Place, bytes | None, int, int, int]
"""What the events of an attempt have in common."""

CLOCK_TOLERANCE: Final = 0.001
"""Seconds by which a cancelled attempt may seem shorter than ``handler_timeout``, which began to run earlier."""


class FinalFailures:
    """Which failures are the last of their record, by what its consumer was told to do.

    That is worked out here once more, rather than asked of the consumer, which is what is being tested.

    Args:
        config: of the consumer, if it is known.
        sees_dead_letters: somebody else says when a dead letter has arrived.
    """

    def __init__(self, config: ConsumerConfig | None, *, sees_dead_letters: bool) -> None:
        self._retry: Final = None if config is None else config.retry
        self._on_failure: Final = OnFailure.RAISE if config is None else config.on_failure
        self._dead_letters_count: Final = not sees_dead_letters or _goes_on_before_dead_letters(config)
        self._buries: Final = (
            config is None or config.dead_letter is not None or config.on_failure is OnFailure.DEAD_LETTER
        )

    def give_up(self, error: Exception, attempt: int) -> bool:
        """Whether a record is done with after its attempt has failed so."""
        match unwrapped(error):
            case ProducerFencedError() | ProducerClosedError():
                return False
            case Skip():
                return True
            case DeadLetter():
                return self._buries and self._dead_letters_count
            case cause:
                is_passed_over = self._on_failure is OnFailure.SKIP or (
                    self._on_failure is OnFailure.DEAD_LETTER and self._dead_letters_count
                )
                return is_passed_over and not _is_tried_again(self._retry, cause, attempt)


def _goes_on_before_dead_letters(config: ConsumerConfig | None) -> bool:
    """Whether a lane's next record may start although a dead letter hasn't arrived, or never will."""
    if config is None:
        return False
    is_dispensable = config.dead_letter is not None and config.dead_letter.on_dead_letter_failure == "skip"
    return is_dispensable or config.delivery is Delivery.EXACTLY_ONCE  # it arrives with its transaction


def _is_tried_again(retry: RetryPolicy | None, error: Exception, attempt: int) -> bool:
    if isinstance(error, Retry):
        return retry is None or retry.max_attempts is None or attempt < retry.max_attempts
    try:
        return retry is not None and retry.retries(error, attempt)
    except Exception:  # noqa: BLE001 - in a user's predicate; the consumer stops, and the record is replayed
        return True


class Watch:
    """Sees the calls of one handler.

    Args:
        member: whose handler it is.
        config: the consumer's, if it is known.
        add: notes events.
        clock: gives seconds.
        calls: numbers calls.
        sees_dead_letters: somebody else says when a dead letter has arrived.
    """

    def __init__(
        self,
        member: str,
        config: ConsumerConfig | None,
        *,
        add: Callable[[Event], None],
        clock: Callable[[], float],
        calls: Iterator[int],
        sees_dead_letters: bool,
    ) -> None:
        self.member: Final = member
        self.add: Final = add
        self.clock: Final = clock
        self.calls: Final = calls
        self.timeout: Final = None if config is None else config.handler_timeout
        self.final: Final = FinalFailures(config, sees_dead_letters=sees_dead_letters)

    def around(self, handler: Handler) -> Handler:
        """Give a handler of the same kind that is watched."""
        if is_async(handler):

            @functools.wraps(handler)
            async def handle(given: Any) -> object:  # noqa: ASYNC910 - a checkpoint is up to the handler
                with _Call(self, given) as call:
                    call.result = call.made(await handler(given))
                return call.result

        else:

            @functools.wraps(handler)
            def handle(given: Any) -> object:
                with _Call(self, given) as call:
                    call.result = call.made(handler(given))
                return call.result

        return cast("Handler", handle)


class _Call:
    """A call of the handler, with one record or with a batch of them; a block around it.

    Attributes:
        result: what the handler returned.
    """

    __slots__ = ("_attempts", "_began", "_is_batch", "_watch", "result")

    def __init__(self, watch: Watch, given: Any) -> None:
        self._watch = watch
        self._is_batch = isinstance(given, tuple)
        self.result: object = None
        records: Sequence[Record[Any, Any]] = given if self._is_batch else (given,)
        number = next(watch.calls)
        self._attempts: list[Attempted] = [
            (
                watch.member,
                Place(record.topic, record.partition, record.offset),
                record.raw_key,
                record.attempt,
                record.assignment_epoch,
                number,
            )
            for record in records
        ]
        self._began = watch.clock()

    def __enter__(self) -> Self:
        for attempt in self._attempts:
            self._watch.add(Started(self._began, *attempt))
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None:
            self._returned()
        else:
            self._raised(error)

    def made(self, result: object) -> object:
        """The same result, with what is to be yielded made now, for it can be looked at but once."""
        if not self._is_batch:
            return _made(result)
        return [_made_or_error(each) for each in result] if self._is_outcomes(result) else result

    def _returned(self) -> None:
        watch = self._watch
        now = watch.clock()
        timeout = watch.timeout
        if timeout is not None and now - self._began >= timeout:  # it has failed, whatever it returned
            self._all_failed(now, timeout_error(timeout))
            return
        for attempt, outcome in zip(self._attempts, self._outcomes(), strict=True):
            error = _error_in(outcome)
            if error is None:
                watch.add(Completed(now, *attempt))
            else:
                self._failed(now, attempt, error)

    def _outcomes(self) -> Sequence[object]:
        """What has become of each record."""
        count = len(self._attempts)
        if not self._is_batch or self.result is None:
            return [self.result] * count
        if self._is_outcomes(self.result):
            return self.result
        return [InvalidResultError(f"not one outcome for each of {count} records")] * count

    def _is_outcomes(self, result: object) -> TypeGuard[Sequence[object]]:
        return (
            isinstance(result, Sequence) and not isinstance(result, str | bytes) and len(result) == len(self._attempts)
        )

    def _raised(self, error: BaseException) -> None:
        watch = self._watch
        now = watch.clock()
        if isinstance(error, Exception):
            self._all_failed(now, error)
        elif watch.timeout is not None and _is_timeout(error, now - self._began, watch.timeout):
            self._all_failed(now, timeout_error(watch.timeout))
        else:
            for attempt in self._attempts:
                if is_cancellation(error):
                    watch.add(Cancelled(now, *attempt))
                else:
                    watch.add(Failed(now, *attempt, repr(error)))

    def _all_failed(self, now: float, error: Exception) -> None:
        for attempt in self._attempts:
            self._failed(now, attempt, error)

    def _failed(self, now: float, attempt: Attempted, error: Exception) -> None:
        watch = self._watch
        _, place, _, number, _, _ = attempt
        watch.add(Failed(now, *attempt, repr(error)))
        if watch.final.give_up(error, number):
            watch.add(GivenUp(now, place))


def _made(result: object) -> object:
    return tuple(result) if isinstance(result, Iterator) else result


def _made_or_error(outcome: object) -> object:
    try:
        return _made(outcome)
    except Exception as error:  # noqa: BLE001 - as for the consumer, it concerns this record alone
        return error


def _error_in(outcome: object) -> Exception | None:
    """Why a record isn't done whose handling has come to this."""
    if outcome is None or isinstance(outcome, Exception):
        return outcome
    try:
        outputs_of(outcome)
    except Exception as error:  # noqa: BLE001 - what isn't a list may raise anything
        return error
    return None


def _is_timeout(error: BaseException, seconds: float, timeout: float) -> bool:
    """Whether a call was cancelled because its time was up: its deadline, not one further out."""
    cancelled = BaseExceptionGroup("", [error]).subgroup(_is_by_deadline)
    return seconds >= timeout - CLOCK_TOLERANCE and cancelled is not None


def _is_by_deadline(error: BaseException) -> bool:
    return isinstance(error, trio.Cancelled) and error.source == "deadline"
