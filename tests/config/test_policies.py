"""Retries, dead letters and the circuit breaker: what their policies take, say and refuse."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from trio_parallel_kafka.config import BreakerPolicy, DeadLetterConfig, RetryPolicy
from trio_parallel_kafka.config.checks import MAX_SECONDS
from trio_parallel_kafka.config.policies import BREAKER_CHECKS, DEAD_LETTER_CHECKS, RETRY_CHECKS
from trio_parallel_kafka.errors import ConfigError
from trio_parallel_kafka.record import Record

POLICIES = MappingProxyType(
    {RetryPolicy: RETRY_CHECKS, DeadLetterConfig: DEAD_LETTER_CHECKS, BreakerPolicy: BREAKER_CHECKS}
)


def problems(policy: type[object], **fields: Any) -> tuple[str, ...]:
    """Make one that is refused, and say why it is."""
    with pytest.raises(ConfigError) as caught:
        policy(**fields)
    return caught.value.problems


def test_defaults_are_the_documented_ones() -> None:
    """Each policy works as it is, and says what its documentation says."""
    assert attrs.asdict(RetryPolicy()) == {
        "max_attempts": 5,
        "initial_backoff": 0.1,
        "max_backoff": 30.0,
        "multiplier": 2.0,
        "jitter": 0.2,
        "retry_on": (Exception,),
    }
    assert attrs.asdict(DeadLetterConfig()) == {"topic": None, "on_dead_letter_failure": "raise"}
    assert attrs.asdict(BreakerPolicy()) == {
        "failure_rate": 0.5,
        "min_attempts": 20,
        "window": 10.0,
        "probe_interval": 5.0,
    }


def topic_of(record: Record) -> str:
    """Choose a topic."""
    return "letters"


async def an_async_function(argument: object) -> Any:
    """Wait."""


def is_worth_it(error: Exception) -> bool:
    """Say that names beginning with "a" are worth another attempt."""
    return str(error).startswith("a")


@pytest.mark.parametrize(
    ("policy", "field", "given_as", "kept"),
    [
        (RetryPolicy, "max_attempts", 1, 1),
        (RetryPolicy, "max_attempts", None, None),
        (RetryPolicy, "initial_backoff", 0, 0),
        (RetryPolicy, "max_backoff", MAX_SECONDS, MAX_SECONDS),
        (RetryPolicy, "multiplier", 1, 1),
        (RetryPolicy, "jitter", 0, 0),
        (RetryPolicy, "jitter", 1, 1),
        (RetryPolicy, "retry_on", OSError, (OSError,)),
        (RetryPolicy, "retry_on", [OSError, ValueError], (OSError, ValueError)),
        (RetryPolicy, "retry_on", is_worth_it, is_worth_it),
        (DeadLetterConfig, "topic", "letters", "letters"),
        (DeadLetterConfig, "topic", topic_of, topic_of),
        (DeadLetterConfig, "on_dead_letter_failure", "skip", "skip"),
        (DeadLetterConfig, "on_dead_letter_failure", "retry", "retry"),
        (BreakerPolicy, "failure_rate", 1, 1),
        (BreakerPolicy, "min_attempts", 1, 1),
    ],
)
def test_what_a_policy_takes(policy: type[object], field: str, given_as: Any, kept: Any) -> None:
    """The ends of each range are within it, and exception classes end as a tuple."""
    assert getattr(policy(**{field: given_as}), field) == kept


@pytest.mark.parametrize(
    ("policy", "field", "value", "expected"),
    [
        (RetryPolicy, "max_attempts", 0, "must be a whole number from 1 up, is 0; None means no end of attempts"),
        (RetryPolicy, "max_attempts", 1.5, "is 1.5"),
        (RetryPolicy, "initial_backoff", -0.1, "must be seconds, from 0 to 2073600, is -0.1"),
        (RetryPolicy, "initial_backoff", math.nan, "is nan"),
        (
            RetryPolicy,
            "initial_backoff",
            31,
            "must not be above max_backoff, is 31 against 30.0 s; lower the one or raise the other",
        ),
        (RetryPolicy, "max_backoff", math.inf, "is inf"),
        (RetryPolicy, "multiplier", 0.5, "must be a number from 1 up, is 0.5"),
        (RetryPolicy, "multiplier", math.inf, "is inf"),
        (RetryPolicy, "multiplier", "2", "is '2'"),
        pytest.param(RetryPolicy, "multiplier", 10**400, "must be a number from 1 up", id="multiplier-huge"),
        (RetryPolicy, "jitter", 1.1, "must be a fraction, from 0 to 1, is 1.1"),
        (RetryPolicy, "jitter", -0.1, "is -0.1"),
        (RetryPolicy, "jitter", True, "is True"),
        (RetryPolicy, "retry_on", (), "must name an exception class at least, is empty"),
        (RetryPolicy, "retry_on", KeyboardInterrupt, "must have classes derived from Exception only, has <class 'Key"),
        (RetryPolicy, "retry_on", (OSError, ValueError()), "has ValueError()"),
        (RetryPolicy, "retry_on", int, "has <class 'int'>"),
        (RetryPolicy, "retry_on", "OSError", "must be a function of an exception, an exception class or several"),
        (RetryPolicy, "retry_on", None, "is None"),
        (RetryPolicy, "retry_on", an_async_function, "must not be async"),
        (DeadLetterConfig, "topic", "", "has '', which no topic can be called"),
        (DeadLetterConfig, "topic", "^letters", "has '^letters', which no topic can be called: give up to 249 of"),
        (DeadLetterConfig, "topic", 5, "must be a function of a record, or a topic's name, is 5; None means <the rec"),
        (DeadLetterConfig, "topic", an_async_function, "must not be async"),
        (DeadLetterConfig, "on_dead_letter_failure", "stop", "must be one of 'raise', 'skip', 'retry', is 'stop'"),
        (BreakerPolicy, "failure_rate", 0, "must be a fraction, from more than 0 to 1, is 0"),
        (BreakerPolicy, "failure_rate", 1.5, "is 1.5"),
        (BreakerPolicy, "min_attempts", 0, "must be a whole number from 1 up, is 0"),
        (BreakerPolicy, "window", 0, "must be seconds, from more than 0 to 2073600, is 0"),
        (BreakerPolicy, "probe_interval", 0, "must be seconds, from more than 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_field_and_the_fix(
    policy: type[object], field: str, value: Any, expected: str
) -> None:
    """A field that can't be used is refused with its name, its value and what would do."""
    (problem,) = problems(policy, **{field: value})
    assert problem.startswith(f"{field}: ")
    assert expected in problem


