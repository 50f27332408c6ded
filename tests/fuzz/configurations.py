"""Configurations of consumers and producers from all that they can be loaded from.

Two things are kept from the fuzzer. What a text like ``module:function`` names is looked up in a few modules only, for
an import runs code. And a topic pattern has one repetition at most: patterns are programs that the user writes, and
those with several can run for ever.
"""

from __future__ import annotations

import datetime as dt
import json
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from unittest import mock

import attrs
from fuzz.data import Data
from fuzz.target import Target

from trio_parallel_kafka import ConfigError, ConsumerConfig, ProducerConfig
from trio_parallel_kafka.config import BreakerPolicy, DeadLetterConfig, RetryPolicy

Config = ConsumerConfig | ProducerConfig
Load = Callable[[], Config]

SECRET: Final = "hunter2-hunter2"

_CLASSES: Final = (ConsumerConfig, ProducerConfig)
_IMPORTABLE: Final = ("builtins:", "json:", "json.decoder:", "os.path:", "collections.abc:", "no_such_module:")

_resolve_name: Final = pkgutil.resolve_name


def _resolved(name: str) -> Any:
    if not name.startswith(_IMPORTABLE):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return _resolve_name(name)


def _check(load: Load, size: int) -> None:
    """A configuration comes out that stays one, or an error that names faults; no secret shows in either."""
    try:
        with mock.patch("pkgutil.resolve_name", _resolved):
            config = load()
    except ConfigError as error:
        _check_problems(error, size)
    else:
        assert attrs.evolve(config) == config
        assert SECRET not in repr(config)


def _check_problems(error: ConfigError, size: int) -> None:
    assert error.problems
    assert all(line.strip() for line in error.problems)
    assert len(str(error)) < 10_000 + 1_000 * size
    assert SECRET not in str(error)


def _has_wild_pattern(texts: object) -> bool:
    """Whether a topic pattern among these may run for ever."""
    if isinstance(texts, str):
        return "^" in texts and sum(map(texts.count, "*+{?")) > 1
    if isinstance(texts, Mapping):
        return any(map(_has_wild_pattern, texts.values()))
    return isinstance(texts, list | tuple) and any(map(_has_wild_pattern, texts))


# Files


def check_toml(given: bytes, folder: Path) -> None:
    """Any file can be read as one with a configuration."""
    cls, table = _CLASSES[given[:1] >= b"P"], "tool.fuzzed" if given[:1] in b"TU" else None
    if _has_wild_pattern(given.decode(errors="replace")):
        return
    path = folder / "config.toml"
    path.write_bytes(given[1:])
    _check(lambda: cls.from_toml(path, table=table), len(given))


def check_dotenv(given: bytes, folder: Path) -> None:
    """Any file can be read as one with variables."""
    cls = _CLASSES[given[:1] >= b"P"]
    if _has_wild_pattern(given.decode(errors="replace")):
        return
    path = folder / "variables.env"
    path.write_bytes(given[1:])
    _check(lambda: cls.from_env({"KAFKA_TOPICS": "orders"}, dotenv=path), len(given))


# Variables


def _variables_of(cls: type[Config], prefix: str) -> list[str]:
    own = [prefix + field.name.upper() for field in attrs.fields(cls)]
    sections = {
        "RETRY": RetryPolicy,
        "DEAD_LETTER": DeadLetterConfig,
        "BREAKER": BreakerPolicy,
        "PRODUCER": ProducerConfig,
    }
    inner = [f"{prefix}{name}_{field.name.upper()}" for name, part in sections.items() for field in attrs.fields(part)]
    properties = [
        "KAFKA_SASL_PASSWORD",
        "KAFKA_SESSION_TIMEOUT_MS",
        "KAFKA_GROUP_PROTOCOL",
        "KAFKA_",
        "PRODUCER_KAFKA_ACKS",
    ]
    return [*own, *inner, *(prefix + name for name in properties), prefix, "PATH"]


_VARIABLES: Final = (
    _variables_of(ConsumerConfig, "PARALLEL_CONSUMER_"),
    _variables_of(ProducerConfig, "PARALLEL_PRODUCER_"),
)
_COMMON_VARIABLES: Final = ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_CONSUMER_GROUP", "KAFKA_TOPICS")


