"""Which librdkafka properties are taken, and what the client is created with."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from config.known_names import names_that_text_can_set
from confluent_kafka import Consumer, KafkaException
from hypothesis import given, strategies as st

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.config.librdkafka import client_properties, rebalance_is_incremental
from trio_parallel_kafka.config.property_names import PROPERTY_NAMES
from trio_parallel_kafka.errors import ConfigError


def config(kafka: dict[str, Any], **fields: Any) -> ConsumerConfig:
    """Make one with these properties."""
    return ConsumerConfig(bootstrap_servers="localhost:1", group_id="g", kafka=kafka, **{"topics": "orders", **fields})


def problems(kafka: dict[str, Any], **fields: Any) -> tuple[str, ...]:
    """Make one that is refused, and say why it is."""
    with pytest.raises(ConfigError) as caught:
        config(kafka, **fields)
    return caught.value.problems


def create_client(properties: dict[str, Any]) -> None:
    """Create a client of these properties, and close it."""
    with closing(Consumer({"log_level": 0, **properties})):
        pass


def test_the_client_gets_what_keeps_the_promises() -> None:
    """Nothing is committed by the client itself, resets and partition ends are left to the library."""
    properties = client_properties(config({}))
    assert properties["bootstrap.servers"] == "localhost:1"
    assert properties["group.id"] == "g"
    assert properties["client.id"] == "trio-parallel-kafka"
    assert properties["enable.auto.commit"] == "false"
    assert properties["enable.auto.offset.store"] == "false"
    assert properties["auto.offset.reset"] == "error"
    assert properties["enable.partition.eof"] == "true"
    assert properties["allow.auto.create.topics"] == "false"
    assert properties["partition.assignment.strategy"] == "cooperative-sticky"
    create_client(properties)


def test_exactly_once_reads_what_is_committed() -> None:
    """In exactly-once delivery, the client is told to leave out what is not committed; else it isn't told."""
    properties = client_properties(config({}, delivery="exactly_once", transactional_id="g-1"))
    assert properties["isolation.level"] == "read_committed"
    create_client(properties)
    assert "isolation.level" not in client_properties(config({}))


def test_tuned_defaults_give_way_to_the_users() -> None:
    """What is tuned, not promised, can be set otherwise, in the spelling of librdkafka."""
    properties = client_properties(
        config({"fetch.wait.max.ms": 7, "client.id": "me", "check.crcs": True, "session.timeout.ms": 6000.0})
    )
    assert properties["fetch.wait.max.ms"] == "7"
    assert properties["client.id"] == "me"
    assert properties["check.crcs"] == "true"
    assert properties["session.timeout.ms"] == "6000"
    create_client(properties)


def test_a_tuned_default_never_conflicts_with_a_users_property() -> None:
    """A longer first reconnect wait lifts the library's bound on the longest, or no client could be made."""
    properties = client_properties(config({"reconnect.backoff.ms": 5000}))
    assert "reconnect.backoff.max.ms" not in properties
    create_client(properties)


def test_callbacks_and_a_logger_pass_as_they_are() -> None:
    """Functions for tokens, statistics and throttling, and a logger, reach the client."""
    objects: dict[str, Any] = {
        "oauth_cb": lambda _config: ("token", time.time() + 60),
        "stats_cb": print,
        "throttle_cb": print,
        "logger": logging.getLogger("test"),
    }
    security = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "OAUTHBEARER"}
    properties = client_properties(config(objects | security))
    assert {name: properties[name] for name in objects} == objects
    create_client(properties)


