"""Configurations from environment variables and ``.env`` files."""

from __future__ import annotations

import gc
import math
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from trio_parallel_kafka.config import (
    BreakerPolicy,
    ConsumerConfig,
    DeadLetterConfig,
    ExecutionMode,
    Ordering,
    ProducerConfig,
    RetryPolicy,
)
from trio_parallel_kafka.config.property_names import PRODUCER_PROPERTY_NAMES, PROPERTY_NAMES
from trio_parallel_kafka.errors import ConfigError

REQUIRED = {
    "KAFKA_BOOTSTRAP_SERVERS": "localhost:9092",
    "KAFKA_CONSUMER_GROUP": "billing",
    "KAFKA_TOPICS": "orders, ^audit-",
}

functions: Any = math
"""Any functions at all, whatever they take."""


def problems(variables: dict[str, str], dotenv: Path | None = None) -> tuple[str, ...]:
    """Load variables that are refused, and say why they are."""
    with pytest.raises(ConfigError) as caught:
        ConsumerConfig.from_env(variables, dotenv=dotenv)
    assert "hunter2" not in str(caught.value)
    return caught.value.problems


def test_three_variables_are_enough() -> None:
    """The variables that are common for Kafka programs set the fields that are required."""
    assert ConsumerConfig.from_env({**REQUIRED, "KAFKA_HEAP_OPTS": "-Xmx1g", "PATH": "/bin"}) == ConsumerConfig(
        bootstrap_servers="localhost:9092", group_id="billing", topics=("orders", "^audit-")
    )


def test_every_field_has_its_variable() -> None:
    """Each field but ``kafka`` can be set by its name in capitals after the prefix."""
    texts = {
        "bootstrap_servers": "a:1,b:2",
        "group_id": "g",
        "topics": "a,b",
        "ordering": "unordered",
        "max_concurrency": "1e3",
        "execution_mode": "process",
        "process_workers": "3",
        "worker_initializer": "gc:collect",
        "max_tasks_per_worker": "1e4",
        "max_worker_memory": "1000000000",
        "worker_start_method": "forkserver",
        "key_of": "math:sqrt",
        "max_buffered_records": "7",
        "max_buffered_bytes": "8",
        "commit_interval": "0.5",
        "revoke_grace": "0",
        "shutdown_timeout": "1e1",
        "auto_offset_reset": "end",
        "connect_timeout": "3",
        "close_timeout": "4",
        "stall_warning": "5",
        "handler_timeout": "6",
        "retry_max_attempts": "none",
        "retry_initial_backoff": "0",
        "retry_max_backoff": "1e1",
        "retry_multiplier": "3",
        "retry_jitter": "0.5",
        "retry_retry_on": "builtins:OSError, builtins:ValueError",
        "on_failure": "dead_letter",
        "dead_letter_topic": "letters",
        "dead_letter_on_dead_letter_failure": "retry",
        "breaker_failure_rate": "0.25",
        "breaker_min_attempts": "7",
        "breaker_window": "8",
        "breaker_probe_interval": "9",
        "delivery": "exactly_once",
        "transactional_id": "t",
        "producer_bootstrap_servers": "c:3",
        "producer_delivery_timeout": "11",
        "producer_connect_timeout": "12",
        "producer_close_timeout": "13",
        "producer_serialize_key": "math:exp",
        "producer_serialize_value": "math:log",
        "deserialize_key": "math:sin",
        "deserialize_value": "math:cos",
    }
    made = ConsumerConfig.from_env({f"PARALLEL_CONSUMER_{field.upper()}": text for field, text in texts.items()})
    sections = {
        "retry": RetryPolicy,
        "dead_letter": DeadLetterConfig,
        "breaker": BreakerPolicy,
        "producer": ProducerConfig,
    }
    within = {f"{name}_{field.name}" for name, cls in sections.items() for field in attrs.fields(cls)}
    fields = {field.name for field in attrs.fields(ConsumerConfig)} - sections.keys()
    assert {*texts, "kafka", "producer_kafka"} == fields | within
    assert made == ConsumerConfig(
        bootstrap_servers=["a:1", "b:2"],
        group_id="g",
        topics=["a", "b"],
        ordering=Ordering.UNORDERED,
        max_concurrency=1000,
        execution_mode=ExecutionMode.PROCESS,
        process_workers=3,
        worker_initializer=gc.collect,
        max_tasks_per_worker=10_000,
        max_worker_memory=1_000_000_000,
        worker_start_method="forkserver",
        key_of=functions.sqrt,
        max_buffered_records=7,
        max_buffered_bytes=8,
        commit_interval=0.5,
        revoke_grace=0.0,
        shutdown_timeout=10.0,
        auto_offset_reset="latest",
        connect_timeout=3.0,
        close_timeout=4.0,
        stall_warning=5.0,
        handler_timeout=6.0,
        retry=RetryPolicy(
            max_attempts=None,
            initial_backoff=0.0,
            max_backoff=10.0,
            multiplier=3.0,
            jitter=0.5,
            retry_on=(OSError, ValueError),
        ),
        on_failure="dead_letter",
        dead_letter=DeadLetterConfig(topic="letters", on_dead_letter_failure="retry"),
        breaker=BreakerPolicy(failure_rate=0.25, min_attempts=7, window=8.0, probe_interval=9.0),
        delivery="exactly_once",
        transactional_id="t",
        producer=ProducerConfig(
            bootstrap_servers="c:3",
            delivery_timeout=11.0,
            connect_timeout=12.0,
            close_timeout=13.0,
            serialize_key=functions.exp,
            serialize_value=functions.log,
        ),
        deserialize_key=functions.sin,
        deserialize_value=functions.cos,
    )