def check_variables(given: bytes, _folder: Path) -> None:
    """Any environment can be read as one with variables of ours."""
    data = Data(given)
    kind = data.byte()
    variables = dict.fromkeys(_COMMON_VARIABLES, "orders") if kind & 2 else {}
    while data:
        chosen = data.byte()
        names = _COMMON_VARIABLES if chosen >= 0xF0 else _VARIABLES[kind & 1]
        name = names[chosen % len(names)] + (data.text() if chosen == 0xEF else "")
        variables[name] = SECRET if "PASSWORD" in name else _text(data)
    if not _has_wild_pattern(variables):
        _check(lambda: _CLASSES[kind & 1].from_env(variables), len(given))


# Mappings

_DEEPEST: Final = 4

_FIELDS: Final = tuple(
    dict.fromkeys(
        field.name
        for cls in (ConsumerConfig, ProducerConfig, RetryPolicy, DeadLetterConfig, BreakerPolicy)
        for field in attrs.fields(cls)
    )
)
_PROPERTIES: Final = (
    "sasl", "password", "sasl.password", "ssl.key.password", "session.timeout.ms", "heartbeat.interval.ms",
    "max.poll.interval.ms", "group.protocol", "group.instance.id", "partition.assignment.strategy",
    "enable.idempotence", "acks", "isolation.level", "oauth_cb", "logger", "topic.acks", "enable.auto.commit",
    "debug", "message.max.bytes", "un.known", "retries", "",
)  # fmt: skip
_WORDS: Final = (
    "localhost:9092", "orders", "^orders-.*", "^orders-[^.]+$", "orders.dlt", "key", "thread", "exactly_once", "none",
    "skip", "dead_letter", "latest", "builtins:print", "json:JSONDecodeError", "builtins:ValueError", "1", "0", "-1",
    "1e3", "0.5", "nan", "inf", "1e400", "9" * 5000, "\u0661\u0662", "true", "consumer", "range", "cooperative-sticky",
    "all", "a:1,[::1]:2,", "", " ", "\0", "\ud800", "é" * 300, "[" * 50, "^[", "^(?P<a>", "no_such_module:x",
    "builtins:", ":", "a:b:c",
)  # fmt: skip
_ODDITIES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 16**5000, 0.0, -0.0, 0.5, 1e308, float("nan"), float("inf"), 1j,
    b"bytes", object(), print, ValueError, Exception, dt.date(2020, 1, 1), range(10**9), frozenset({1}), (), [], {},
    ...,
)  # fmt: skip


def _text(data: Data) -> str:
    chosen = data.byte()
    return _WORDS[chosen] if chosen < len(_WORDS) else data.text()


def _value(data: Data, depth: int = 0) -> Any:
    match data.byte() % 9:
        case 0 | 1:
            return data.pick(_ODDITIES)
        case 2:
            return data.signed(data.byte() % 12)
        case 3:
            return _chain(data.byte() * 32)
        case 4 if depth < _DEEPEST:
            return [_value(data, depth + 1) for _ in range(data.byte() % 5)]
        case 5 | 6 if depth < _DEEPEST:
            return _mapping(data, depth + 1)
        case _:
            return _text(data)


def _mapping(data: Data, depth: int) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for _ in range(data.byte() % 12):
        name = _name(data)
        mapping[name] = SECRET if _is_secret(name) else _value(data, depth)
    return mapping


def _is_secret(name: object) -> bool:
    return isinstance(name, str) and "password" in name


def _name(data: Data) -> Any:
    chosen = data.byte()
    if chosen < 0x80:
        return _FIELDS[chosen % len(_FIELDS)]
    if chosen < 0xF0:
        return _PROPERTIES[chosen % len(_PROPERTIES)]
    if chosen < 0xF8:
        return _text(data)
    return data.pick((None, 1, 16**5000, 0.5, (), b"kafka", object, frozenset()))


