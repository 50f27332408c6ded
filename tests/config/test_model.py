"""What a configuration takes, what it makes of it, and what it refuses."""

from __future__ import annotations

import ast
import functools
import itertools
import logging
import math
import pathlib
import pickle
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
from confluent_kafka.serialization import SerializationContext, StringDeserializer
from hypothesis import given, strategies as st

from trio_parallel_kafka.config import (
    BreakerPolicy,
    ConsumerConfig,
    DeadLetterConfig,
    Delivery,
    ExecutionMode,
    OnFailure,
    Ordering,
    ProducerConfig,
    RetryPolicy,
)
from trio_parallel_kafka.config.checks import MAX_SECONDS
from trio_parallel_kafka.config.properties import Properties
from trio_parallel_kafka.config.validation import FIELD_CHECKS, RELATIONS
from trio_parallel_kafka.errors import ConfigError
from trio_parallel_kafka.record import Record

REQUIRED: dict[str, Any] = {
    "bootstrap_servers": "localhost:9092",
    "group_id": "billing",
    "topics": ["orders"],
}


def config(**fields: Any) -> ConsumerConfig:
    """Make one of the required fields and these."""
    return ConsumerConfig(**{**REQUIRED, **fields})


def problems(**fields: Any) -> tuple[str, ...]:
    """Make one that is refused, and say why it is."""
    with pytest.raises(ConfigError) as caught:
        config(**fields)
    return caught.value.problems


def only_problem(**fields: Any) -> str:
    """Make one that is refused for one reason."""
    (problem,) = problems(**fields)
    return problem


def test_defaults_are_the_documented_ones() -> None:
    """Three fields are required, all others have their documented default."""
    assert attrs.asdict(config(), recurse=False) == {
        "bootstrap_servers": "localhost:9092",
        "group_id": "billing",
        "topics": ("orders",),
        "ordering": Ordering.KEY,
        "max_concurrency": 256,
        "execution_mode": ExecutionMode.ASYNC,
        "process_workers": None,
        "worker_initializer": None,
        "max_tasks_per_worker": None,
        "max_worker_memory": None,
        "worker_start_method": "spawn",
        "key_of": None,
        "max_buffered_records": 8_000,
        "max_buffered_bytes": 33_554_432,
        "commit_interval": 1.0,
        "revoke_grace": 5.0,
        "shutdown_timeout": 30.0,
        "auto_offset_reset": "earliest",
        "connect_timeout": 15.0,
        "close_timeout": 10.0,
        "stall_warning": 60.0,
        "handler_timeout": None,
        "retry": None,
        "on_failure": OnFailure.RAISE,
        "dead_letter": None,
        "breaker": None,
        "delivery": Delivery.AT_LEAST_ONCE,
        "transactional_id": None,
        "producer": None,
        "deserialize_key": None,
        "deserialize_value": None,
        "kafka": {},
    }


