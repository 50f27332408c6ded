"""Dead letters: made of any record and any failure, and brought back; records that only look like some."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import trio
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE, Message
from fuzz.data import Data
from fuzz.target import Target

from trio_parallel_kafka import DeadLetter, ProducerRecord, Record
from trio_parallel_kafka.config.librdkafka import is_c_text
from trio_parallel_kafka.control import dead_letters
from trio_parallel_kafka.execution.decoding import schema_of
from trio_parallel_kafka.produced import RawRecord
from trio_parallel_kafka.producing.arguments import produce_arguments
from trio_parallel_kafka.record import Headers, wrap

_NAMES: Final = (
    *sorted(dead_letters.OURS), "__key_schema_id", "__value_schema_id", "kafka_dlt-key-exception-message", "kafka_dlt-",
    "a", "", "é", "\ud800", "a\0b", "a" * 300,
)  # fmt: skip
_ORIGIN: Final = {
    dead_letters.ORIGINAL_TOPIC, dead_letters.ORIGINAL_PARTITION, dead_letters.ORIGINAL_OFFSET,
    dead_letters.ORIGINAL_TIMESTAMP, dead_letters.ORIGINAL_GROUP,
}  # fmt: skip
_TOPIC: Final = "orders"
_MOST_EXACT: Final = 2**52
"""Milliseconds up to which seconds as a float tell them apart."""


def check(given: bytes, _folder: Path) -> None:
    """Each record has a dead letter of bounded size that can be sent, and from which it comes back."""
    data = Data(given)
    record = _record(data)
    _check_schemas(record)
    _check_return_of_anything(record)
    error = _error(data, 0)
    reason, attempts = data.text(), 1 + data.byte()
    made = dead_letters.dead_letter_of(
        record, error, reason=reason, topic="orders.dlt", group_id="billing", attempts=attempts
    )
    _check_dead_letter(made, record)
    smaller = list(dead_letters.trimmed(made))
    for bigger, each in zip([made, *smaller], smaller, strict=False):
        assert set(each.headers) < set(bigger.headers)
        _check_return(each, record)
    assert {name for name, _ in smaller[-1].headers if name in dead_letters.OURS} == _ORIGIN
    if all(is_c_text(name) for name, _ in record.headers):  # the client reads no others
        produce_arguments(made)


def _check_dead_letter(made: RawRecord, record: Record) -> None:
    assert (made.topic, made.value, made.key) == ("orders.dlt", record.raw_value, record.raw_key)
    kept = tuple(header for header in record.headers if header[0] not in dead_letters.OURS)
    assert made.headers[: len(kept)] == kept
    ours = dict(made.headers[len(kept) :])
    assert len(ours) == len(made.headers) - len(kept)
    assert set(ours) <= dead_letters.OURS
    values = {name: value for name, value in ours.items() if value is not None}
    assert len(values) == len(ours)
    assert all(len(value) <= dead_letters.MAX_TRACEBACK for value in values.values())
    assert sum(map(len, values.values())) < dead_letters.MAX_TRACEBACK + 5 * dead_letters.MAX_TEXT
    assert all(value.decode() is not None for name, value in values.items() if "exception" in name)
    assert int.from_bytes(values[dead_letters.ORIGINAL_OFFSET], "big") == record.offset
    stamp = int.from_bytes(values[dead_letters.ORIGINAL_TIMESTAMP], "big", signed=True)
    if record.timestamp is None:
        assert stamp == -1
    elif abs(stamp) < _MOST_EXACT:
        assert stamp / 1000 == record.timestamp == (made.timestamp if stamp >= 0 else record.timestamp)


def _check_return(dead_letter: ProducerRecord, record: Record) -> None:
    """The example that brings dead letters back makes the record that it was."""
    back = _brought_back(_as_read(dead_letter))
    assert (back.topic, back.partition) == (record.topic, record.partition)
    assert (back.key, back.value) == (record.raw_key, record.raw_value)
    is_told = _replay().is_about_the_failure
    assert back.headers == tuple(header for header in record.headers if not is_told(header[0]))


def _check_return_of_anything(record: Record) -> None:
    """A record that is no dead letter, or a forged one, is a failure of its handler, or one of sending what it made."""
    try:
        produce_arguments(_brought_back(record))
    except (KeyError, ValueError):
        return


def _check_schemas(record: Record) -> None:
    for header in ("__key_schema_id", "__value_schema_id"):
        found = schema_of(record.raw_value, header, list(record.headers))
        assert found is None or 0 < len(found) <= 17


def _as_read(sent: ProducerRecord) -> Record:
    stamp = (TIMESTAMP_NOT_AVAILABLE, 0)
    message = Message(
        topic=sent.topic,
        partition=0,
        offset=0,
        key=sent.key,
        value=sent.value,
        headers=list(sent.headers),
        timestamp=stamp,
    )
    return wrap(message, 1, 0.0)


def _brought_back(record: Record) -> ProducerRecord:
    coroutine = _replay().bring_back(record)
    try:
        coroutine.send(None)
    except StopIteration as returned:
        made = returned.value
        assert isinstance(made, ProducerRecord)
        return made
    finally:
        coroutine.close()
    raise AssertionError("it waits")


@cache
def _replay() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "replay_dead_letters.py"
    spec = importlib.util.spec_from_file_location("replay_dead_letters", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Records


def _record(data: Data) -> Record:
    """As the client reads it, but for names of headers that UTF-8 can't say."""
    kinds = (TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE)
    stamp = (data.pick(kinds), data.signed(8) if data.byte() % 2 else data.signed(1))
    partition, offset = data.magnitude() & 2**31 - 1, data.magnitude() & 2**63 - 1
    key, value = _bytes(data), _bytes(data)
    message = Message(
        topic=_TOPIC,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=list(_headers(data)),
        timestamp=stamp,
    )
    return wrap(message, 1, 0.0)


