"""From the client's errors to this package's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import trio
from confluent_kafka import KafkaError as ClientError, KafkaException

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.errors import (
    AuthenticationError,
    AuthorizationError,
    KafkaError,
    OffsetResetError,
    ParallelKafkaError,
)

FINAL: Final = (AuthenticationError, AuthorizationError, OffsetResetError)
"""Errors that trying again doesn't mend."""

_FINAL: Final[dict[int, tuple[type[KafkaError], str]]] = {
    ClientError._FATAL: (KafkaError, "the client reports a fatal error"),  # noqa: SLF001
    ClientError._AUTHENTICATION: (  # noqa: SLF001
        AuthenticationError,
        "the brokers refused the credentials; check sasl.mechanism, sasl.username and sasl.password",
    ),
    ClientError.SASL_AUTHENTICATION_FAILED: (
        AuthenticationError,
        "the brokers refused the credentials; check sasl.mechanism, sasl.username and sasl.password",
    ),
    ClientError._SSL: (  # noqa: SLF001
        AuthenticationError,
        "the TLS handshake failed; check security.protocol, ssl.ca.location and the broker's certificate",
    ),
    ClientError.GROUP_AUTHORIZATION_FAILED: (
        AuthorizationError,
        "an ACL is missing: READ on the consumer group",
    ),
    ClientError.TOPIC_AUTHORIZATION_FAILED: (
        AuthorizationError,
        "an ACL is missing: READ and DESCRIBE on the topic",
    ),
    ClientError.CLUSTER_AUTHORIZATION_FAILED: (
        AuthorizationError,
        "an ACL is missing: WRITE on a topic, or IDEMPOTENT_WRITE on the cluster",
    ),
    ClientError.INVALID_GROUP_ID: (KafkaError, "the brokers refuse the group_id"),
    ClientError.INCONSISTENT_GROUP_PROTOCOL: (
        KafkaError,
        "the group's other members use another partition.assignment.strategy or group.protocol",
    ),
    ClientError.UNSUPPORTED_VERSION: (KafkaError, "the brokers don't know a request that is needed"),
    ClientError.FENCED_INSTANCE_ID: (KafkaError, "another member uses the same group.instance.id"),
    ClientError.UNRELEASED_INSTANCE_ID: (KafkaError, "another member uses the same group.instance.id"),
}

_LATER_AT_RUN_TIME: Final = frozenset({ClientError._AUTHENTICATION, ClientError._SSL})  # noqa: SLF001
"""Reported for each connection: once the consumer runs, a broker that restarts may cause them for a while."""


def final_error(
    error: ClientError, partition: TopicPartition | None = None, *, is_running: bool = True
) -> KafkaError | None:
    """The error to end with, or ``None`` for one that may pass."""
    if is_running and error.code() in _LATER_AT_RUN_TIME:
        return None
    found = _FINAL.get(error.code())
    if found is None:
        return None
    kind, explanation = found
    return as_error(error, explanation, partition, kind)


def end_error(error: BaseException) -> ParallelKafkaError:
    """What to raise when this ended the client."""
    if isinstance(error, ParallelKafkaError):
        return error
    ended = KafkaError(f"the Kafka client ended: {error}")
    ended.__cause__ = error
    return ended


def as_error(
    error: ClientError,
    doing: str,
    partition: TopicPartition | None = None,
    kind: type[KafkaError] = KafkaError,
) -> KafkaError:
    """Dress a client's error in one of ours; it says what the client said, and has it as its cause.

    A negative partition number stands for the topic as a whole.
    """
    topic, number = partition if partition is not None else (None, None)
    where = "" if topic is None else f" ({partition})"
    if number is not None and number < 0:
        where, number = f" ({topic})", None
    dressed = kind(f"{doing}{where}: {error.str()} ({error.name()})", topic=topic, partition=number)
    dressed.__cause__ = KafkaException(error)
    return dressed


def is_cancellation(error: BaseException) -> bool:
    """Whether there is nothing else in it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def add_notes(error: BaseException, problems: Iterable[ParallelKafkaError]) -> None:
    """Say on an exception that leaves anyway what went wrong while leaving."""
    for problem in problems:
        error.add_note(f"while leaving, {type(problem).__name__}: {problem}")


def leave_block(raised: BaseException | None, problems: Sequence[ParallelKafkaError]) -> None:
    """End a block with what its body raised, or, in place of a cancellation, with what went wrong while leaving.

    The others are told in notes.
    """
    if raised is not None and not (problems and is_cancellation(raised)):
        add_notes(raised, problems)
        raise raised
    if problems:
        add_notes(problems[0], problems[1:])
        raise problems[0]


def is_only(error: BaseException, raised: BaseException) -> bool:
    """Whether ``error`` says no more than ``raised``, in the wrappings of nurseries.

    Leaves are compared: a nursery that splits cancellations off makes new groups of what is left.
    """
    known = {id(leaf) for leaf in _leaves(raised)}
    return all(isinstance(leaf, trio.Cancelled) or id(leaf) in known for leaf in _leaves(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