@pytest.mark.parametrize(
    ("kafka", "is_incremental"),
    [
        ({}, True),
        ({"group.protocol": "consumer"}, True),
        ({"group.protocol": "Consumer"}, True),
        ({"group.protocol": "classic"}, True),
        ({"partition.assignment.strategy": "cooperative-sticky"}, True),
        ({"partition.assignment.strategy": "range"}, False),
        ({"partition.assignment.strategy": "range,roundrobin"}, False),
    ],
)
def test_rebalances_are_told_apart(kafka: dict[str, Any], is_incremental: bool) -> None:
    """Eager strategies revoke everything; cooperative ones and the new protocol only what moves."""
    made = config(kafka)
    assert rebalance_is_incremental(made) is is_incremental
    create_client(client_properties(made))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("bootstrap.servers", "a", "use the field bootstrap_servers"),
        ("metadata.broker.list", "a", "use the field bootstrap_servers"),
        ("group.id", "a", "use the field group_id"),
        ("auto.offset.reset", "latest", "use the field auto_offset_reset"),
        ("topic.auto.offset.reset", "latest", "use the field auto_offset_reset"),
        ("enable.auto.commit", True, "records that no handler has completed"),
        ("enable.auto.commit", False, "leave it out"),
        ("auto.commit.enable", True, "records that no handler has completed"),
        ("topic.enable.auto.commit", True, "records that no handler has completed"),
        ("enable.auto.offset.store", True, "records that no handler has completed"),
        ("auto.commit.interval.ms", 5, "use the field commit_interval"),
        ("offset.store.method", "file", "kept by the group's broker"),
        ("enable.partition.eof", False, "needs to see where a partition ends"),
        ("enabled_events", 1, "callbacks that the library needs"),
        ("default.topic.config", {}, "one by one"),
        ("on_commit", print, "needs this callback for itself"),
        ("on_assign", print, "needs this callback for itself"),
        ("error_cb", print, "needs this callback for itself"),
        ("rebalance_cb", print, "needs this callback for itself"),
        ("offset_commit_cb", print, "needs this callback for itself"),
        ("consume_cb", print, "needs this callback for itself"),
        ("log_cb", print, "needs this callback for itself"),
    ],
)
def test_properties_that_would_break_a_promise_are_refused(name: str, value: Any, reason: str) -> None:
    """What the library has to decide itself is refused by name, with the reason, whatever the value."""
    (problem,) = problems({name: value})
    assert problem.startswith(f"kafka[{name!r}]: is refused: ")
    assert reason in problem


async def an_async_callback(_text: str) -> None:
    """Take statistics."""


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("sessionn.timeout.ms", 1, "is no property of librdkafka; did you mean 'session.timeout.ms'?"),
        ("Session.Timeout.MS", 1, "did you mean 'session.timeout.ms'?"),
        ("topic.nonsense", 1, "is no property of librdkafka"),
        ("qqqqqq", 1, "CONFIGURATION.md lists them all"),
        ("", 1, "is no property of librdkafka"),
        (5, 1, "the name of a property must be plain text"),
        ("enable.auto.commit\0", True, "the name of a property must be plain text"),
        ("isolation.level", "x", "librdkafka refuses 'x': Invalid value"),
        ("session.timeout.ms", "abc", "librdkafka refuses 'abc': Invalid value"),
        ("session.timeout.ms", 0, "outside allowed range 1..3600000"),
        ("session.timeout.ms", "", "cannot be set to empty value"),
        ("session.timeout.ms", "30s", "must be a plain integer, is '30s'"),
        ("session.timeout.ms", " 6000", "must be a plain integer"),
        ("session.timeout.ms", "010", "must be a plain integer"),
        ("session.timeout.ms", 6000.5, "must be a plain integer, is '6000.5'"),
        ("session.timeout.ms", 2**32 + 6000, "must be a plain integer, is '4294973296'"),
        ("ssl.engine.id", 2**70, "is of type int"),
        ("client.rack", None, "is of type NoneType"),
        ("client.rack", float("nan"), "is of type float"),
        ("client.rack", "\udc80", "is of type str"),
        ("client.rack", print, "is of type builtin_function_or_method"),
        ("oauth_cb", "x", "must be callable, is of type str"),
        ("stats_cb", an_async_callback, "must not be async"),
        ("logger", "root", "must be a logging.Logger, is of type str"),
        ("check.crcs", "maybe", "true or false"),
        ("partition.assignment.strategy", "stickyy", "has 'stickyy', is to be of cooperative-sticky, range"),
        ("partition.assignment.strategy", "rnge", "did you mean 'range'?"),
        ("partition.assignment.strategy", "", "has ''"),
        ("partition.assignment.strategy", "range,cooperative-sticky", "can't mix"),
    ],
)
def test_a_property_that_cannot_be_meant_is_refused(name: Any, value: Any, expected: str) -> None:
    """Unknown names propose the nearest, and no value is passed on that librdkafka refuses or misreads."""
    (problem,) = problems({name: value})
    assert problem.startswith(f"kafka[{name!r}]: ")
    assert expected in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client.rack", "30s"),
        ("client.rack", 1.5),
        ("client.id", 99999999999),
        ("sasl.password", "0123"),
        ("isolation.level", "read_uncommitted"),
        ("debug", "cgrp,fetch"),
        ("log_level", 6),
        ("test.mock.num.brokers", 3),
        ("topic.metadata.refresh.interval.ms", -1),
        ("check.crcs", "1"),
        ("group.instance.id", "member-1"),
    ],
)
def test_any_other_property_passes(name: str, value: Any) -> None:
    """Text may look like a number, and properties that nobody documents pass if librdkafka knows them."""
    assert client_properties(config({name: value}))[name] == str(value)


