"""Configurations from mappings and TOML files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from cattrs import ClassValidationError
from hypothesis import given, strategies as st

from trio_parallel_kafka.config import ConsumerConfig, Ordering
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
        ("key_of", "math:sqrt", __import__("math").sqrt),
        ("key_of", "os:path.join", __import__("os").path.join),
        ("key_of", None, None),
        ("key_of", len, len),
        (
            "kafka",
            {"sasl": {"username": "me"}, "client.rack": "a"},
            {"sasl.username": "me", "client.rack": "a"},
        ),
        ("kafka", {"sasl": {"oauthbearer.client": {"id": "x"}}}, {"sasl.oauthbearer.client.id": "x"}),
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
    ],
)
def test_what_is_not_certain_is_an_error(field: str, value: Any, expected: str) -> None:
    """Values that can't be converted exactly are refused as they were given."""
    (problem,) = problems({**REQUIRED, field: value})
    assert problem.startswith((f"{field}: ", f"{field}["))
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
    """An unknown name alone is the one problem."""
    assert problems({**REQUIRED, "comit_interval": 1}) == (
        "comit_interval: is no field; did you mean 'commit_interval'?",
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
)


def in_table(name: str) -> str:
    """Put what ``TOML`` says into a table."""
    return f"[{name}]{TOML.replace('[kafka]', f'[{name}.kafka]')}"


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
