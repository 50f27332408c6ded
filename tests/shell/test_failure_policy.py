"""What becomes of a failed record, for each configuration and each exception."""

from __future__ import annotations

from typing import Any

import pytest

from trio_parallel_kafka import ConsumerConfig, Record
from trio_parallel_kafka.config import DeadLetterConfig, RetryPolicy
from trio_parallel_kafka.control.failure_policy import NO_DEAD_LETTERS, FailurePolicy
from trio_parallel_kafka.errors import HandlerTimeoutError, ProducerClosedError, ProducerFencedError
from trio_parallel_kafka.execution.verdicts import Bury, PassOver, RetryLater, Stop, Verdict
from trio_parallel_kafka.outcomes import DeadLetter, Retry, Skip

PLAIN = RetryPolicy(max_attempts=3, jitter=0.0)


def judge(error: Exception, *, attempt: int = 1, may_retry: bool = True, random: float = 0.5, **fields: Any) -> Verdict:
    """The verdict under a configuration with these fields."""
    config = ConsumerConfig(bootstrap_servers="fake:9092", group_id="billing", topics=["orders"], **fields)
    record = Record("orders", 0, 7, key=b"k", attempt=attempt)
    return FailurePolicy(config, lambda: random)(record, error, may_retry=may_retry)


def later(delay: Any) -> RetryLater:
    """The verdict to wait for about so many seconds."""
    return RetryLater(pytest.approx(delay))  # type: ignore[arg-type]  # equal to what is near


def test_default_stops_the_consumer() -> None:
    """Nothing configured: the first failure is the last."""
    assert judge(ValueError()) == Stop()


@pytest.mark.parametrize(("attempt", "delay"), [(1, 0.1), (2, 0.2), (3, 0.4), (10, 30.0), (5000, 30.0)])
def test_failure_is_retried_with_growing_backoff(attempt: int, delay: float) -> None:
    """Each wait is longer than the one before, up to the cap."""
    policy = RetryPolicy(max_attempts=None, jitter=0.0)
    assert judge(ValueError(), attempt=attempt, retry=policy) == later(delay)


@pytest.mark.parametrize(("random", "delay"), [(0.0, 0.8), (0.5, 1.0), (0.75, 1.1)])
def test_backoff_is_spread_at_random(random: float, delay: float) -> None:
    """The wait differs by up to ``jitter`` both ways."""
    policy = RetryPolicy(initial_backoff=1.0, jitter=0.2)
    assert judge(ValueError(), retry=policy, random=random) == later(delay)


@pytest.mark.parametrize(
    ("on_failure", "expected"),
    [
        ("raise", Stop()),
        ("skip", PassOver("attempt 3 failed with ValueError")),
        ("dead_letter", Bury("attempt 3 failed with ValueError")),
    ],
)
def test_when_attempts_end_on_failure_decides(on_failure: str, expected: Verdict) -> None:
    """The last attempt that the policy grants is the last."""
    assert isinstance(judge(ValueError(), attempt=2, retry=PLAIN, on_failure=on_failure), RetryLater)
    assert judge(ValueError(), attempt=3, retry=PLAIN, on_failure=on_failure) == expected


def test_what_would_fail_just_so_is_not_retried() -> None:
    """Where another attempt can't help none is made, not even if it is asked for."""
    reason = "attempt 1 failed with {}"
    for error in (ValueError(), Retry(after=1.0)):
        verdict = judge(error, may_retry=False, retry=PLAIN, on_failure="skip")
        assert verdict == PassOver(reason.format(type(error).__name__))


def test_only_chosen_exceptions_are_retried() -> None:
    """``retry_on`` names classes, or asks a function; anything else is final at once."""
    by_class = RetryPolicy(retry_on=(OSError,))
    by_function = RetryPolicy(retry_on=lambda error: "again" in str(error))
    assert isinstance(judge(ConnectionError(), retry=by_class), RetryLater)
    assert judge(ValueError(), retry=by_class) == Stop()
    assert isinstance(judge(ValueError("again"), retry=by_function), RetryLater)
    assert judge(ValueError("never"), retry=by_function) == Stop()


def test_timeout_is_a_failure_like_any_other() -> None:
    """A handler that took too long is retried, unless ``retry_on`` says otherwise."""
    assert isinstance(judge(HandlerTimeoutError("late"), retry=PLAIN), RetryLater)