@pytest.mark.parametrize("field", REQUIRED)
def test_required_fields_have_no_default(field: str) -> None:
    """Leaving out a required field is a TypeError, as for any function."""
    with pytest.raises(TypeError, match=field):
        ConsumerConfig(**{name: value for name, value in REQUIRED.items() if name != field})


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("bootstrap_servers", "a, b:1", "a,b:1"),
        ("bootstrap_servers", ["a:9092", "[::1]:9093"], "a:9092,[::1]:9093"),
        ("bootstrap_servers", "SASL_SSL://broker_1.example:65535", "SASL_SSL://broker_1.example:65535"),
        ("topics", "orders", ("orders",)),
        ("topics", ["orders", "^audit-.*"], ("orders", "^audit-.*")),
        ("topics", ["^a[[:digit:]]{1,2}$"], ("^a[[:digit:]]{1,2}$",)),
        ("ordering", "partition", Ordering.PARTITION),
        ("ordering", Ordering.UNORDERED, Ordering.UNORDERED),
        ("auto_offset_reset", "smallest", "earliest"),
        ("auto_offset_reset", "beginning", "earliest"),
        ("auto_offset_reset", "largest", "latest"),
        ("auto_offset_reset", "end", "latest"),
        ("auto_offset_reset", "error", "none"),
        ("auto_offset_reset", "latest", "latest"),
        ("revoke_grace", 0, 0),
        ("shutdown_timeout", 0.0, 0.0),
        ("shutdown_timeout", MAX_SECONDS, MAX_SECONDS),
        ("key_of", len, len),
        ("key_of", Record, Record),
        ("handler_timeout", 0.5, 0.5),
        ("retry", RetryPolicy(max_attempts=3), RetryPolicy(max_attempts=3)),
        ("on_failure", "skip", OnFailure.SKIP),
        ("on_failure", OnFailure.DEAD_LETTER, OnFailure.DEAD_LETTER),
        ("dead_letter", DeadLetterConfig(), DeadLetterConfig()),
        ("breaker", BreakerPolicy(), BreakerPolicy()),
        ("producer", ProducerConfig(bootstrap_servers="a"), ProducerConfig(bootstrap_servers="a")),
        ("delivery", "at_least_once", Delivery.AT_LEAST_ONCE),
        ("deserialize_key", len, len),
        ("deserialize_value", StringDeserializer, StringDeserializer),
        ("kafka", {"session.timeout.ms": 6000}, {"session.timeout.ms": 6000}),
    ],
)
def test_fields_are_brought_into_one_form(field: str, given: Any, kept: Any) -> None:
    """Each way to write a value ends as the same one."""
    value = getattr(config(**{field: given}), field)
    assert value == kept
    assert type(value) is type(kept) or field == "kafka"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("bootstrap_servers", "", "must be 'host:port', several separated by commas, has ''"),
        ("bootstrap_servers", [], "has ''"),
        ("bootstrap_servers", "a:1,", "has ''"),
        ("bootstrap_servers", "a b", "has 'a b'"),
        ("bootstrap_servers", "a\0", r"has 'a\x00'"),
        ("bootstrap_servers", "user@host:1", "has 'user@host:1'"),
        ("bootstrap_servers", "a:65536", "must have ports from 1 to 65535, has 'a:65536'"),
        ("bootstrap_servers", "a:0", "ports from 1"),
        ("bootstrap_servers", 9092, "or a sequence of such, is 9092"),
        ("bootstrap_servers", ["a", 1], "is ['a', 1]"),
        ("group_id", "", "must be text that isn't empty, is ''"),
        ("group_id", " ", "is ' '"),
        ("group_id", "a\0b", r"is 'a\x00b'"),
        ("group_id", "\udc80", r"is '\udc80'"),
        ("group_id", None, "is None"),
        ("topics", [], "must name a topic at least"),
        ("topics", 5, "must be a topic, or a sequence of topics, is 5"),
        ("topics", {"orders"}, "is {'orders'}"),
        ("topics", ("orders", 5), "must have names or patterns only, has 5"),
        ("topics", ["a", "b", "a"], "must name each topic once, has 'a' 2 times"),
        ("topics", "a,b", "has 'a,b', which no topic can be called"),
        ("topics", "..", "has '..', which no topic"),
        ("topics", "x" * 250, "which no topic"),
        ("topics", "^(", "has the pattern '^(', which isn't a regular expression: missing )"),
        ("topics", "^a{99999999999}", "isn't a regular expression"),
        ("topics", "^a\0", "isn't plain text"),
        ("topics", "^(?!x)a", "librdkafka refuses"),
        ("topics", r"^a-\d+", "which would match other topics"),
        ("topics", r"^[\w.]+", "which would match other topics"),
        ("ordering", "kee", "must be one of 'key', 'partition', 'unordered', is 'kee'; did you mean 'key'?"),
        ("ordering", [], "is []"),
        ("max_concurrency", 0, "must be a whole number from 1 up, is 0"),
        ("max_concurrency", 1.5, "is 1.5"),
        ("max_concurrency", True, "is True"),
        ("max_buffered_records", "5", "is '5'"),
        ("max_buffered_bytes", 2**63, "from 1 up, is 9223372036854775808"),
        pytest.param("max_buffered_bytes", 10**5000, "is <int", id="max_buffered_bytes-huge"),
        ("key_of", "key", "must be a function of a record, is 'key'; None means the record's key"),
        ("commit_interval", 0, "must be seconds, from more than 0 to 2073600, is 0"),
        ("commit_interval", math.nan, "is nan"),
        ("connect_timeout", math.inf, "is inf"),
        ("close_timeout", -1, "is -1"),
        ("stall_warning", True, "is True"),
        ("revoke_grace", -0.5, "must be seconds, from 0 to 2073600, is -0.5"),
        ("shutdown_timeout", "30", "is '30'"),
        ("auto_offset_reset", "earliesst", "is 'earliesst'; did you mean 'earliest'?"),
        ("auto_offset_reset", None, "is None"),
        ("handler_timeout", 0, "must be seconds, from more than 0 to 2073600, is 0; None means no bound"),
        ("handler_timeout", "5", "is '5'"),
        ("retry", {"max_attempts": 3}, "must be a RetryPolicy, is of type dict; None means no retries"),
        ("on_failure", "retry", "must be one of 'raise', 'skip', 'dead_letter', is 'retry'"),
        ("on_failure", "dead-letter", "did you mean 'dead_letter'?"),
        ("on_failure", {}, "is {}"),
        ("dead_letter", "orders.dlt", "must be a DeadLetterConfig, is of type str"),
        ("breaker", True, "must be a BreakerPolicy, is of type bool; None means none"),
        ("delivery", "exactly-once", "is 'exactly-once'; did you mean 'exactly_once'?"),
        ("transactional_id", " ", "must be text that isn't empty, is ' '; None means none"),
        ("producer", "sasl.password=hunter2", "must be a ProducerConfig, is of type str; None means one with the con"),
        ("deserialize_key", "json", "must be a function of bytes and a context, is 'json'; None means the raw key"),
        ("deserialize_value", b"", "None means the raw value"),
        ("kafka", "sasl.password=hunter2", "must be a mapping of librdkafka properties, is of type str"),
        ("kafka", [("a", "b")], "is of type list"),
    ],
)
def test_a_wrong_value_is_named_with_its_field_and_the_fix(field: str, value: Any, expected: str) -> None:
    """A field that can't be used is refused with its name, its value and what would do."""
    problem = only_problem(**{field: value})
    assert problem.startswith(f"{field}: ")
    assert expected in problem
    assert "hunter2" not in problem


