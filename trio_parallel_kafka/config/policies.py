"""What is to happen when records fail: retries, dead letters, the circuit breaker."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from trio_parallel_kafka.config.checks import (
    FieldChecks,
    count,
    factor,
    field_problems,
    fraction,
    function_of,
    one_of,
    optional,
    seconds,
    topic_name,
)
from trio_parallel_kafka.config.wording import Problem, shown
from trio_parallel_kafka.errors import ConfigError
from trio_parallel_kafka.record import Record

RetryOn: TypeAlias = tuple[type[Exception], ...] | Callable[[Exception], bool]
DeadLetterTopic: TypeAlias = str | Callable[[Record], str]
OnDeadLetterFailure: TypeAlias = Literal["raise", "skip", "retry"]

DEAD_LETTER_SUFFIX: Final = ".dlt"
"""What the dead letters' topic is called after the record's, unless it is given."""


class OnFailure(enum.StrEnum):
    """What becomes of a record whose attempts have ended."""

    RAISE = "raise"
    """The consumer stops with the error; the record isn't completed."""

    SKIP = "skip"
    """The record is completed all the same, logged and counted."""

    DEAD_LETTER = "dead_letter"
    """The record is sent to the dead letters, and completed once they have it."""


class Delivery(enum.StrEnum):
    """How often what handlers return is seen by those who read it."""

    AT_LEAST_ONCE = "at_least_once"
    """Once; after a failure or a crash maybe again."""

    EXACTLY_ONCE = "exactly_once"
    """Once, by those who read with ``isolation.level=read_committed``: outputs and the offsets of what they were made
    of go into one transaction."""


class ExecutionMode(enum.StrEnum):
    """Where handlers run."""

    ASYNC = "async"
    """Async functions, in Trio tasks of the consumer's own loop: for handlers that wait."""

    THREAD = "thread"
    """Plain functions, in threads: for blocking libraries."""

    PROCESS = "process"
    """Plain or async functions, in worker processes: for what keeps a core busy."""


def _retry_on(given: Any) -> RetryOn:
    if isinstance(given, type):
        return cast("RetryOn", (given,))
    return tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else given


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """Whether and when a record whose handling failed is handled again. Times are in seconds.

    The record keeps its place: later records of its lane wait, those of other lanes go on. Attempts are counted in the
    process: after a restart or a rebalance they begin at 1 again.

    Raises:
        ConfigError: it can't work; every fault is named at once.
    """

    max_attempts: int | None = 5
    """Attempts that a record gets, the first one included. Default 5; ``None`` (as text ``none``): no end of them,
    and the record's lane stands still for as long as it fails."""

    initial_backoff: float = 0.1
    """Seconds between the first attempt and the second. Default 0.1; 0 for no wait."""

    max_backoff: float = 30.0
    """Seconds between two attempts that are never exceeded, but for the jitter. Default 30.0."""

    multiplier: float = 2.0
    """What each wait is longer by than the one before it. Default 2.0; 1 keeps them alike."""

    jitter: float = 0.2
    """The part of a wait by which it may be shorter or longer, at random, so that what failed together doesn't come
    back together. Default 0.2: from 80 to 120 %; 0 for none."""

    retry_on: RetryOn = attrs.field(default=(Exception,), converter=_retry_on)
    """What is worth another attempt: an exception class, several, or a plain function that is given the exception and
    says whether. Default :exc:`Exception`. An :exc:`ExceptionGroup` is worth it if the classes take in all that it
    holds; a function gets what it holds if that is one exception, else the group. As text, ``module:name``, several
    separated by commas."""

    def __attrs_post_init__(self) -> None:
        _raise_on([*field_problems(self, RETRY_CHECKS), *_growing(self)])

    def retries(self, error: Exception, attempt: int) -> bool:
        """Whether there is to be another attempt.

        Args:
            error: what the attempt failed with.
            attempt: which one it was, from 1.

        Raises:
            Exception: what a function in :attr:`retry_on` raises leaves as it is.
        """
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return False
        if not isinstance(self.retry_on, tuple):
            return bool(self.retry_on(error))
        if isinstance(error, ExceptionGroup):
            _, others = error.split(self.retry_on)
            return others is None
        return isinstance(error, self.retry_on)

    def backoff(self, attempt: int, random: float) -> float:
        """Seconds to wait before the next attempt.

        Args:
            attempt: the one that failed, from 1.
            random: from 0 to below 1; 0.5 for no jitter.
        """
        try:
            growth = float(self.multiplier) ** (attempt - 1)
        except OverflowError:
            growth = float("inf")
        backoff = min(self.initial_backoff * growth, self.max_backoff) if self.initial_backoff else 0.0
        return backoff * (1 + self.jitter * (2 * random - 1))


