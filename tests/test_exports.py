"""What users see of the package: its names, to people and to static tools, each with a docstring."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trio_parallel_kafka
from trio_parallel_kafka import errors, statistics, testing

PROMISED = {
    *("parallel_consumer", "ParallelConsumer", "ConsumerConfig", "Ordering", "Record", "BatchScope"),
    *("RetryPolicy", "OnFailure", "DeadLetterConfig", "BreakerPolicy", "Delivery", "Retry", "Skip", "DeadLetter"),
    *("open_producer", "Producer", "ProducerConfig", "ProducerRecord", "RecordMetadata", "PendingDelivery"),
    *("Inline", "InThread", "ExecutionMode", "ExecutionEngine", "Execute", "Attempt", "EngineStatistics"),
    *("ConsumerStatistics", "PartitionStatistics", "OldestRecord", "PollStatistics", "Totals"),
    *("ParallelKafkaError", "ConfigError", "KafkaError", "BrokerUnreachableError", "AuthenticationError"),
    *("AuthorizationError", "TopicNotFoundError", "OffsetResetError", "CommitError", "CloseTimeoutError"),
    *("InvalidHandlerError", "ConsumerClosedError", "ConsumerBusyError", "InvalidResultError", "HandlerTimeoutError"),
    *("HandlerStuckError", "SerializationError", "DeliveryError", "RecordTooLargeError", "DeadLetterError"),
    *("ProducerFencedError", "ProducerClosedError", "WorkerDiedError", "WorkerStartError"),
}
PROMISED_FOR_TESTS = {
    *("open_simulated_broker", "open_simulated_consumer", "SimulatedBroker", "SimulatedProcess"),
    *("simulate", "seeded", "Broker", "open_kafka_broker", "KafkaBroker"),
    *("open_embedded_broker", "EmbeddedBroker", "EmbeddedBrokerError"),
    *("History", "Guarantee", "GuaranteeViolationError", "AtLeastOnce", "KeyOrder", "KeySerial", "OneOwner"),
    *("LittleReplay", "ExactlyOnceOutput"),
}
PACKAGES = [(trio_parallel_kafka, PROMISED), (testing, PROMISED_FOR_TESTS)]


def exported_by(package: types.ModuleType) -> dict[str, Any]:
    """What people find in it."""
    return {
        name: value
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


EXPORTED = exported_by(trio_parallel_kafka)


DECISIONS = {trio_parallel_kafka.Retry, trio_parallel_kafka.Skip, trio_parallel_kafka.DeadLetter}


@pytest.mark.parametrize(("package", "promised"), PACKAGES)
def test_the_names(package: types.ModuleType, promised: set[str]) -> None:
    """A package exports what it promises, and nothing else."""
    assert exported_by(package).keys() == promised


@pytest.mark.parametrize(("package", "promised"), PACKAGES)
def test_static_tools_see_the_same(package: types.ModuleType, promised: set[str]) -> None:
    """Each name is imported as itself, which is how static tools tell an export from a mere import."""
    body = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8")).body[1:]
    aliases = [alias for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert {alias.asname for alias in aliases if alias.asname == alias.name} == promised
    assert len(aliases) == len(promised)
    assert {type(node) for node in body} == {ast.ImportFrom}


def test_it_is_typed() -> None:
    """Type checkers are told to look at it."""
    assert Path(trio_parallel_kafka.__file__).with_name("py.typed").is_file()


def classes_of(module: types.ModuleType) -> set[str]:
    """The public classes that a module defines."""
    return {name for name, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__}


@pytest.mark.parametrize("module", [errors, statistics])
def test_none_is_forgotten(module: types.ModuleType) -> None:
    """Every error and every part of the statistics is exported."""
    assert classes_of(module) <= EXPORTED.keys()


def public_parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A public name, and what is public in it by its own definition."""
    yield name, value
    if inspect.isclass(value):
        for part, member in vars(value).items():
            if not part.startswith("_") and (callable(member) or isinstance(member, property | classmethod)):
                yield f"{name}.{part}", member


@pytest.mark.parametrize(
    ("name", "value"),
    [
        part
        for package, _ in PACKAGES
        for name, value in exported_by(package).items()
        for part in public_parts(name, value)
    ],
)
def test_each_has_a_docstring(name: str, value: Any) -> None:
    """Every public class, function, method and property says what it is."""
    own = value.__doc__ or ""
    assert own.strip()
    assert not own.startswith(f"{name}("), "made by attrs, and says nothing"


@pytest.mark.parametrize("error", [value for value in EXPORTED.values() if isinstance(value, type)])
def test_one_hierarchy(error: type) -> None:
    """Whatever this package raises derives from ParallelKafkaError; what handlers decide by isn't an error of it."""
    if issubclass(error, BaseException) and error not in DECISIONS:
        assert issubclass(error, trio_parallel_kafka.ParallelKafkaError)


def test_errors_carry_their_place() -> None:
    """An error has topic, partition and offset, or None; a configuration's has its problems, copied and pickled too."""
    error = trio_parallel_kafka.KafkaError("refused", topic="orders", partition=1, offset=5)
    assert (str(error), error.topic, error.partition, error.offset) == ("refused", "orders", 1, 5)
    error = trio_parallel_kafka.KafkaError("refused")
    assert (error.topic, error.partition, error.offset) == (None, None, None)
    config_error = trio_parallel_kafka.ConfigError(["first", "second"])
    for each in (config_error, copy.copy(config_error), pickle.loads(pickle.dumps(config_error))):
        assert each.problems == ("first", "second")
        assert str(each) == "invalid configuration:\n- first\n- second"