def test_group_is_worth_what_it_holds() -> None:
    """What a handler's nursery wraps is judged as if it were bare; of several, all have to be worth it."""
    policy = RetryPolicy(retry_on=(OSError,))
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [OSError()])])
    assert isinstance(judge(nested, retry=policy), RetryLater)
    assert judge(ExceptionGroup("both", [OSError(), ValueError()]), retry=policy) == Stop()
    asked = RetryPolicy(retry_on=lambda error: isinstance(error, OSError))
    assert isinstance(judge(nested, retry=asked), RetryLater)
    assert judge(ExceptionGroup("", [Skip("old")])) == PassOver("old")
    assert judge(ExceptionGroup("both", [Skip(), ValueError()])) == Stop()


def test_predicate_that_raises_stops_the_consumer() -> None:
    """A mistake in ``retry_on`` neither retries nor gives up: the error that leaves has a note about it."""

    def broken(_error: Exception) -> bool:
        raise KeyError("status")

    verdict = judge(ValueError(), retry=RetryPolicy(retry_on=broken), on_failure="skip")
    assert isinstance(verdict, Stop)
    assert verdict.note is not None
    assert "retry_on" in verdict.note
    assert "KeyError('status')" in verdict.note


def test_handler_asks_for_another_attempt() -> None:
    """``Retry`` names its own wait or takes the policy's, or without a policy that of the default one."""
    assert judge(Retry(after=7.5)) == RetryLater(7.5)
    assert judge(Retry(after=0)) == RetryLater(0)
    assert judge(Retry(), attempt=2) == later(0.2)
    assert judge(Retry(), attempt=2, retry=RetryPolicy(initial_backoff=1, jitter=0)) == RetryLater(2.0)


def test_asking_is_bounded_by_the_policy_alone() -> None:
    """A policy's bound holds for ``Retry`` too, its ``retry_on`` doesn't; without a policy there is no bound."""
    assert judge(Retry(after=1), attempt=10**6) == RetryLater(1)
    assert judge(Retry(after=1), attempt=10**6, retry=RetryPolicy(max_attempts=None)) == RetryLater(1)
    assert judge(Retry(after=1), attempt=2, retry=RetryPolicy(max_attempts=3, retry_on=(OSError,))) == RetryLater(1)
    assert judge(Retry(after=1), attempt=3, retry=PLAIN) == Stop()
    assert judge(Retry(after=1), attempt=3, retry=PLAIN, on_failure="dead_letter") == Bury(
        "attempt 3 failed with Retry"
    )


def test_handler_skips() -> None:
    """``Skip`` completes the record, whatever attempts are left, with its reason or one that says who decided."""
    assert judge(Skip("a test order"), retry=PLAIN) == PassOver("a test order")
    assert judge(Skip(), retry=PLAIN) == PassOver("the handler skipped it")


@pytest.mark.parametrize("fields", [{"dead_letter": DeadLetterConfig()}, {"on_failure": "dead_letter"}])
def test_handler_buries(fields: dict[str, Any]) -> None:
    """``DeadLetter`` sends the record there at once, where dead letters are configured in either way."""
    assert judge(DeadLetter("no such customer"), retry=PLAIN, **fields) == Bury("no such customer")
    assert judge(DeadLetter(), **fields) == Bury("the handler gave it up")


def test_burying_without_dead_letters_stops_the_consumer() -> None:
    """A handler that relies on what isn't configured loses nothing: the error that leaves says what is missing."""
    assert judge(DeadLetter("x"), on_failure="skip") == Stop(NO_DEAD_LETTERS)


@pytest.mark.parametrize("error", [ProducerFencedError("fenced"), ProducerClosedError("closed")])
@pytest.mark.parametrize("on_failure", ["skip", "dead_letter"])
def test_what_ends_the_producer_is_no_matter_of_a_record(error: Exception, on_failure: str) -> None:
    """Records whose outputs have no way out are never given up for it."""
    assert judge(error, retry=PLAIN, on_failure=on_failure) == Stop()
    assert judge(ExceptionGroup("", [error]), retry=PLAIN, on_failure=on_failure) == Stop()
