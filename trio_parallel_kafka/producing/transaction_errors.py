"""What is wrong when a transaction can't be made, or a record can't be part of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from confluent_kafka import KafkaError as ClientError, KafkaException

from trio_parallel_kafka.errors import AuthorizationError, DeliveryError, KafkaError
from trio_parallel_kafka.failures import as_error, final_error
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producing.deliveries import Refusal

# ruff: noqa: SLF001 - the client's own error codes begin with an underscore
PURGED: Final = frozenset({ClientError._PURGE_QUEUE, ClientError._PURGE_INFLIGHT})
"""Records of a transaction that was aborted."""

BROKEN: Final = frozenset({ClientError._FATAL, ClientError._STATE})
"""Not the record is to blame, but the client."""

SHUT_OUT: Final = frozenset({ClientError._FENCED, ClientError.PRODUCER_FENCED, ClientError.INVALID_PRODUCER_EPOCH})

FOR_GOOD: Final = frozenset(
    {
        ClientError.MSG_SIZE_TOO_LARGE,
        ClientError.RECORD_LIST_TOO_LARGE,
        ClientError.INVALID_MSG_SIZE,
        ClientError.INVALID_RECORD,
        ClientError.INVALID_TIMESTAMP,
        ClientError.POLICY_VIOLATION,
        ClientError.TOPIC_EXCEPTION,
        ClientError.TOPIC_AUTHORIZATION_FAILED,
        ClientError.CLUSTER_AUTHORIZATION_FAILED,
        ClientError.UNKNOWN_TOPIC_OR_PART,
        ClientError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        ClientError.UNSUPPORTED_COMPRESSION_TYPE,
        ClientError._UNKNOWN_TOPIC,
        ClientError._UNKNOWN_PARTITION,
    }
)
"""Why a broker doesn't take a record, and never will."""

_EXPLANATIONS: Final[Mapping[int, tuple[type[KafkaError], str]]] = {
    ClientError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        AuthorizationError,
        "ACLs are missing: WRITE and DESCRIBE on the transactional id",
    ),
    ClientError.TOPIC_AUTHORIZATION_FAILED: (
        AuthorizationError,
        "an ACL is missing: WRITE on a topic that handlers send to",
    ),
    ClientError.INVALID_TRANSACTION_TIMEOUT: (
        KafkaError,
        "the brokers allow no transaction of that length; raise their transaction.max.timeout.ms",
    ),
    ClientError._UNSUPPORTED_FEATURE: (KafkaError, "the brokers can't make transactions"),
}


def transactional_error(error: ClientError, *, is_running: bool = True) -> KafkaError | None:
    """The error to end with, or ``None`` for one that may pass."""
    if error.code() in _EXPLANATIONS:
        kind, explanation = _EXPLANATIONS[error.code()]
        return as_error(error, explanation, kind=kind)
    return None if error.code() == ClientError._FATAL else final_error(error, is_running=is_running)


class RefusedError(Exception):
    """A record will never be taken.

    Attributes:
        record: which.
        reason: why.
    """

    def __init__(self, record: ProducerRecord, reason: Exception) -> None:
        super().__init__(f"a record for {record.topic} was refused")
        self.record: ProducerRecord = record
        self.reason: Exception = reason


def delivery_error(refused: RefusedError) -> DeliveryError:
    """The error to end with when a record is refused for good."""
    record = refused.record
    if isinstance(refused.reason, KafkaException):
        return Refusal(refused.reason.args[0], record.topic, record.partition).as_error()
    message = f"a record for {record.topic!r} can't be sent: {refused.reason}"
    return DeliveryError(message, topic=record.topic, partition=record.partition)


def local_error(reason: str) -> ClientError:
    """Why a transaction isn't gone on with, in the form in which the client would say it."""
    return ClientError(ClientError.TRANSACTION_ABORTABLE, reason)


def passing(error: ClientError) -> ClientError:
    """The same error, with another code if it has the one by which this package says that a partition is gone.

    The client has trouble of its own then, as it does in the first transaction after one that failed.
    """
    return local_error(error.str()) if error.code() == ClientError._STATE else error