def test_all_problems_are_reported_at_once() -> None:
    """Faults in several fields come in one error; what compares a faulty field isn't asked."""
    found = problems(RetryPolicy, max_attempts=0, initial_backoff=31, max_backoff=-1, jitter=2, retry_on=())
    assert [problem.partition(":")[0] for problem in found] == ["max_attempts", "max_backoff", "jitter", "retry_on"]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_field_has_its_check(policy: type[attrs.AttrsInstance]) -> None:
    """No field can be added without saying what it has to be."""
    assert list(POLICIES[policy]) == [field.name for field in attrs.fields(policy)]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_a_value(policy: type[object]) -> None:
    """Equal policies are alike to dictionaries, and none can be changed."""
    assert policy() == policy()
    assert hash(policy()) == hash(policy())
    (field, *_) = attrs.fields_dict(policy)  # type: ignore[arg-type]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(policy(), field, None)


def test_waits_grow_up_to_their_bound() -> None:
    """Each wait is longer than the one before it by the multiplier, until the bound is reached."""
    policy = RetryPolicy(initial_backoff=0.5, multiplier=3, max_backoff=10, jitter=0)
    assert [policy.backoff(attempt, 0.9) for attempt in range(1, 6)] == [0.5, 1.5, 4.5, 10, 10]