def test_a_refused_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should librdkafka refuse a secret, its message, which may show it, is left out."""
    # librdkafka takes any text for the secrets that it has today: this one stands in for another.
    monkeypatch.setattr("trio_parallel_kafka.config.librdkafka.is_secret", lambda name: name == "isolation.level")
    (problem,) = problems({"isolation.level": "hunter2"})
    assert problem == (
        "kafka['isolation.level']: librdkafka refuses its value (a secret, so not shown); see what it documents"
    )


def test_a_plugin_may_bring_properties() -> None:
    """With a plugin, unknown names are left to the client, for only the plugin knows them."""
    (problem,) = problems({"plugin.library.paths": "no-such-plugin", "vendor.interceptor.rate": 5})
    assert problem.startswith("kafka['plugin.library.paths']: librdkafka refuses 'no-such-plugin'")


REFUSED_BY_THE_CLIENT: list[tuple[dict[str, Any], str]] = [
    ({"session.timeout.ms": 400_000}, "kafka['session.timeout.ms']: must not be above max.poll.interval.ms"),
    ({"max.poll.interval.ms": 44_999}, "is 45000 against 44999"),
    ({"group.protocol": "consumer", "session.timeout.ms": 6000}, "session.timeout.ms on the brokers"),
    ({"group.protocol": "consumer", "heartbeat.interval.ms": 600}, "heartbeat.interval.ms on the brokers"),
    ({"group.protocol": "consumer", "partition.assignment.strategy": "range"}, "group.remote.assignor"),
    ({"group.protocol": "consumer", "group.protocol.type": "x"}, "doesn't go with group.protocol=consumer"),
    ({"partition.assignment.strategy": "sticky"}, "cooperative-sticky"),
    ({"partition.assignment.strategy": "cooperative-sticky,range"}, "can't mix"),
]


@pytest.mark.parametrize(("kafka", "expected"), REFUSED_BY_THE_CLIENT)
def test_what_the_client_would_refuse_is_refused_before(kafka: dict[str, Any], expected: str) -> None:
    """Properties that contradict each other are a ConfigError, not a failure at the start."""
    with pytest.raises(KafkaException):
        create_client({"group.id": "g", **kafka})
    assert any(expected in problem for problem in problems(kafka))


@pytest.mark.parametrize(
    "kafka",
    [
        {"max.poll.interval.ms": 45_000},
        {"session.timeout.ms": 300_000},
        {"group.protocol": "consumer", "max.poll.interval.ms": 30_000},
        {"group.protocol": "consumer", "group.remote.assignor": "uniform"},
        {"partition.assignment.strategy": "roundrobin,range"},
    ],
)
def test_what_the_client_takes_is_not_refused(kafka: dict[str, Any]) -> None:
    """At the edge of the rules, the client and the configuration agree as well."""
    create_client(client_properties(config(kafka)))


@pytest.mark.parametrize(
    "kafka",
    [
        {},
        {"security.protocol": "ssl", "sasl.mechanism": "OAUTHBEARER"},
        {"security.protocol": "SASL_SSL"},
        {"security.protocol": "sasl_ssl", "sasl.mechanisms": "PLAIN"},
    ],
)
def test_a_source_of_tokens_has_to_be_asked(kafka: dict[str, Any]) -> None:
    """The client would wait ten seconds for a token that nothing asks the callback for."""
    (problem,) = problems({"oauth_cb": print, **kafka})
    assert problem.startswith("kafka['oauth_cb']: goes with sasl.mechanism=OAUTHBEARER")


def test_heartbeats_have_to_fit_into_the_session() -> None:
    """A heartbeat interval not below the session timeout would make the group evict the member."""
    (problem,) = problems({"session.timeout.ms": "6000", "heartbeat.interval.ms": "6000"})
    assert problem.startswith("kafka['heartbeat.interval.ms']: must be below session.timeout.ms, is 6000 against 6000")
    config({"session.timeout.ms": 6000, "heartbeat.interval.ms": 5999})


def test_a_revocation_has_to_end_before_the_group_takes_the_partitions() -> None:
    """Grace and the last commit together stay below the poll interval, whose default is five minutes."""
    (problem,) = problems({}, revoke_grace=290.0, close_timeout=10.0)
    assert problem.startswith("revoke_grace: must, with close_timeout, be below kafka['max.poll.interval.ms']")
    assert "290.0 + 10.0 s against 300.0 s" in problem
    config({}, revoke_grace=289.9, close_timeout=10.0)
    config({"max.poll.interval.ms": 310_000}, revoke_grace=290.0)
    (problem,) = problems({"max.poll.interval.ms": "50000"}, revoke_grace=40.0)
    assert "against 50.0 s" in problem


def test_a_relation_is_not_asked_of_what_is_wrong_already() -> None:
    """A property that can't be read isn't compared with others, as if it had its default."""
    (problem,) = problems({"session.timeout.ms": "abc", "max.poll.interval.ms": 20_000})
    assert problem.startswith("kafka['session.timeout.ms']: librdkafka refuses")
    (problem,) = problems({}, revoke_grace=400.0, close_timeout="x")
    assert problem.startswith("close_timeout")


@pytest.mark.parametrize("pattern", [r"^a-\d+", r"^[\w.]+$", "^(?:a|b)"])
def test_patterns_are_judged_by_who_reads_them(pattern: str) -> None:
    """Under the new protocol the broker reads patterns, so that POSIX doesn't matter."""
    assert problems({}, topics=[pattern])
    config({"group.protocol": "consumer"}, topics=[pattern])