def test_librdkafka_properties_have_variables() -> None:
    """A property's dots are underscores; the few with underscores in their names are found all the same."""
    made = ConsumerConfig.from_env(
        {
            **REQUIRED,
            "PARALLEL_CONSUMER_KAFKA_SASL_PASSWORD": "hunter2",
            "PARALLEL_CONSUMER_KAFKA_SESSION_TIMEOUT_MS": "6000",
            "PARALLEL_CONSUMER_KAFKA_LOG_LEVEL": "3",
            "PARALLEL_CONSUMER_KAFKA_TEST_MOCK_NUM_BROKERS": "1",
        }
    )
    assert made.kafka == {
        "sasl.password": "hunter2",
        "session.timeout.ms": "6000",
        "log_level": "3",
        "test.mock.num.brokers": "1",
    }


def test_no_two_properties_share_a_variable() -> None:
    """Every property has a variable of its own."""
    names = PROPERTY_NAMES | PRODUCER_PROPERTY_NAMES
    assert len({name.replace(".", "_") for name in names}) == len(names)


def test_the_producers_properties_have_variables() -> None:
    """A consumer's producer has properties of its own; what connects it comes from the consumer."""
    made = ConsumerConfig.from_env(
        {
            **REQUIRED,
            "PARALLEL_CONSUMER_KAFKA_SASL_PASSWORD": "hunter2",
            "PARALLEL_CONSUMER_KAFKA_CLIENT_RACK": "a",
            "PARALLEL_CONSUMER_PRODUCER_KAFKA_COMPRESSION_TYPE": "zstd",
            "PARALLEL_CONSUMER_PRODUCER_KAFKA_CLIENT_RACK": "b",
        }
    )
    assert made.producer is not None
    assert made.producer.bootstrap_servers == "localhost:9092"
    assert {name: made.producer.kafka[name] for name in ("compression.type", "client.rack", "sasl.password")} == {
        "compression.type": "zstd",
        "client.rack": "b",
        "sasl.password": "hunter2",
    }
    assert "hunter2" not in repr(made)


def test_a_producer_has_variables_of_its_own() -> None:
    """A producer by itself is configured by its own prefix, and by the servers that all Kafka programs know."""
    made = ProducerConfig.from_env(
        {
            **REQUIRED,
            "PARALLEL_PRODUCER_DELIVERY_TIMEOUT": "5",
            "PARALLEL_PRODUCER_KAFKA_COMPRESSION_TYPE": "zstd",
            "PARALLEL_CONSUMER_COMIT_INTERVAL": "another program's",
        }
    )
    assert made == ProducerConfig(
        bootstrap_servers="localhost:9092", delivery_timeout=5.0, kafka={"compression.type": "zstd"}
    )
    with pytest.raises(ConfigError) as caught:
        ProducerConfig.from_env(
            {
                "PARALLEL_PRODUCER_COMPRESSION_TYPE": "zstd",
                "PARALLEL_PRODUCER_DELIVERY_TIMEOOUT": "5",
                "PARALLEL_PRODUCER_CLOSE_TIMEOUT": "0",
            }
        )
    assert caught.value.problems == (
        "PARALLEL_PRODUCER_COMPRESSION_TYPE: sets nothing; did you mean 'PARALLEL_PRODUCER_KAFKA_COMPRESSION_TYPE'?",
        "PARALLEL_PRODUCER_DELIVERY_TIMEOOUT: sets nothing; did you mean 'PARALLEL_PRODUCER_DELIVERY_TIMEOUT'?",
        "bootstrap_servers: is missing, and has no default; give one (variable KAFKA_BOOTSTRAP_SERVERS)",
        (
            "close_timeout: must be seconds, from more than 0 to 2073600, is 0.0 "
            "(variable PARALLEL_PRODUCER_CLOSE_TIMEOUT)"
        ),
    )


