"""Configurations from mappings and TOML files."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from cattrs import ClassValidationError
from hypothesis import given, strategies as st

from trio_parallel_kafka.config import (
    BreakerPolicy,
    ConsumerConfig,
    DeadLetterConfig,
    Ordering,
    ProducerConfig,
    RetryPolicy,
)
from trio_parallel_kafka.config.producer import producer_for
from trio_parallel_kafka.errors import ConfigError

REQUIRED: Mapping[str, Any] = {
    "bootstrap_servers": "localhost:9092",
    "group_id": "billing",
    "topics": ["orders"],
}


def load(**fields: Any) -> ConsumerConfig:
    """Load a mapping of the required fields and these."""
    return ConsumerConfig.from_mapping({**REQUIRED, **fields})


def problems(mapping: Any) -> tuple[str, ...]:
    """Load a mapping that is refused, and say why it is."""
    with pytest.raises(ConfigError) as caught:
        ConsumerConfig.from_mapping(mapping)
    return caught.value.problems


def test_a_mapping_is_loaded() -> None:
    """A mapping of fields makes the same configuration as the constructor."""
    assert load(ordering="partition", kafka={"client.rack": "a"}) == ConsumerConfig(
        **REQUIRED, ordering=Ordering.PARTITION, kafka={"client.rack": "a"}
    )


@pytest.mark.parametrize(
    ("field", "given_as", "value"),
    [
        ("max_concurrency", "64", 64),
        ("max_concurrency", "1e3", 1000),
        ("max_concurrency", 1000.0, 1000),
        ("commit_interval", "1e-1", 0.1),
        ("commit_interval", "2", 2.0),
        ("commit_interval", 2, 2),
        ("key_of", "math:sqrt", math.sqrt),
        ("key_of", "os:path.join", os.path.join),
        ("key_of", None, None),
        ("key_of", len, len),
        (
            "kafka",
            {"sasl": {"username": "me"}, "client.rack": "a"},
            {"sasl.username": "me", "client.rack": "a"},
        ),
        ("kafka", {"sasl": {"oauthbearer.client": {"id": "x"}}}, {"sasl.oauthbearer.client.id": "x"}),
        ("handler_timeout", "5", 5.0),
        ("handler_timeout", None, None),
        ("deserialize_key", "math:sqrt", math.sqrt),
        ("deserialize_value", len, len),
        ("retry", {"max_attempts": "3", "jitter": "0.5"}, RetryPolicy(max_attempts=3, jitter=0.5)),
        ("retry", {"max_attempts": "None"}, RetryPolicy(max_attempts=None)),
        ("retry", {"max_attempts": None}, RetryPolicy(max_attempts=None)),
        ("retry", {"retry_on": "builtins:OSError"}, RetryPolicy(retry_on=OSError)),
        ("retry", {"retry_on": "builtins:OSError,os:error"}, RetryPolicy(retry_on=(OSError, OSError))),
        ("retry", {"retry_on": ["builtins:OSError", ValueError]}, RetryPolicy(retry_on=(OSError, ValueError))),
        ("retry", {"retry_on": "math:isnan"}, RetryPolicy(retry_on=math.isnan)),
        ("retry", {"retry_on": ValueError}, RetryPolicy(retry_on=ValueError)),
        ("retry", {}, RetryPolicy()),
        ("retry", None, None),
        ("retry", RetryPolicy(max_attempts=3), RetryPolicy(max_attempts=3)),
        ("dead_letter", {"topic": "letters"}, DeadLetterConfig(topic="letters")),
        ("dead_letter", {"topic": "os:fspath"}, DeadLetterConfig(topic=os.fspath)),  # type: ignore[arg-type]
        ("dead_letter", {"topic": None}, DeadLetterConfig()),
        ("dead_letter", {"on_dead_letter_failure": "skip"}, DeadLetterConfig(on_dead_letter_failure="skip")),
        ("breaker", {"window": "3"}, BreakerPolicy(window=3.0)),
        (
            "producer",
            {"bootstrap_servers": ["other:1", "other:2"], "kafka": {"linger": {"ms": "5"}}},
            ProducerConfig(bootstrap_servers="other:1,other:2", kafka={"linger.ms": "5"}),
        ),
    ],
)
def test_text_is_taken_for_what_it_is_for_certain(field: str, given_as: Any, value: Any) -> None:
    """Numbers and functions may be given as text, properties nested."""
    assert getattr(load(**{field: given_as}), field) == value


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("max_concurrency", "many", "must be a whole number from 1 up, is 'many'"),
        ("max_concurrency", "1.5", "is '1.5'"),
        ("max_concurrency", "9007199254740993.0", "is '9007199254740993.0'"),
        ("max_concurrency", "1e999", "is '1e999'"),
        ("max_concurrency", "true", "is 'true'"),
        ("commit_interval", "soon", "must be seconds, from more than 0 to 2073600, is 'soon'"),
        ("commit_interval", "nan", "is nan"),
        ("group_id", 5, "must be text that isn't empty, is 5"),
        ("key_of", "sqrt", "must be 'module:function', is 'sqrt'"),
        ("key_of", "math:squareroot", "can't import 'math:squareroot': AttributeError"),
        ("key_of", "no_such_module:f", "can't import 'no_such_module:f': ModuleNotFoundError"),
        ("key_of", "math:pi", "must be a function of a record"),
        ("kafka", {"sasl": {"username": "a"}, "sasl.username": "b"}, "has 'sasl.username' twice"),
        ("kafka", 5, "must be a mapping"),
        ("kafka", {"sasl": {"passwoord": "hunter2"}}, "did you mean 'sasl.password'?"),
        ("handler_timeout", "none", "must be seconds, from more than 0 to 2073600, is 'none'"),
        ("deserialize_value", "sqrt", "must be 'module:function', is 'sqrt'"),
        ("retry", "3", "must be a RetryPolicy, is of type str; None means no retries"),
        ("retry", {"max_atempts": 3}, "max_atempts: is no field; did you mean 'max_attempts'?"),
        ("retry", {"max_attempts": "0"}, "max_attempts: must be a whole number from 1 up, is 0"),
        ("retry", {"retry_on": "OSError"}, "retry_on: must be 'module:Class', is 'OSError'"),
        ("retry", {"retry_on": ["builtins:OSEror"]}, "retry_on: can't import 'builtins:OSEror': AttributeError"),
        ("retry", {"retry_on": 5}, "retry_on: must be a function of an exception"),
        ("retry", {"retry_on": [5]}, "retry_on: must be a function of an exception"),
        ("dead_letter", {"topic": "a b"}, "topic: has 'a b', which no topic can be called"),
        ("dead_letter", {"topic": "os:letters"}, "topic: can't import 'os:letters'"),
        ("dead_letter", {"on_dead_letter_failure": "stop"}, "on_dead_letter_failure: must be one of"),
        ("producer", "other:1", "must be a ProducerConfig, is of type str"),
        ("producer", {"kafka": {"group.id": "g"}}, "kafka['group.id']: is refused: it is for consumers"),
        ("producer", {"kafka": 5}, "kafka: must be a mapping of librdkafka properties, is of type int"),
        ("producer", {"bootstrap_servers": "a b"}, "bootstrap_servers: must be 'host:port'"),
        ("producer", {"kafka": {"linger": {"ms": 1}, "linger.ms": 2}}, "kafka: has 'linger.ms' twice"),
    ],
)
def test_what_is_not_certain_is_an_error(field: str, value: Any, expected: str) -> None:
    """Values that can't be converted exactly are refused as they were given."""
    (problem,) = problems({**REQUIRED, field: value})
    assert problem.startswith((f"{field}: ", f"{field}[", f"{field}."))
    assert expected in problem
    assert "hunter2" not in problem


