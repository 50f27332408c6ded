"""What becomes of a record whose attempt failed, as the configuration says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, assert_never

from trio_parallel_kafka.config import ConsumerConfig, OnFailure, RetryPolicy
from trio_parallel_kafka.errors import ProducerClosedError, ProducerFencedError
from trio_parallel_kafka.execution.verdicts import Bury, PassOver, RetryLater, Stop, Verdict
from trio_parallel_kafka.outcomes import DeadLetter, Retry, Skip, unwrapped
from trio_parallel_kafka.record import Record

NO_DEAD_LETTERS: Final = (
    "the handler raised DeadLetter, but no dead letters are configured: set dead_letter=DeadLetterConfig(...)"
)


def buries(config: ConsumerConfig) -> bool:
    """Whether dead letters are configured."""
    return config.dead_letter is not None or config.on_failure is OnFailure.DEAD_LETTER


class FailurePolicy:
    """A :class:`~trio_parallel_kafka.execution.verdicts.Judge`.

    Args:
        config: the consumer's configuration.
        random: gives a number from 0 up to 1 for the jitter.
    """

    def __init__(self, config: ConsumerConfig, random: Callable[[], float]) -> None:
        self._retry: Final = config.retry
        self._schedule: Final = config.retry or RetryPolicy()
        self._on_failure: Final = config.on_failure
        self._buries: Final = buries(config)
        self._random: Final = random

    def __call__(self, record: Record, error: Exception, *, may_retry: bool = True) -> Verdict:
        cause = unwrapped(error)
        match cause:
            case ProducerFencedError() | ProducerClosedError():
                return Stop()  # it concerns no record: to skip or to bury one would lose it
            case Skip():
                return PassOver(cause.reason or "the handler skipped it")
            case DeadLetter():
                return Bury(cause.reason or "the handler gave it up") if self._buries else Stop(NO_DEAD_LETTERS)
            case Retry() if may_retry and self._may_ask_again(record.attempt):
                return RetryLater(self.backoff(record.attempt) if cause.after is None else cause.after)
        try:
            is_retried = may_retry and self._retry is not None and self._retry.retries(cause, record.attempt)
        except Exception as mistake:  # noqa: BLE001 - in a user's predicate
            return Stop(f"retry_on couldn't say whether to retry, for it raised {mistake!r}")
        return RetryLater(self.backoff(record.attempt)) if is_retried else self._give_up(record, cause)

    def backoff(self, attempt: int) -> float:
        """Seconds to wait after this attempt, from 1, has failed."""
        return self._schedule.backoff(attempt, self._random())

    def _may_ask_again(self, attempt: int) -> bool:
        """Whether ``Retry`` is heeded: the bound on attempts holds for it, ``retry_on`` doesn't."""
        return self._retry is None or self._retry.max_attempts is None or attempt < self._retry.max_attempts

    def _give_up(self, record: Record, error: Exception) -> Verdict:
        reason = f"attempt {record.attempt} failed with {type(error).__name__}"
        match self._on_failure:
            case OnFailure.RAISE:
                return Stop()
            case OnFailure.SKIP:
                return PassOver(reason)
            case OnFailure.DEAD_LETTER:
                return Bury(reason)
            case unknown:
                assert_never(unknown)