async def an_async_key(record: Record) -> bytes:
    """Wait for a key."""
    return b""


async def an_async_generator(record: Record) -> AsyncIterator[bytes]:
    """Yield keys."""
    yield b""


async def an_async_deserializer(data: bytes | None, context: SerializationContext) -> str:
    """Wait for a value."""
    return ""


class AsyncCallable:
    async def __call__(self, record: Record) -> bytes:
        return b""


@pytest.mark.parametrize("key_of", [an_async_key, an_async_generator, AsyncCallable(), functools.partial(an_async_key)])
def test_an_async_key_of_is_refused_with_the_reason(key_of: Callable[..., Any]) -> None:
    """A key must be known before anything can wait, so ``key_of`` may not be async, in whatever disguise."""
    assert "key_of: must not be async" in only_problem(key_of=key_of)


@pytest.mark.parametrize("field", ["deserialize_key", "deserialize_value"])
def test_an_async_deserializer_is_refused_with_the_reason(field: str) -> None:
    """A deserialiser is called where it may block, not awaited."""
    assert f"{field}: must not be async" in only_problem(**{field: an_async_deserializer})


def test_exactly_once_needs_an_identity() -> None:
    """A transactional producer is known by its id, which the user has to give."""
    assert only_problem(delivery="exactly_once").startswith(
        "transactional_id: is needed for delivery='exactly_once', is None; give a name"
    )
    made = config(delivery="exactly_once", transactional_id="billing-1")
    assert (made.delivery, made.transactional_id) == (Delivery.EXACTLY_ONCE, "billing-1")