def test_unknown_and_missing_names_come_with_all_other_problems() -> None:
    """Names are judged together with values, so that one run tells all that is to be done."""
    assert problems(
        {
            "bootstrap_server": "localhost",
            "topics": ["a", "a"],
            "zzz": 1,
            5: 6,
            "key_of": "x",
            "max_concurrency": "many",
            "kafka": {"sasl": {"passwoord": "hunter2"}, "heartbeat.interval.ms": 50_000},
        }
    ) == (
        "5: is no field; the fields are " + ", ".join(field.name for field in attrs.fields(ConsumerConfig)),
        "bootstrap_server: is no field; did you mean 'bootstrap_servers'?",
        "zzz: is no field; the fields are " + ", ".join(field.name for field in attrs.fields(ConsumerConfig)),
        "bootstrap_servers: is missing, and has no default; give one",
        "group_id: is missing, and has no default; give one",
        "key_of: must be 'module:function', is 'x'",
        "topics: must name each topic once, has 'a' 2 times",
        "max_concurrency: must be a whole number from 1 up, is 'many'",
        "kafka['sasl.passwoord']: is no property of librdkafka; did you mean 'sasl.password'?",
        (
            "kafka['heartbeat.interval.ms']: must be below session.timeout.ms, is 50000 against 45000: the "
            "group would take the member for dead; a third of it is usual"
        ),
    )