def _chain(length: int) -> Any:
    """A mapping in a mapping in a mapping; of length 0, one within itself."""
    inner: dict[str, Any] = {}
    chain = inner
    for _ in range(length):
        chain = {"a": chain}
    if not length:
        inner["a"] = inner
    return chain


def check_mapping(given: bytes, _folder: Path) -> None:
    """Any mapping can be read as a configuration, and anything else be refused."""
    data = Data(given)
    kind = data.byte()
    mapping: Any = {"bootstrap_servers": "localhost", "group_id": "billing", "topics": "orders"} if kind & 2 else {}
    if kind & 1:
        mapping = {name: value for name, value in mapping.items() if name == "bootstrap_servers"}
    while data:
        name = _name(data)
        mapping[name] = SECRET if _is_secret(name) else _value(data)
    if kind & 0x80:
        mapping = next(iter(mapping.values()), mapping)
    if not _has_wild_pattern(list(_texts(mapping))):
        _check(lambda: _CLASSES[kind & 1].from_mapping(mapping), len(given) + 5_000)


def _texts(value: object) -> Iterator[str]:
    """What may be taken for topics."""
    topics = value.get("topics") if isinstance(value, Mapping) else None
    yield from (topic for topic in (topics if isinstance(topics, list) else [topics]) if isinstance(topic, str))


# Seeds

_TOML: Final = """\
bootstrap_servers = ["a:1", "b:2"]
group_id = "billing"
topics = ["orders", "^pay-[a-z]+$"]
ordering = "partition"
max_concurrency = 0x10
commit_interval = 1e-1
on_failure = "dead_letter"
deserialize_value = "json:loads"
{0}
[{1}retry]
max_attempts = "none"
retry_on = ["builtins:OSError", "builtins:ValueError"]
[{1}dead_letter]
topic = "lost"
on_dead_letter_failure = "retry"
[{1}breaker]
failure_rate = 1
[{1}kafka]
sasl.username = "me"
"session.timeout.ms" = 10000
debug = "none"
[{1}producer]
delivery_timeout = 5
kafka.acks = "all"
"""


def _toml_seeds() -> Iterator[bytes]:
    whole = _TOML.format("", "")
    required = "".join(whole.splitlines(keepends=True)[:3])
    yield from (letter + whole.encode() for letter in (b"C", b"P", b"T"))
    yield b"C[tool.trio-parallel-kafka]\n" + _TOML.format("", "tool.trio-parallel-kafka.").encode()
    yield b"T[tool.fuzzed]\n" + _TOML.format("", "tool.fuzzed.").encode()
    yield b"P[trio-parallel-kafka.producer]\nbootstrap_servers='a'\n[tool.trio-parallel-kafka.producer]\n"
    for more in (
        "kafka." + "a." * 1500 + "b=1",
        "retry." + "a." * 1500 + "b=1",
        "producer.kafka." + "a." * 1500 + "b=1",
        "kafka=" + "{a=" * 400 + "1" + "}" * 400,
        "max_concurrency = 0x" + "f" * 3800,
        "commit_interval = " + "9" * 3000,
        "commit_interval = nan\nrevoke_grace = -inf\nclose_timeout = 1979-05-27",
        "kafka = " + "[" * 1500,
        'ordering = """' + "\\u00e9" * 300 + '"""',
        'ordering = "\\ud800"',
        'kafka = {a.b = 1, "a.b" = 2}',
        "topics = " + json.dumps([f"t{number}" for number in range(300)]),
    ):
        yield f"C{required}{more}\n".encode()
    yield from (b"C\xff\xfe", b"C\0", b"C", b"P=\n", b"C\xef\xbb\xbfa=1", b"Ca=1\r\n", b"Ca=1\r")