def test_problems_within_fields_name_their_variables() -> None:
    """A fault within a field comes with its whole name, and with the variable concerned."""
    assert problems(
        {
            **REQUIRED,
            "PARALLEL_CONSUMER_RETRY": "true",
            "PARALLEL_CONSUMER_RETRY_MAX_ATEMPTS": "3",
            "PARALLEL_CONSUMER_PRODUCER_KAFKA": "x",
            "PARALLEL_CONSUMER_RETRY_MAX_ATTEMPTS": "many",
            "PARALLEL_CONSUMER_RETRY_RETRY_ON": "OSError",
            "PARALLEL_CONSUMER_DEAD_LETTER_TOPIC": "orders",
            "PARALLEL_CONSUMER_PRODUCER_KAFKA_SASL_PASSWOORD": "hunter2",
        }
    ) == (
        "PARALLEL_CONSUMER_RETRY: its fields are set one by one, as PARALLEL_CONSUMER_RETRY_<FIELD>",
        ("PARALLEL_CONSUMER_RETRY_MAX_ATEMPTS: sets nothing; did you mean 'PARALLEL_CONSUMER_RETRY_MAX_ATTEMPTS'?"),
        (
            "PARALLEL_CONSUMER_PRODUCER_KAFKA: librdkafka's properties are set one by one, as "
            "PARALLEL_CONSUMER_PRODUCER_KAFKA_<PROPERTY>"
        ),
        "retry.retry_on: must be 'module:Class', is 'OSError' (variable PARALLEL_CONSUMER_RETRY_RETRY_ON)",
        (
            "retry.max_attempts: must be a whole number from 1 up, is 'many'; None means no end of attempts "
            "(variable PARALLEL_CONSUMER_RETRY_MAX_ATTEMPTS)"
        ),
        (
            "producer.kafka['sasl.passwoord']: is no property of librdkafka; did you mean 'sasl.password'? "
            "(variable PARALLEL_CONSUMER_PRODUCER_KAFKA_SASL_PASSWOORD)"
        ),
        (
            "dead_letter.topic: must not be read by the consumer itself, is 'orders', which 'orders' in topics takes "
            "in: dead letters would come back for ever; give another topic, or topics that leave it out "
            "(variable PARALLEL_CONSUMER_DEAD_LETTER_TOPIC)"
        ),
    )