def _bytes(data: Data) -> bytes | None:
    match data.byte() % 4:
        case 0:
            return None
        case 1:
            return b""
        case _:
            return data.block()


def _headers(data: Data) -> Headers:
    headers = []
    for _ in range(data.byte() % 40):
        name = data.pick((*_NAMES, None))
        headers.append((data.text() if name is None else name, _bytes(data)))
    return tuple(headers)


# Failures


def _error(data: Data, depth: int) -> Exception:
    error: Exception = data.pick(_ERRORS)(data, depth)
    match data.byte() % 8:
        case 0 if depth < 4:
            error.__cause__ = _error(data, depth + 1)
        case 1 if depth < 4:
            error.__context__ = _error(data, depth + 1)
        case 2:
            error.__notes__ = [data.text()]
        case 3:
            error = _raised(error)
        case 4:
            error.__context__ = error.__cause__ = error
        case _:
            pass
    return error


def _raised(error: Exception) -> Exception:
    def handle() -> None:
        raise error

    with suppress(Exception):
        handle()
    return error


class _WithoutWordsError(Exception):
    def __str__(self) -> str:
        raise self

    __repr__ = __str__


class _EmptyError(Exception):
    def __len__(self) -> int:
        return 0


class _UndecidedError(Exception):
    def __bool__(self) -> bool:
        raise self


def _of_any_class(data: Data, _depth: int) -> Exception:
    modules = ("builtins", "", None, "\ud800", "é" * 3000)
    kind: type[Exception] = type("E", (ValueError,), {"__module__": data.pick(modules)})
    kind.__qualname__ = data.text()
    return kind(data.text())


def _of_syntax(data: Data, _depth: int) -> Exception:
    error = SyntaxError(data.text())
    for name in ("filename", "lineno", "offset", "text", "end_lineno", "end_offset", "print_file_and_line"):
        setattr(error, name, data.pick((None, 0, 1, -1, 2**70, "a\n", "\ud800", b"a", 0.5)))
    return error