def test_only_a_name_may_be_wrong() -> None:
    """An unknown name alone is the one problem, whether it has dots or not."""
    assert problems({**REQUIRED, "retry.max_attempts": 3}) == (
        "retry.max_attempts: is no field; the fields are "
        + ", ".join(field.name for field in attrs.fields(ConsumerConfig)),
    )
    assert problems({**REQUIRED, "comit_interval": 1}) == (
        "comit_interval: is no field; did you mean 'commit_interval'?",
    )


def test_all_problems_within_fields_are_reported_at_once() -> None:
    """Fields within fields are judged together with the others, each by its whole name."""
    assert problems(
        {
            **REQUIRED,
            "max_concurrency": 0,
            "retry": {"max_atempts": 3, "initial_backoff": 31, "retry_on": "x", "jitter": "a lot"},
            "breaker": {"window": 0, "min_attempts": "few"},
            "producer": {"kafka": {"sasl": {"passwoord": "hunter2"}}, "close_timeout": 0},
        }
    ) == (
        "retry.max_atempts: is no field; did you mean 'max_attempts'?",
        "retry.retry_on: must be 'module:Class', is 'x'",
        "retry.jitter: must be a fraction, from 0 to 1, is 'a lot'",
        "retry.initial_backoff: must not be above max_backoff, is 31 against 30.0 s; lower the one or raise the other",
        "breaker.min_attempts: must be a whole number from 1 up, is 'few'",
        "breaker.window: must be seconds, from more than 0 to 2073600, is 0",
        "producer.close_timeout: must be seconds, from more than 0 to 2073600, is 0",
        "producer.kafka['sasl.passwoord']: is no property of librdkafka; did you mean 'sasl.password'?",
        "max_concurrency: must be a whole number from 1 up, is 0",
    )


def test_a_producer_without_servers_has_the_consumers_connection() -> None:
    """What connects the consumer connects its producer, unless that has its own word for it or its own servers."""
    kafka = {"sasl": {"username": "me", "password": "hunter2"}, "client.rack": "a", "session.timeout.ms": 6000}
    made = load(kafka=kafka, producer={"kafka": {"client": {"rack": "b"}, "linger.ms": 5}}).producer
    assert made is not None
    assert made.bootstrap_servers == "localhost:9092"
    assert made.kafka == {
        **producer_for("localhost:9092", {"sasl.username": "me", "sasl.password": "hunter2"}).kafka,
        "client.rack": "b",
        "linger.ms": 5,
    }
    elsewhere = load(kafka=kafka, producer={"bootstrap_servers": "other:1"}).producer
    assert elsewhere == ProducerConfig(bootstrap_servers="other:1")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"bootstrap_servers": "a b"}, ["bootstrap_servers"]),
        ({"kafka": {"sasl.passwoord": "hunter2"}}, ["kafka['sasl.passwoord']"]),
        ({"kafka": {"sasl": {"username": "a"}, "sasl.username": "b"}}, ["kafka"]),
        ({"kafka": 5}, ["kafka"]),
        ({"kafka": {5: "x"}}, ["kafka[5]"]),
    ],
)
def test_what_a_producer_takes_over_is_judged_once(fields: dict[str, Any], expected: list[str]) -> None:
    """A fault in the consumer's connection isn't told again as one of its producer."""
    found = problems({**REQUIRED, "producer": {"kafka": {"linger.ms": 5}}, **fields})
    assert [problem.partition(": ")[0] for problem in found] == expected


def test_a_producer_does_not_ask_for_servers_that_its_consumer_lacks() -> None:
    """Missing servers are missing once."""
    assert problems({"group_id": "billing", "topics": "orders", "producer": {}}) == (
        "bootstrap_servers: is missing, and has no default; give one",
    )