def test_the_real_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments, the variables of the process are read."""
    for variable, text in REQUIRED.items():
        monkeypatch.setenv(variable, text)
    monkeypatch.setenv("PARALLEL_CONSUMER_MAX_CONCURRENCY", "5")
    assert ConsumerConfig.from_env().max_concurrency == 5


def test_all_problems_name_their_variables() -> None:
    """Unknown variables, wrong values and missing fields come at once, each with the variable concerned."""
    found = problems(
        {
            "KAFKA_BOOTSTRAP_SERVERS": "a b",
            "PARALLEL_CONSUMER_COMIT_INTERVAL": "1",
            "PARALLEL_CONSUMER_SASL_PASSWORD": "hunter2",
            "PARALLEL_CONSUMER_KAFKA": "hunter2",
            "PARALLEL_CONSUMER_QQQ": "1",
            "PARALLEL_CONSUMER_MAX_CONCURRENCY": "many",
            "PARALLEL_CONSUMER_KAFKA_SASL_PASSWOORD": "hunter2",
            "PARALLEL_CONSUMER_KAFKA_MAX_POLL_INTERVAL_MS": "10",
        }
    )
    nearest = {
        "COMIT_INTERVAL": "PARALLEL_CONSUMER_COMMIT_INTERVAL",
        "SASL_PASSWORD": "PARALLEL_CONSUMER_KAFKA_SASL_PASSWORD",
    }
    assert found[:4] == (
        *(f"PARALLEL_CONSUMER_{name}: sets nothing; did you mean {right!r}?" for name, right in nearest.items()),
        ("PARALLEL_CONSUMER_KAFKA: librdkafka's properties are set one by one, as PARALLEL_CONSUMER_KAFKA_<PROPERTY>"),
        "PARALLEL_CONSUMER_QQQ: sets nothing",
    )
    assert [(problem.partition(": ")[0], problem.rpartition(" (variable ")[2]) for problem in found[4:]] == [
        ("group_id", "KAFKA_CONSUMER_GROUP)"),
        ("topics", "KAFKA_TOPICS)"),
        ("bootstrap_servers", "KAFKA_BOOTSTRAP_SERVERS)"),
        ("max_concurrency", "PARALLEL_CONSUMER_MAX_CONCURRENCY)"),
        ("kafka['sasl.passwoord']", "PARALLEL_CONSUMER_KAFKA_SASL_PASSWOORD)"),
        ("revoke_grace", "PARALLEL_CONSUMER_REVOKE_GRACE)"),
        ("kafka['session.timeout.ms']", found[-1]),
    ]


def test_an_unknown_variable_alone_is_an_error() -> None:
    """A misspelt variable is told even if nothing else is wrong."""
    assert problems({**REQUIRED, "PARALLEL_CONSUMER_TOPIC": "a"}) == (
        "PARALLEL_CONSUMER_TOPIC: sets nothing; did you mean 'PARALLEL_CONSUMER_TOPICS'?",
    )


def test_a_field_may_be_set_twice_only_alike() -> None:
    """Two variables of a field must agree."""
    assert ConsumerConfig.from_env({**REQUIRED, "PARALLEL_CONSUMER_GROUP_ID": "billing"}).group_id == "billing"
    assert problems({**REQUIRED, "PARALLEL_CONSUMER_GROUP_ID": "other"}) == (
        (
            "group_id: is set twice, differently; leave one out "
            "(variables KAFKA_CONSUMER_GROUP and PARALLEL_CONSUMER_GROUP_ID)"
        ),
    )


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    """A ``.env`` file with a comment, quotes, and what would be an expansion elsewhere."""
    path = tmp_path / ".env"
    path.write_text(
        "# the consumer\n"
        "KAFKA_BOOTSTRAP_SERVERS=localhost:9092\n"
        "export KAFKA_CONSUMER_GROUP='billing'\n"
        'KAFKA_TOPICS="orders,audit"\n'
        "\n"
        "PARALLEL_CONSUMER_MAX_CONCURRENCY=5 # few\n"
        "PARALLEL_CONSUMER_KAFKA_SASL_PASSWORD='${HOME}hunter2'\n"
        "PARALLEL_CONSUMER_KAFKA_CLIENT_RACK=a\n"
        "UNRELATED\n",
        encoding="utf-8",
    )
    return path


def test_a_dotenv_file_is_read_literally(dotenv: Path) -> None:
    """The file's variables count as they stand, without expansion."""
    assert ConsumerConfig.from_env({}, dotenv=dotenv) == ConsumerConfig(
        bootstrap_servers="localhost:9092",
        group_id="billing",
        topics=["orders", "audit"],
        max_concurrency=5,
        kafka={"sasl.password": "${HOME}hunter2", "client.rack": "a"},
    )


def test_the_environment_overrides_the_dotenv_file(dotenv: Path) -> None:
    """Field by field and property by property, the real environment wins, by whichever variable."""
    made = ConsumerConfig.from_env(
        {
            "PARALLEL_CONSUMER_TOPICS": "refunds",
            "PARALLEL_CONSUMER_MAX_CONCURRENCY": "6",
            "PARALLEL_CONSUMER_KAFKA_CLIENT_RACK": "b",
        },
        dotenv=str(dotenv),
    )
    assert made.topics == ("refunds",)
    assert made.max_concurrency == 6
    assert made.group_id == "billing"
    assert made.kafka == {"sasl.password": "${HOME}hunter2", "client.rack": "b"}


def test_problems_name_the_dotenv_file(dotenv: Path) -> None:
    """What the file says wrongly is told with its name, what the environment says without."""
    with dotenv.open("a", encoding="utf-8") as file:
        file.write(
            "PARALLEL_CONSUMER_COMMIT_INTERVAL=soon\nPARALLEL_CONSUMER_COMIT_INTERVAL=1\nPARALLEL_CONSUMER_ORDERING\n"
        )
    assert problems({"PARALLEL_CONSUMER_MAX_CONCURRENCY": "0"}, dotenv) == (
        (
            f"PARALLEL_CONSUMER_COMIT_INTERVAL in {dotenv}: sets nothing; "
            "did you mean 'PARALLEL_CONSUMER_COMMIT_INTERVAL'?"
        ),
        f"PARALLEL_CONSUMER_ORDERING in {dotenv}: has no value; give one, or leave it out",
        "max_concurrency: must be a whole number from 1 up, is 0 (variable PARALLEL_CONSUMER_MAX_CONCURRENCY)",
        (
            "commit_interval: must be seconds, from more than 0 to 2073600, is 'soon' "
            f"(variable PARALLEL_CONSUMER_COMMIT_INTERVAL in {dotenv})"
        ),
    )