def test_an_identity_without_exactly_once_is_refused() -> None:
    """Who gives an id wants transactions, and must say so."""
    assert only_problem(transactional_id="billing-1") == (
        "transactional_id: goes with delivery='exactly_once' only, is 'billing-1'; set the one, or leave the other out"
    )


def test_exactly_once_reads_only_what_is_committed() -> None:
    """What is undone must not be handled, so the isolation level can't be lowered."""
    transactional = {"delivery": "exactly_once", "transactional_id": "billing-1"}
    assert only_problem(**transactional, kafka={"isolation.level": "read_uncommitted"}).startswith(
        "kafka['isolation.level']: is read_committed with delivery='exactly_once', not read_uncommitted: "
    )
    for level in ("read_committed", "READ_COMMITTED"):
        assert config(**transactional, kafka={"isolation.level": level}).kafka == {"isolation.level": level}
    assert config(kafka={"isolation.level": "read_uncommitted"}).kafka


def test_a_producer_in_transactions_is_idempotent() -> None:
    """Transactions build on idempotence, so it can't be turned off under them."""
    producer = ProducerConfig(bootstrap_servers="localhost", kafka={"enable.idempotence": False})
    assert only_problem(delivery="exactly_once", transactional_id="billing-1", producer=producer).startswith(
        "producer.kafka['enable.idempotence']: can't be off with delivery='exactly_once'"
    )
    assert config(producer=producer).producer == producer


def test_all_problems_are_reported_at_once() -> None:
    """Faults in fields, in properties and between them come in one error, in the order of the fields."""
    found = problems(
        bootstrap_servers="a b,c d",
        topics=["a", "a"],
        max_concurrency=0,
        revoke_grace=400.0,
        kafka={"sessionn.timeout.ms": 1, "heartbeat.interval.ms": 50_000, "partition.assignment.strategy": "x"},
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "bootstrap_servers",
        "bootstrap_servers",
        "topics",
        "max_concurrency",
        "kafka['sessionn.timeout.ms']",
        "revoke_grace",
        "kafka['heartbeat.interval.ms']",
        "kafka['partition.assignment.strategy']",
    ]


def test_the_message_lists_every_problem() -> None:
    """The error's text has one line for each problem."""
    with pytest.raises(ConfigError) as caught:
        config(group_id="", max_concurrency=0)
    assert str(caught.value).splitlines() == [
        "invalid configuration:",
        "- group_id: must be text that isn't empty, is ''",
        "- max_concurrency: must be a whole number from 1 up, is 0",
    ]


def test_every_field_has_its_check() -> None:
    """No field can be added without saying what it has to be, and relations compare what there is."""
    fields = [field.name for field in attrs.fields(ConsumerConfig)]
    assert list(FIELD_CHECKS) == fields
    compared = {subject.partition("[")[0] for _, subjects in RELATIONS for subject in subjects}
    assert compared <= set(fields)