def _dotenv_seeds() -> Iterator[bytes]:
    required = b"KAFKA_BOOTSTRAP_SERVERS=a:1\nexport KAFKA_CONSUMER_GROUP='billing'\n"
    for more in (
        b'PARALLEL_CONSUMER_KAFKA_SASL_PASSWORD="a\\nb" # not a comment\nPARALLEL_CONSUMER_RETRY_MAX_ATTEMPTS=none\n',
        b"PARALLEL_CONSUMER_TOPIC=orders\nPARALLEL_PRODUCER_KAFKA_ACKS=${HOME}\n",
        b"KAFKA_TOPICS\n",
        b"PARALLEL_CONSUMER_GROUP_ID\nPARALLEL_CONSUMER_KAFKA=1\nPARALLEL_CONSUMER_RETRY=1\n",
        b"PARALLEL_CONSUMER_MAX_CONCURRENCY=" + b"9" * 3000,
        b"=\n'\n\"a",
        b"A='" + b"\\'" * 1000,
        b"\xff=\xfe\0",
        "Ä=ö\n\u2028B=\x85c".encode(),
    ):
        yield from (letter + required + more for letter in (b"C", b"P"))


def _variable_seeds() -> Iterator[bytes]:
    for kind in (2, 3):
        for chosen in range(len(_VARIABLES[kind & 1])):
            word = chosen % len(_WORDS)
            yield bytes((kind, chosen, word, (chosen + 7) & 0xFF, 15, 0xF0, 30, 0xF2, word))
    yield b"\2\xef\4_FOO\xff\4\0\xff\xc3\xa9"


def _mapping_seeds() -> Iterator[bytes]:
    oddity, number, chain, several, mapping, text = (bytes((kind,)) for kind in (0, 2, 3, 4, 5, 7))
    kafka, retry, producer, topics = (
        bytes((_FIELDS.index(name),)) for name in ("kafka", "retry", "producer", "topics")
    )
    for kind in (b"\2", b"\3"):
        for name in range(len(_FIELDS)):
            field = kind + bytes((name,))
            yield from (field + text + bytes((word,)) for word in range(name % 16, len(_WORDS), 16))
            yield from (field + oddity + bytes((which,)) for which in range(name % 16, len(_ODDITIES), 16))
            yield field + number + b"\2\1\1"
            yield field + several + b"\2" + text + b"\1" + text + b"\2"
            yield field + mapping + b"\2" + bytes((name,)) + text + b"\1" + b"\x82" + number + b"\2\1\1"
        for length in (b"\0", b"\1", b"\xff"):
            yield from (kind + field + chain + length for field in (kafka, retry, producer, topics))
            yield kind + producer + mapping + b"\1" + kafka + chain + length
        for name in range(0x80, 0x80 + len(_PROPERTIES)):
            yield kind + kafka + mapping + b"\1" + bytes((name,)) + text + b"\x0f"
            yield kind + producer + mapping + b"\1" + kafka + mapping + b"\1" + bytes((name,)) + oddity + b"\4"
        for holder in (b"", kafka + mapping + b"\1", retry + mapping + b"\1"):
            yield from (kind + holder + b"\xff" + bytes((name,)) + oddity + b"\0" for name in range(8))
    yield b"\x82" + kafka


_TOML_WORDS: Final = (
    "[trio-parallel-kafka]",
    "[tool.fuzzed]",
    "^",
    "builtins:",
    ".",
    "=",
    "{a=",
    "'",
    '"""',
    "0x",
    "nan",
)
_DOTENV_WORDS: Final = ("export ", "PARALLEL_CONSUMER_", "PARALLEL_PRODUCER_", "KAFKA_", "RETRY_", "=", "'", '"', "#")


_MAX_MEMORY: Final = 16 * 1024 * 1024

TARGETS: Final = (
    Target(
        name="toml",
        check=check_toml,
        seeds=_toml_seeds,
        share=3,
        max_size=4096,
        max_memory=_MAX_MEMORY,
        words=(*_FIELDS, *_TOML_WORDS),
    ),
    Target(
        name="dotenv",
        check=check_dotenv,
        seeds=_dotenv_seeds,
        share=3,
        max_size=4096,
        max_memory=_MAX_MEMORY,
        words=(*_COMMON_VARIABLES, *_VARIABLES[0], *_DOTENV_WORDS),
    ),
    Target(name="variables", check=check_variables, seeds=_variable_seeds, share=3, max_size=256),
    Target(name="mapping", check=check_mapping, seeds=_mapping_seeds, share=3, max_size=256),
)