def test_a_line_that_cannot_be_read_is_an_error(dotenv: Path) -> None:
    """No line is passed over silently; its text isn't shown, for it may hold a secret."""
    dotenv.write_text("A=1\nPASSWORD='hunter2\n= x\n", encoding="utf-8")
    assert problems({}, dotenv) == (
        f"{dotenv}, line 2: is no NAME=value",
        f"{dotenv}, line 3: is no NAME=value",
    )


def test_a_dotenv_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A missing file and bytes that aren't UTF-8 are a ConfigError with the cause chained."""
    binary = tmp_path / "binary.env"
    binary.write_bytes(b"\xff")
    for path, cause in ((tmp_path / "missing.env", FileNotFoundError), (binary, UnicodeDecodeError)):
        with pytest.raises(ConfigError) as caught:
            ConsumerConfig.from_env(REQUIRED, dotenv=path)
        assert str(path) in str(caught.value)
        assert isinstance(caught.value.__cause__, cause)


def test_without_the_extra_it_is_named(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``.env`` file needs python-dotenv, and the error says how to get it."""
    monkeypatch.setitem(sys.modules, "dotenv", None)
    monkeypatch.setitem(sys.modules, "dotenv.parser", None)
    assert problems({}, dotenv) == (
        "reading a .env file needs python-dotenv: pip install 'trio-parallel-kafka[dotenv]'",
    )


def test_the_environment_overrides_the_dotenv_file_within_fields(tmp_path: Path) -> None:
    """What is within a field is overridden one by one, too."""
    path = tmp_path / ".env"
    path.write_text(
        "PARALLEL_CONSUMER_RETRY_MAX_ATTEMPTS=3\nPARALLEL_CONSUMER_RETRY_JITTER=0\n"
        "PARALLEL_CONSUMER_PRODUCER_KAFKA_LINGER_MS=1\nPARALLEL_CONSUMER_PRODUCER_KAFKA_CLIENT_RACK=a\n",
        encoding="utf-8",
    )
    environ = {
        **REQUIRED,
        "PARALLEL_CONSUMER_RETRY_MAX_ATTEMPTS": "4",
        "PARALLEL_CONSUMER_PRODUCER_KAFKA_LINGER_MS": "2",
    }
    made = ConsumerConfig.from_env(environ, dotenv=path)
    assert made.retry == RetryPolicy(max_attempts=4, jitter=0.0)
    assert made.producer is not None
    assert (made.producer.kafka["linger.ms"], made.producer.kafka["client.rack"]) == ("2", "a")


variables = st.sampled_from(
    [*REQUIRED, "PARALLEL_CONSUMER_KAFKA_", "PARALLEL_CONSUMER_KAFKA_CHECK_CRCS", "PARALLEL_CONSUMER_"]
    + [f"PARALLEL_CONSUMER_{field.name.upper()}" for field in attrs.fields(ConsumerConfig)]
    + [f"PARALLEL_CONSUMER_RETRY_{field.name.upper()}" for field in attrs.fields(RetryPolicy)]
    + [f"PARALLEL_CONSUMER_PRODUCER_{field.name.upper()}" for field in attrs.fields(ProducerConfig)]
    + ["PARALLEL_CONSUMER_DEAD_LETTER_TOPIC", "PARALLEL_CONSUMER_PRODUCER_KAFKA_LINGER_MS"]
) | st.text(max_size=8).map("PARALLEL_CONSUMER_".__add__)


@given(st.dictionaries(variables, st.text(max_size=12), max_size=6), st.booleans())
def test_any_environment_makes_a_config_or_a_config_error(environ: dict[str, Any], is_complete: bool) -> None:
    """No environment leads to another exception than ConfigError."""
    outcome: ConsumerConfig | ConfigError
    try:
        outcome = ConsumerConfig.from_env({**REQUIRED, **environ} if is_complete else environ)
    except ConfigError as error:
        outcome = error
    assert isinstance(outcome, ConsumerConfig) or outcome.problems