def _group(data: Data, depth: int) -> Exception:
    if depth >= 4:
        return _tower(data.byte() & 15)
    return ExceptionGroup(data.text(), [_error(data, depth + 1) for _ in range(1 + data.byte() % 3)])


def _tower(height: int) -> Exception:
    """Groups in groups; of two each, so that none is unwrapped."""
    error: Exception = ValueError("the last")
    for _ in range(height):
        error = ExceptionGroup("a group", [error, ValueError("another")])
    return error


def _chain(length: int) -> Exception:
    error = ValueError("the first")
    for _ in range(length):
        later = ValueError("a later one")
        later.__cause__ = error
        error = later
    return error


def _with_arguments(data: Data, _depth: int) -> Exception:
    error = data.pick((ValueError, OSError, KeyError, StopIteration, trio.TooSlowError))(
        data.text(), data.pick((None, 1, 16**5000, b"\xff"))
    )
    notes: Sequence[Any] = ([], "note", 5, [5], None, [_WithoutWordsError()])
    error.__notes__ = data.pick(notes)
    return error


_ERRORS: Final[tuple[Callable[[Data, int], Any], ...]] = (
    lambda data, _: ValueError(data.text()),
    lambda data, _: DeadLetter(data.text()),
    lambda data, _: ValueError(data.text() * 200),
    lambda _, __: _WithoutWordsError("none"),
    lambda _, __: _EmptyError("nothing"),
    lambda _, __: _UndecidedError("undecided"),
    lambda data, _: UnicodeDecodeError("utf-8", data.block(), 0, data.byte(), data.text()),
    lambda data, _: _chain(data.byte() & 31),
    lambda data, _: _tower(data.byte() & 15),
    _of_any_class,
    _of_syntax,
    _group,
    _with_arguments,
)


def seeds() -> Iterator[bytes]:
    """Plain records and failures of each kind; forged headers; timestamps and numbers at their limits."""
    plain = b"\0\1" + (1_700_000_000_123).to_bytes(8, "big") + b"\1\3\5\1\0\0\0\0" + b"\2\1k\2\1v"
    none = b"\2\0\0\0\0\0\0"
    for kind in range(len(_ERRORS)):
        for more in range(6):
            yield plain + b"\1\x0f\2\1x" + bytes((kind,)) + b"\4text" + b"\3" * 4 + bytes((more, 0, 1, 97, 5))
            yield none + b"\0" + bytes((kind, 0xFF, 0xFF, more, kind, 3, 1, 2, 3))
    for stamp in (0, -1, -5, -(2**63), 2**63 - 1, 2**62, 10**15):
        yield b"\0\1" + stamp.to_bytes(8, "big", signed=True) + b"\0\0\0\0\0\0\1a"
    for name in range(len(_NAMES)):
        yield plain + b"\2" + (bytes((name,)) + b"\2\4\x01abc") * 2 + b"\0\1a"
    # One that claims to be from nowhere, and one from a partition of 255 bytes.
    topic, partition = (
        sorted(dead_letters.OURS).index(name) for name in (dead_letters.ORIGINAL_TOPIC, dead_letters.ORIGINAL_PARTITION)
    )
    for value in (b"\0", b"\1", b"\2\xff" + b"\xff" * 255, b"\2\4\xff\xff\xff\xff", b"\2\4\0\0\0\1"):
        yield none + b"\2" + bytes((topic,)) + value + bytes((partition,)) + value
        yield none + b"\2" + bytes((topic,)) + b"\2\1t" + bytes((partition,)) + value
    yield none + b"\x27" + bytes(range(40)) * 12


TARGET: Final = Target(
    name="dead-letters", check=check, seeds=seeds, share=6, max_size=1024, max_memory=8 * 1024 * 1024
)
