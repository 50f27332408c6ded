"""Configurations from mappings, TOML files and the environment.

Every source comes down to one mapping of field names, which cattrs structures: cattrs finds names that are
unknown or missing, the class itself judges the values. Here, what both say becomes one
:exc:`~trio_parallel_kafka.errors.ConfigError`, which also says where each value came from.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final, TypeAlias, TypeVar, get_args, get_type_hints

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from trio_parallel_kafka.config.environment import VariableNames, Variables, read_dotenv, read_variables
from trio_parallel_kafka.config.librdkafka import producer_connection_properties
from trio_parallel_kafka.config.reading import READERS, flat, number, whole_number
from trio_parallel_kafka.config.wording import Problem, did_you_mean, name_shown
from trio_parallel_kafka.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=attrs.AttrsInstance)
Origin: TypeAlias = Callable[[str], str]
"""Where the value that a problem is about came from, as the end of the problem's line."""

# Stand in for what is missing or unusable, so that the class can judge the rest.
_STAND_INS: Final = {"bootstrap_servers": "localhost", "group_id": "stand-in", "topics": "stand-in"}
_PRODUCER: Final = "producer"


def from_mapping(cls: type[ConfigT], mapping: Mapping[str, Any]) -> ConfigT:
    """See :meth:`.ConsumerConfig.from_mapping`."""
    if not isinstance(mapping, Mapping):
        raise ConfigError([f"a configuration must be a mapping of fields, is of type {type(mapping).__name__}"])
    return _load(cls, mapping, lambda _subject: "")


def from_toml(
    cls: type[ConfigT], path: str | os.PathLike[str], table: str | None, *, defaults: tuple[str, ...]
) -> ConfigT:
    """See :meth:`.ConsumerConfig.from_toml`; ``defaults`` are the tables to look for if none is named."""
    file_name = os.fspath(path)
    try:
        with open(file_name, "rb") as file:  # noqa: PTH123 - the name is the user's, as it is
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError([f"{file_name} can't be read: {error}; check the path"]) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{file_name} is no TOML: {error}"]) from error
    return _load(cls, _find_table(document, file_name, table, defaults), lambda _subject: f" (in {file_name})")


def from_env(
    cls: type[ConfigT],
    environ: Mapping[str, str] | None,
    dotenv: str | os.PathLike[str] | None,
    *,
    prefix: str,
) -> ConfigT:
    """See :meth:`.ConsumerConfig.from_env`; ``prefix`` is what the class's own variables begin with."""
    names = VariableNames.of(prefix, _paths(cls))
    found = Variables()
    if dotenv is not None:
        file_name = os.fspath(dotenv)
        found = read_variables(read_dotenv(file_name), names, file=file_name)
    found = found.overridden_by(read_variables(os.environ if environ is None else environ, names))

    def origin(subject: str) -> str:
        variable = found.origins.get(subject) or names.variable_of(subject)
        return f" (variable {variable})" if variable else ""

    return _load(cls, found.as_mapping(), origin, found.problems)


def _load(cls: type[ConfigT], given: Mapping[str, Any], origin: Origin, problems: list[str] | None = None) -> ConfigT:
    lines = list(problems or ())
    cause = None
    try:
        config = _structure(cls, given)
    except _Faults as faults:
        cause = faults.__cause__
        lines += [f"{problem}{origin(problem.subject)}" for problem in faults.problems]
    else:
        if not lines:
            return config
    raise ConfigError(lines) from cause


class _Faults(Exception):  # noqa: N818 - how a part tells the whole
    """What is wrong with a mapping."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Final = tuple(problems)


def _structure(cls: type[ConfigT], given: Mapping[str, Any]) -> ConfigT:
    converter = _converter(cls)
    given = _connected(given)
    try:
        return converter.structure(given, cls)
    except ClassValidationError as error:
        refusal = error
    # Not while that is being handled: when the client refuses a property, it keeps what is handled for ever, and by its
    # traceback all that is given, secrets too.
    raise _Faults(_without_inherited(_all_problems(converter, cls, given, refusal))) from refusal


@cache
def _converter(cls: type[attrs.AttrsInstance]) -> Converter:
    """A converter for the class, whose hooks leave what they don't understand for the class to judge."""
    converter = Converter(forbid_extra_keys=True, prefer_attrib_converters=True)
    converter.register_structure_hook(str, lambda value, _: value)
    converter.register_structure_hook(int, lambda value, _: whole_number(value))
    converter.register_structure_hook(float, lambda value, _: number(value))
    readers: dict[str, Callable[[Any], Any]] = {
        **READERS,
        **{name: partial(_section, inner) for name, inner in _sections(cls).items()},
    }
    overrides: dict[str, Any] = {
        name: override(struct_hook=_hook(readers[name])) for name in attrs.fields_dict(cls) if name in readers
    }
    converter.register_structure_hook(cls, make_dict_structure_fn(cls, converter, **overrides))
    return converter