def test_jitter_goes_both_ways() -> None:
    """The jitter takes off its part of the wait at most, or adds it, and leaves the middle alone."""
    policy = RetryPolicy(initial_backoff=10, max_backoff=10, jitter=0.25)
    assert [policy.backoff(1, random) for random in (0.0, 0.5, 0.75)] == [7.5, 10, 11.25]


@pytest.mark.parametrize("multiplier", [1, 1.0, 2, 2.0, 1.5, 1e308])
def test_a_millionth_attempt_waits_no_longer_than_the_bound(multiplier: float) -> None:
    """However often a record failed, the wait can be told."""
    expected = 0.1 if multiplier == 1 else 30.0
    assert RetryPolicy(multiplier=multiplier, jitter=0).backoff(10**6, 0.5) == expected
    assert RetryPolicy(initial_backoff=0, multiplier=multiplier).backoff(10**6, 0.5) == 0


seconds = st.floats(min_value=0, max_value=MAX_SECONDS)


@given(
    st.lists(seconds, min_size=2, max_size=2).map(sorted),
    st.floats(min_value=1, allow_nan=False, allow_infinity=False),
    st.floats(min_value=0, max_value=1),
    st.integers(min_value=1, max_value=10**6),
    st.floats(min_value=0, max_value=1, exclude_max=True),
)
def test_any_wait_is_within_its_bounds(
    bounds: list[float], multiplier: float, jitter: float, attempt: int, random: float
) -> None:
    """No wait is shorter than the first or longer than the longest one, but for the jitter."""
    least, most = bounds
    policy = RetryPolicy(initial_backoff=least, max_backoff=most, multiplier=multiplier, jitter=jitter)
    wait = policy.backoff(attempt, random)
    assert least * (1 - jitter) <= wait <= most * (1 + jitter)


def test_attempts_end() -> None:
    """There are as many attempts as the policy says, the first one included; ``None`` says no number."""
    assert [RetryPolicy(max_attempts=3).retries(OSError(), attempt) for attempt in (1, 2, 3, 4)] == [
        True,
        True,
        False,
        False,
    ]
    assert RetryPolicy(max_attempts=None).retries(OSError(), 10**6)


@pytest.mark.parametrize(
    ("retry_on", "error", "expected"),
    [
        (OSError, TimeoutError(), True),
        (OSError, ValueError(), False),
        ((OSError, ValueError), ValueError(), True),
        (OSError, ExceptionGroup("", [TimeoutError(), ExceptionGroup("", [OSError()])]), True),
        (OSError, ExceptionGroup("", [OSError(), ValueError()]), False),
        (ExceptionGroup, ExceptionGroup("", [ValueError()]), True),
        (Exception, ExceptionGroup("", [ValueError()]), True),
        (is_worth_it, ValueError("again"), True),
        (is_worth_it, ValueError("never"), False),
        (is_worth_it, ExceptionGroup("all of it", [ValueError("x")]), True),
    ],
)
def test_only_some_exceptions_are_worth_another_attempt(retry_on: Any, error: Exception, expected: bool) -> None:
    """Classes take in what is derived from them, a group if all in it is; a function decides for itself."""
    assert RetryPolicy(retry_on=retry_on).retries(error, 1) is expected


def test_what_a_function_says_is_taken_for_yes_or_no() -> None:
    """A function may return whatever stands for yes or no; what it raises leaves."""
    assert RetryPolicy(retry_on=lambda error: error.args).retries(OSError("x"), 1) is True
    with pytest.raises(ZeroDivisionError):
        RetryPolicy(retry_on=lambda _error: 1 // 0 > 0).retries(OSError(), 1)


def test_a_function_is_not_asked_after_the_last_attempt() -> None:
    """Once the attempts have ended, nothing is left to decide."""
    assert not RetryPolicy(max_attempts=1, retry_on=lambda _error: 1 // 0 > 0).retries(OSError(), 1)
