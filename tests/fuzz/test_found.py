"""Mistakes that fuzzing found, each by its name."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message

from trio_parallel_kafka import ConfigError, ConsumerConfig, DeadLetter, ProducerConfig, Record
from trio_parallel_kafka.control.dead_letters import dead_letter_of
from trio_parallel_kafka.produced import RawRecord
from trio_parallel_kafka.producing.arguments import produce_arguments
from trio_parallel_kafka.record import wrap

REQUIRED = {"bootstrap_servers": "a", "group_id": "billing", "topics": "orders"}
HUGE = 16**5000
"""A number that Python refuses to write in decimal digits."""


def nested(depth: int) -> dict[str, Any]:
    """Mappings within mappings."""
    made: dict[str, Any] = {"linger.ms": 5}
    for _ in range(depth):
        made = {"topic": made}
    return made


def refusal(mapping: dict[Any, Any]) -> str:
    """What is said of a configuration besides what is required."""
    with pytest.raises(ConfigError) as caught:
        ConsumerConfig.from_mapping({**REQUIRED, **mapping})
    return str(caught.value)


def stamped(milliseconds: int) -> Record:
    """A record as the client reads it that was produced with such a timestamp."""
    stamp = (TIMESTAMP_CREATE_TIME, milliseconds)
    message = Message(topic="orders", partition=0, offset=1, key=None, value=b"v", headers=None, timestamp=stamp)
    return wrap(message, 1, 0.0)


def letter(error: Exception, record: Record | None = None) -> RawRecord:
    """A dead letter."""
    return dead_letter_of(record or stamped(0), error, reason="why", topic="orders.dlt", group_id="billing", attempts=1)


def header(dead_letter: RawRecord, name: str) -> bytes:
    """What one of its headers says."""
    return dict(dead_letter.headers)[f"kafka_dlt-{name}"] or b""


# Configurations


def test_endless_properties() -> None:
    """Properties in mappings without end are refused as such, those of a producer within a consumer's too."""
    endless: dict[str, Any] = {}
    endless["sasl"] = endless
    assert "kafka: has mappings within mappings, more than 16 deep" in refusal({"kafka": endless})
    assert "producer.kafka: has mappings within mappings" in refusal({"producer": {"kafka": endless}})


def test_properties_nested_beyond_reason(tmp_path: Path) -> None:
    """A file of dotted keys nests as deep as it likes; its name has 16 parts at most."""
    path = tmp_path / "config.toml"
    path.write_text("bootstrap_servers = 'a'\nkafka." + "a." * 3000 + "b = 1", encoding="utf-8")
    with pytest.raises(ConfigError, match="more than 16 deep"):
        ProducerConfig.from_toml(path)
    assert "no property of librdkafka" in refusal({"kafka": nested(15)})
    assert "more than 16 deep" in refusal({"kafka": nested(17)})


@pytest.mark.parametrize("name", [HUGE, (), None, 0.5], ids=["huge", "tuple", "none", "float"])
def test_names_that_are_no_text(name: Any) -> None:
    """A name of any kind is an unknown field, or not the name of a property; the line that says so is short."""
    assert "is no field" in refusal({name: 1})
    assert "retry." in refusal({"retry": {name: 1}})
    for kafka in ({name: 1}, {name: {"a": 1}}, {"a": {name: 1}}):
        said = refusal({"kafka": kafka})
        assert "kafka[" in said
        assert len(said) < 500


@pytest.mark.parametrize(
    "wrap",
    [dict, MappingProxyType, lambda kafka: [kafka], lambda kafka: {"kafka": kafka}],
    ids=["mapping", "proxy", "list", "nested"],
)
def test_secrets_in_the_wrong_place(wrap: Callable[[dict[str, str]], object]) -> None:
    """Where properties stand in place of another field, its problem doesn't show them."""
    said = refusal({"group_id": wrap({"sasl.password": "hunter2"})})
    assert "group_id: must be text that isn't empty, is " in said
    assert "hunter2" not in said


class Section(dict[str, Any]):
    """A mapping that can be told to be gone."""


@pytest.mark.parametrize("mistake", [{}, {"misspelt": 1}], ids=["none", "one"])
def test_configuration_that_is_let_go(mistake: dict[str, Any]) -> None:
    """What was read, its secrets included, is gone with it: the client keeps no exception that holds it."""
    given = Section({"bootstrap_servers": "a", "kafka": {"sasl.password": "hunter2", "acks": "1"}, **mistake})
    is_there = weakref.ref(given)
    refusal({"producer": given, "max_concurrency": 0})
    del given
    gc.collect()
    assert is_there() is None


# Dead letters


@pytest.mark.parametrize("milliseconds", [-(2**63), -5, -1, 2**53 * 1000, 2**63 - 1])
def test_dead_letter_with_a_timestamp_that_nobody_may_send(milliseconds: int) -> None:
    """It is sent as of now, and says which timestamp its record had."""
    made = letter(ValueError(), stamped(milliseconds))
    assert produce_arguments(made)["timestamp"] == 0
    told = int.from_bytes(header(made, "original-timestamp"), "big", signed=True)
    assert told == pytest.approx(milliseconds)


def test_record_without_a_timestamp() -> None:
    """A producer may have given none: Kafka's number for that is no time."""
    assert stamped(-1).timestamp is None
    assert stamped(0).timestamp == 0


def test_traceback_that_cannot_be_had() -> None:
    """An exception whose place in a text is none has a dead letter all the same."""
    error = SyntaxError("not a query")
    error.lineno, error.text = 1, 5  # type: ignore[assignment]
    made = letter(error)
    assert header(made, "exception-fqcn") == b"SyntaxError"
    assert header(made, "exception-stacktrace") == b"(the traceback can't be shown: AttributeError)"


class EmptyError(Exception):
    """As a collection of problems it is empty, which is to say false."""

    def __len__(self) -> int:
        return 0


def test_causes_that_are_false() -> None:
    """A cause is one whatever its truth."""
    error, given_up = ValueError("a"), DeadLetter("why")
    error.__cause__ = given_up.__cause__ = EmptyError("nothing")
    assert header(letter(error), "exception-cause-fqcn") == f"{__name__}.EmptyError".encode()
    assert header(letter(given_up), "exception-fqcn") == f"{__name__}.EmptyError".encode()