def _hook(read: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda value, _type: read(value)


@cache
def _sections(cls: type[attrs.AttrsInstance]) -> dict[str, type[attrs.AttrsInstance]]:
    """The fields that hold configurations themselves, and of which class these are."""
    return {name: part for name, hint in get_type_hints(cls).items() for part in get_args(hint) if attrs.has(part)}


def _paths(cls: type[attrs.AttrsInstance]) -> Iterator[str]:
    """All fields; those within another after its name and a dot."""
    sections = _sections(cls)
    for name in attrs.fields_dict(cls):
        if name in sections:
            yield from (f"{name}.{inner}" for inner in _paths(sections[name]))
        else:
            yield name


def _section(cls: type[attrs.AttrsInstance], value: Any) -> Any:
    """The configuration that a mapping says; what is no mapping, itself."""
    return _structure(cls, value) if isinstance(value, Mapping) else value


def _connected(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A consumer's fields, with its connection in those of its producer if these name no servers."""
    producer = given.get(_PRODUCER)
    if not isinstance(producer, Mapping) or "bootstrap_servers" in producer:
        return given
    own = producer.get("kafka", {})
    if isinstance(own, Mapping):
        named = _properties_in(producer)
        inherited = producer_connection_properties(_properties_in(given))
        own = {**own, **{name: value for name, value in inherited.items() if name not in named}}
    servers = given.get("bootstrap_servers", _STAND_INS["bootstrap_servers"])
    return {**given, _PRODUCER: {**producer, "bootstrap_servers": servers, "kafka": own}}


def _properties_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """The librdkafka properties among fields, as far as they are told apart."""
    with suppress(ValueError):
        properties = flat(given.get("kafka", {}))
        if isinstance(properties, Mapping):
            return {name: value for name, value in properties.items() if isinstance(name, str)}
    return {}


def _without_inherited(problems: list[Problem]) -> list[Problem]:
    """The problems but those of a producer that its consumer has, too: it inherited them."""
    inheritable = {problem.within(_PRODUCER) for problem in problems}
    return [problem for problem in problems if problem not in inheritable]


def _all_problems(
    converter: Converter,
    cls: type[attrs.AttrsInstance],
    given: Mapping[str, Any],
    error: ClassValidationError,
) -> list[Problem]:
    """What is wrong with names and forms, and then what the class finds wrong with the rest."""
    field_names = tuple(attrs.fields_dict(cls))
    problems = list(_problems(error, field_names))
    if any(isinstance(each, ConfigError) for each in error.exceptions):
        return problems  # the class itself has spoken, of all that is given
    names = set(map(name_shown, given))
    unusable = {each.subject if each.subject in names else each.subject.partition(".")[0] for each in problems}
    rest = {name: value for name, value in given.items() if name_shown(name) not in unusable}
    stand_ins = {name: value for name, value in _STAND_INS.items() if name in field_names}
    try:
        converter.structure({**stand_ins, **rest}, cls)
    except ClassValidationError as more:
        problems += _problems(more, ())
    return problems


def _problems(error: ClassValidationError, field_names: tuple[str, ...]) -> Iterator[Problem]:
    with_notes, others = error.group_exceptions()
    for refusal in others:
        if isinstance(refusal, ConfigError):
            yield from (problem for problem in refusal.problems if isinstance(problem, Problem))
    unknown = (name for each in others if isinstance(each, ForbiddenExtraKeysError) for name in each.extra_fields)
    for name in sorted(map(name_shown, unknown)):
        fields = f"; the fields are {', '.join(field_names)}"
        yield Problem(name, f"is no field{did_you_mean(name, field_names) or fields}")
    for each, note in with_notes:
        if isinstance(each, _Faults):
            yield from (problem.within(note.name) for problem in each.problems)
        else:
            fault = "is missing, and has no default; give one" if isinstance(each, KeyError) else str(each)
            yield Problem(note.name, fault)


def _find_table(
    document: dict[str, Any], file_name: str, wanted: str | None, defaults: tuple[str, ...]
) -> Mapping[str, Any]:
    names = defaults if wanted is None else (wanted,)
    tables = {name: table for name in names if (table := _table(document, name)) is not None}
    if len(tables) > 1:
        raise ConfigError([f"{file_name} has both [{'] and ['.join(tables)}]; leave one out, or name the table"])
    if tables:
        return next(iter(tables.values()))
    if wanted is not None:
        raise ConfigError([f"{file_name} has no table [{wanted}]{did_you_mean(wanted, document)}"])
    return document


def _table(document: Mapping[str, Any], dotted_name: str) -> Mapping[str, Any] | None:
    found: Any = document
    for name in dotted_name.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None