@pytest.mark.parametrize("cls", [ConsumerConfig, RetryPolicy, DeadLetterConfig, BreakerPolicy])
def test_every_field_is_documented(cls: type[attrs.AttrsInstance]) -> None:
    """The source has a docstring below each field, with its default unless it is required."""
    source = pathlib.Path(sys.modules[cls.__module__].__file__ or "").read_text(encoding="utf-8")
    (body,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
    documented = {}
    for statement, following in itertools.pairwise(body.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(following, ast.Expr), statement.target.id
            assert isinstance(following.value, ast.Constant), statement.target.id
            documented[statement.target.id] = str(following.value.value)
    assert list(documented) == [field.name for field in attrs.fields(cls)]
    for field, text in documented.items():
        assert ("Required." in text) if field in REQUIRED else ("efault" in text), field


def test_a_config_cannot_be_changed() -> None:
    """Fields can't be assigned to, and a mapping that was given can change without effect."""
    kafka = {"client.rack": "a"}
    made = config(kafka=kafka)
    kafka["client.rack"] = "b"
    assert made.kafka["client.rack"] == "a"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.group_id = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        made.kafka["client.rack"] = "c"  # type: ignore[index]


def test_evolve_makes_a_checked_copy() -> None:
    """``attrs.evolve`` keeps what isn't named and checks what is."""
    made = config(kafka={"client.rack": "a"}, ordering="partition")
    assert attrs.evolve(made, max_concurrency=3) == config(
        kafka={"client.rack": "a"}, ordering="partition", max_concurrency=3
    )
    with pytest.raises(ConfigError, match="max_concurrency"):
        attrs.evolve(made, max_concurrency=0)


def test_errors_survive_pickling() -> None:
    """A process that can't be configured can tell another one why."""
    with pytest.raises(ConfigError) as caught:
        config(group_id="", max_concurrency=0)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.problems == caught.value.problems
    assert [problem.subject for problem in copy.problems] == ["group_id", "max_concurrency"]


def test_equal_configs_have_equal_hashes_and_survive_pickling() -> None:
    """A configuration may be a key, and go to another process."""
    made = config(kafka={"client.rack": "a", "session.timeout.ms": 6000})
    twin = config(kafka={"session.timeout.ms": 6000, "client.rack": "a"})
    assert made == twin
    assert hash(made) == hash(twin)
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    "name",
    [
        "sasl.password",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.extensions",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.assertion.private.key.pem",
    ],
)
def test_secrets_do_not_show(name: str) -> None:
    """Neither the configuration nor its properties show a secret; what is no secret shows."""
    made = config(kafka={name: "hunter2", "client.rack": "a"})
    assert made.kafka[name] == "hunter2"
    for text in (repr(made), str(made), repr(made.kafka), str(made.kafka), f"{attrs.asdict(made)}"):
        assert "hunter2" not in text
        assert "'client.rack': 'a'" in text


@pytest.mark.parametrize(
    "kafka",
    [
        {"sasl.passwoord": "hunter2"},
        {"sasl.password": ["hunter2"]},
        {"sasl.password": "hunter2\0"},
        {"group.id": "hunter2"},
        {"SASL.PASSWORD": "hunter2"},
        {"oauth_cb": "hunter2"},
        {"logger": "hunter2"},
        {"hunter.password": "hunter2"},
    ],
)
def test_errors_do_not_show_values_that_may_be_secret(kafka: dict[str, Any]) -> None:
    """The value of a property that can't be used isn't shown, for it may be a secret under a wrong name."""
    assert "hunter2" not in only_problem(kafka=kafka)


def test_properties_are_a_mapping() -> None:
    """The properties have a length, an order and an equality like any mapping."""
    properties = Properties({"b": 1, "a": logging.getLogger()})
    assert list(properties) == ["b", "a"]
    assert len(properties) == 2
    assert properties == {"a": logging.getLogger(), "b": 1}
    assert "c" not in properties


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(FIELD_CHECKS)), values, max_size=6))
def test_any_values_make_a_config_or_a_config_error(fields: dict[str, Any]) -> None:
    """Whatever the fields hold, there is a configuration or a ConfigError that names only fields."""
    try:
        made = config(**fields)
    except ConfigError as error:
        found = error.problems
    else:
        found = ()
        assert attrs.evolve(made) == made
        assert repr(made)
    assert {problem.partition(":")[0].partition("[")[0] for problem in found} <= set(FIELD_CHECKS)