def test_a_producer_is_loaded_by_itself() -> None:
    """A mapping of fields makes the same configuration as the constructor."""
    made = ProducerConfig.from_mapping({"bootstrap_servers": ["a", "b"], "kafka": {"linger": {"ms": 5}}})
    assert made == ProducerConfig(bootstrap_servers="a,b", kafka={"linger.ms": 5})
    with pytest.raises(ConfigError) as caught:
        ProducerConfig.from_mapping({"serialise_value": "math:sqrt"})
    assert caught.value.problems == (
        "serialise_value: is no field; did you mean 'serialize_value'?",
        "bootstrap_servers: is missing, and has no default; give one",
    )


def test_the_cause_is_chained() -> None:
    """What cattrs had to say stays within reach."""
    with pytest.raises(ConfigError) as caught:
        ConsumerConfig.from_mapping({})
    assert isinstance(caught.value.__cause__, ClassValidationError)


@pytest.mark.parametrize("mapping", [None, [], "group_id=a"])
def test_only_a_mapping_can_be_loaded(mapping: Any) -> None:
    """What is no mapping at all is a ConfigError too."""
    assert problems(mapping) == (f"a configuration must be a mapping of fields, is of type {type(mapping).__name__}",)


seconds = st.floats(min_value=0.001, max_value=100)
counts = st.integers(min_value=1, max_value=2**40)


@given(
    st.fixed_dictionaries(
        {
            "bootstrap_servers": st.just("localhost:9092"),
            "group_id": st.text(min_size=1).filter(lambda text: text.strip() and "\0" not in text),
            "topics": st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True), min_size=1, unique=True),
        },
        optional={
            "ordering": st.sampled_from([*Ordering, "key"]),
            "max_concurrency": counts,
            "max_buffered_bytes": counts,
            "commit_interval": seconds,
            "revoke_grace": seconds,
            "auto_offset_reset": st.sampled_from(["earliest", "end", "none"]),
            "retry": st.fixed_dictionaries(
                {}, optional={"max_attempts": counts | st.none(), "multiplier": seconds.map(math.exp)}
            ),
            "dead_letter": st.fixed_dictionaries({}, optional={"topic": st.sampled_from(["LETTERS", None])}),
            "breaker": st.fixed_dictionaries({}, optional={"window": seconds}),
            "handler_timeout": seconds | st.none(),
            "kafka": st.dictionaries(st.sampled_from(["client.rack", "sasl.password"]), st.text("ab:1")),
        },
    )
)
def test_a_config_survives_being_a_mapping(fields: dict[str, Any]) -> None:
    """What a configuration holds, as a mapping, loads as an equal one; so does the text of each number."""
    made = ConsumerConfig.from_mapping(fields)
    as_mapping = attrs.asdict(made, recurse=False)
    assert ConsumerConfig.from_mapping(as_mapping) == made
    as_text = {name: repr(value) if isinstance(value, int | float) else value for name, value in as_mapping.items()}
    assert ConsumerConfig.from_mapping(as_text) == made


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([field.name for field in attrs.fields(ConsumerConfig)]) | st.text(max_size=12)
inner_names = st.sampled_from(
    [field.name for cls in (RetryPolicy, DeadLetterConfig, ProducerConfig) for field in attrs.fields(cls)]
)
json_like |= st.dictionaries(inner_names | st.text(max_size=12), json_like, max_size=3)


@given(st.dictionaries(names | st.integers(), json_like, max_size=6), st.booleans())
def test_any_mapping_makes_a_config_or_a_config_error(mapping: dict[Any, Any], is_complete: bool) -> None:
    """No mapping leads to another exception than ConfigError."""
    outcome: ConsumerConfig | ConfigError
    try:
        outcome = ConsumerConfig.from_mapping({**REQUIRED, **mapping} if is_complete else mapping)
    except ConfigError as error:
        outcome = error
    assert isinstance(outcome, ConsumerConfig) or len(set(outcome.problems)) == len(outcome.problems) > 0


TOML = """
bootstrap_servers = "localhost:9092"
group_id = "billing"
topics = ["orders", "^audit-"]
commit_interval = 0.5
max_concurrency = 64

[kafka]
sasl.username = "me"
"sasl.password" = "hunter2"
session.timeout.ms = 6_000
enable.ssl.certificate.verification = false

[retry]
max_attempts = 3
retry_on = ["builtins:OSError"]

[producer.kafka]
linger.ms = 5
"""