@pytest.mark.skipif(sys.platform != "linux", reason="on Linux, the binding's library gives access to librdkafka's")
def test_the_known_names_are_those_of_librdkafka(tmp_path: Path) -> None:
    """Every name that is proposed exists, and none that text can set is missing."""
    assert names_that_text_can_set("C", tmp_path / "properties") == PROPERTY_NAMES


@given(
    st.dictionaries(
        st.sampled_from(sorted(PROPERTY_NAMES - {"plugin.library.paths"})) | st.text(max_size=10),
        st.text(max_size=10) | st.integers() | st.floats() | st.booleans() | st.none(),
        max_size=4,
    )
)
def test_any_properties_make_a_config_or_a_config_error(kafka: dict[str, Any]) -> None:
    """Whatever the properties, there is a configuration whose values the client reads, or a ConfigError."""
    try:
        properties = client_properties(config(kafka))
    except ConfigError as error:
        found = error.problems
    else:
        found = ()
        assert set(kafka) <= set(properties)
        assert all(isinstance(value, str) for value in properties.values())
    assert all(problem.startswith(("kafka[", "revoke_grace: ")) for problem in found)


def test_checking_makes_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration costs no thread and no connection: librdkafka is asked without making a client."""
    created: list[Callable[..., Any]] = []

    class Recorder(Consumer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            created.append(Consumer)

    monkeypatch.setattr("trio_parallel_kafka.config.librdkafka.Consumer", Recorder)
    config({"client.rack": "a", "session.timeout.ms": 6000})
    assert not created
