"""From the client's errors to this package's."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError as ClientError
from shell.kit import P0

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.errors import AuthenticationError, AuthorizationError, KafkaError
from trio_parallel_kafka.failures import as_error, end_error, final_error


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (ClientError._FATAL, KafkaError, "fatal"),
        (ClientError.SASL_AUTHENTICATION_FAILED, AuthenticationError, "sasl.password"),
        (ClientError.GROUP_AUTHORIZATION_FAILED, AuthorizationError, "READ on the consumer group"),
        (ClientError.TOPIC_AUTHORIZATION_FAILED, AuthorizationError, "READ and DESCRIBE on the topic"),
        (ClientError.INVALID_GROUP_ID, KafkaError, "group_id"),
        (ClientError.INCONSISTENT_GROUP_PROTOCOL, KafkaError, "partition.assignment.strategy"),
        (ClientError.UNSUPPORTED_VERSION, KafkaError, "don't know a request"),
        (ClientError.FENCED_INSTANCE_ID, KafkaError, "group.instance.id"),
        (ClientError.UNRELEASED_INSTANCE_ID, KafkaError, "group.instance.id"),
    ],
)
def test_final_errors_say_what_to_do(code: int, kind: type[KafkaError], says: str) -> None:
    """An error that trying again doesn't mend has its class, names the place, and says what is wrong."""
    found = final_error(ClientError(code), P0)
    assert type(found) is kind
    assert says in str(found)
    assert "(orders[0])" in str(found)
    assert (found.topic, found.partition) == P0


@pytest.mark.parametrize("code", [ClientError._AUTHENTICATION, ClientError._SSL])
def test_connection_errors_are_final_at_the_start_only(code: int) -> None:
    """While the consumer runs, a broker that restarts may refuse a handshake for a while."""
    assert isinstance(final_error(ClientError(code), is_running=False), AuthenticationError)
    assert final_error(ClientError(code)) is None


@pytest.mark.parametrize("code", [ClientError._TRANSPORT, ClientError._ALL_BROKERS_DOWN, ClientError.REQUEST_TIMED_OUT])
def test_errors_that_may_pass_are_not_final(code: int) -> None:
    """What may mend itself ends nothing."""
    assert final_error(ClientError(code)) is None
    assert final_error(ClientError(code), is_running=False) is None


def test_client_error_is_the_cause() -> None:
    """The client's error is chained, and its name and text are told."""
    found = as_error(ClientError(ClientError._TRANSPORT, "no route"), "can't ask")
    assert str(found) == "can't ask: no route (_TRANSPORT)"
    assert found.__cause__ is not None
    assert found.__cause__.args[0].code() == ClientError._TRANSPORT
    assert (found.topic, found.partition) == (None, None)


def test_error_of_a_whole_topic_names_no_partition() -> None:
    """A negative partition number stands for the topic."""
    found = as_error(ClientError(ClientError._TRANSPORT), "can't ask", TopicPartition("orders", -1))
    assert "(orders)" in str(found)
    assert (found.topic, found.partition) == ("orders", None)


def test_end_of_the_client_is_told_with_its_cause() -> None:
    """This package's errors end a run as they are, others are dressed."""
    mine, other = KafkaError("mine"), OSError("other")
    assert end_error(mine) is mine
    dressed = end_error(other)
    assert isinstance(dressed, KafkaError)
    assert dressed.__cause__ is other