@attrs.frozen(kw_only=True)
class DeadLetterConfig:
    """Where records go that can't be handled, and what if they can't go there.

    Raises:
        ConfigError: it can't work; every fault is named at once.
    """

    topic: DeadLetterTopic | None = None
    """The topic of the dead letters: a name, or a plain function from the record to one (as text,
    ``module:function``). Default ``None``: the record's own topic and ``.dlt``. It has to be there, and the consumer
    mustn't read it."""

    on_dead_letter_failure: OnDeadLetterFailure = "raise"
    """What happens when the broker doesn't take a dead letter: ``raise`` (default) stops the consumer with the error,
    and the record isn't completed; ``skip`` completes it, with an error in the log; ``retry`` tries again later, and
    the record's lane waits."""

    def __attrs_post_init__(self) -> None:
        _raise_on(field_problems(self, DEAD_LETTER_CHECKS))


@attrs.frozen(kw_only=True)
class BreakerPolicy:
    """When to stop handing out records because too many fail, and how to find out that it is over.

    While it is open, no record is handed to the handler but single ones that probe: so what all records need can be
    away without their attempts being used up. Times are in seconds.

    Raises:
        ConfigError: it can't work; every fault is named at once.
    """

    failure_rate: float = 0.5
    """The part of the attempts that has to fail. Default 0.5. Lower opens sooner."""

    min_attempts: int = 20
    """Attempts within :attr:`window` below which nothing is concluded. Default 20."""

    window: float = 10.0
    """Seconds over which attempts are counted. Default 10.0. Longer reacts to slower troubles, and later."""

    probe_interval: float = 5.0
    """Seconds from opening to the first probe, and between a probe that failed and the next. Default 5.0."""

    def __attrs_post_init__(self) -> None:
        _raise_on(field_problems(self, BREAKER_CHECKS))


def _raise_on(problems: list[Problem]) -> None:
    if problems:
        raise ConfigError(problems)


def _exceptions(value: Any) -> Iterator[str]:
    if not isinstance(value, tuple):
        yield from _PREDICATE(value)
    elif not value:
        yield "must name an exception class at least, is empty"
    else:
        for each in value:
            if not (isinstance(each, type) and issubclass(each, Exception)):
                yield f"must have classes derived from Exception only, has {shown(each)}"


def _topic(value: Any) -> Iterator[str]:
    yield from topic_name(value) if isinstance(value, str) else _TOPIC_FUNCTION(value)


def _growing(policy: RetryPolicy) -> Iterator[Problem]:
    bounds = (policy.initial_backoff, policy.max_backoff)
    are_sound = not any(fault for bound in bounds for fault in _BACKOFF(bound))
    if are_sound and policy.initial_backoff > policy.max_backoff:
        yield Problem(
            "initial_backoff",
            f"must not be above max_backoff, is {policy.initial_backoff} against {policy.max_backoff} s; lower the one "
            "or raise the other",
        )


_BACKOFF: Final = seconds(may_be_zero=True)
_PREDICATE: Final = function_of(
    "an exception, an exception class or several", must_not_wait="the decision is taken at once"
)
_TOPIC_FUNCTION: Final = function_of("a record, or a topic's name", must_not_wait="the topic has to be known at once")

RETRY_CHECKS: Final[FieldChecks] = MappingProxyType(
    {
        "max_attempts": optional(count, "no end of attempts"),
        "initial_backoff": _BACKOFF,
        "max_backoff": _BACKOFF,
        "multiplier": factor,
        "jitter": fraction(may_be_zero=True),
        "retry_on": _exceptions,
    }
)

DEAD_LETTER_CHECKS: Final[FieldChecks] = MappingProxyType(
    {
        "topic": optional(_topic, f"<the record's topic>{DEAD_LETTER_SUFFIX}"),
        "on_dead_letter_failure": one_of("raise", "skip", "retry"),
    }
)

BREAKER_CHECKS: Final[FieldChecks] = MappingProxyType(
    {
        "failure_rate": fraction(may_be_zero=False),
        "min_attempts": count,
        "window": seconds(may_be_zero=False),
        "probe_interval": seconds(may_be_zero=False),
    }
)