EXPECTED = ConsumerConfig(
    bootstrap_servers="localhost:9092",
    group_id="billing",
    topics=["orders", "^audit-"],
    commit_interval=0.5,
    max_concurrency=64,
    kafka={
        "sasl.username": "me",
        "sasl.password": "hunter2",
        "session.timeout.ms": 6000,
        "enable.ssl.certificate.verification": False,
    },
    retry=RetryPolicy(max_attempts=3, retry_on=OSError),
    producer=ProducerConfig(
        bootstrap_servers="localhost:9092",
        kafka={
            "sasl.username": "me",
            "sasl.password": "hunter2",
            "enable.ssl.certificate.verification": False,
            "message.max.bytes": 1_000_000_000,
            "linger.ms": 5,
        },
    ),
)


def in_table(name: str) -> str:
    """Put what ``TOML`` says into a table."""
    nested = re.sub(r"^\[", f"[{name}.", TOML, flags=re.MULTILINE)
    return f"[{name}]{nested}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of a file that a test writes."""
    return tmp_path / "consumer.toml"


@pytest.mark.parametrize(
    ("text", "table"),
    [
        (TOML, None),
        (in_table("trio-parallel-kafka"), None),
        ("[tool.other]\nx = 1\n" + in_table("tool.trio-parallel-kafka"), None),
        (in_table("trio-parallel-kafka") + in_table("other"), "other"),
        (in_table("consumers.billing"), "consumers.billing"),
    ],
)
def test_a_toml_file_is_loaded(file: Path, text: str, table: str | None) -> None:
    """The configuration is at the top level, in one of two tables, or in the one that is named."""
    file.write_text(text, encoding="utf-8")
    assert ConsumerConfig.from_toml(file, table=table) == EXPECTED
    assert ConsumerConfig.from_toml(str(file), table=table) == EXPECTED


@pytest.mark.parametrize(
    "table", [None, "producer", "trio-parallel-kafka.producer", "tool.trio-parallel-kafka.producer"]
)
def test_a_producers_file_is_loaded(file: Path, table: str | None) -> None:
    """A producer's fields are at the top level, in one of two tables, or in the one that is named."""
    header = f"[{table}]\n" if table else ""
    file.write_text(f'{header}bootstrap_servers = "a"\nkafka.linger.ms = 5\n', encoding="utf-8")
    made = ProducerConfig.from_toml(file, table="producer" if table == "producer" else None)
    assert made == ProducerConfig(bootstrap_servers="a", kafka={"linger.ms": 5})


def toml_problems(file: Path, text: str, table: str | None = None) -> tuple[str, ...]:
    """Load a file that is refused, and say why it is."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        ConsumerConfig.from_toml(file, table=table)
    assert "hunter2" not in str(caught.value)
    return caught.value.problems


def test_problems_name_the_file(file: Path) -> None:
    """Every problem with what a file says ends with its name."""
    found = toml_problems(
        file, 'grup_id = "a"\ntopics = 5\nmax_concurrency = "x"\n[kafka]\nsasl.passwoord = "hunter2"\n'
    )
    assert len(found) == 6
    assert all(problem.endswith(f" (in {file})") for problem in found)


@pytest.mark.parametrize(
    ("text", "table", "expected"),
    [
        ("group_id = billing", None, "is no TOML: "),
        ('sasl.password = "hunter2', None, "is no TOML: "),
        ("x = " + "[" * 100_000, None, "is no TOML: "),
        (TOML, "consumers", "has no table [consumers]"),
        (in_table("consumer"), "consumers", "has no table [consumers]; did you mean 'consumer'?"),
        ("consumers = 5", "consumers", "has no table [consumers]"),
        ("consumers = 5", "consumers.billing", "has no table [consumers.billing]"),
        (
            in_table("trio-parallel-kafka") + in_table("tool.trio-parallel-kafka"),
            None,
            "has both [trio-parallel-kafka] and [tool.trio-parallel-kafka]; leave one out, or name the table",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_an_error(file: Path, text: str, table: str | None, expected: str) -> None:
    """Bad syntax, a missing table and an ambiguous one are told, with the file's name."""
    (problem,) = toml_problems(file, text, table)
    assert problem.startswith(f"{file} {expected}")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that aren't UTF-8 are a ConfigError with the cause chained."""
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff")
    for path, cause in (
        (tmp_path / "missing.toml", FileNotFoundError),
        (tmp_path, OSError),
        (binary, UnicodeDecodeError),
    ):
        with pytest.raises(ConfigError) as caught:
            ConsumerConfig.from_toml(path)
        assert str(path) in str(caught.value)
        assert isinstance(caught.value.__cause__, cause)
