"""Configurations from mappings, TOML files and the environment.

Every source comes down to one mapping of field names, which cattrs structures: cattrs finds names that are
unknown or missing, the class itself judges the values. Here, what both say becomes one
:exc:`~trio_parallel_kafka.errors.ConfigError`, which also says where each value came from.
"""

from __future__ import annotations

import os
import pkgutil
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from trio_parallel_kafka.config.environment import Variables, read_dotenv, read_variables, variables_of
from trio_parallel_kafka.config.wording import Problem, did_you_mean, shown
from trio_parallel_kafka.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=attrs.AttrsInstance)
Origin: TypeAlias = Callable[[str], str]
"""Where the value that a problem is about came from, as the end of the problem's line."""

TOML_TABLES: Final = ("trio-parallel-kafka", "tool.trio-parallel-kafka")

# Stand in for what is missing or unusable, so that the class can judge the rest.
_STAND_INS: Final = {"bootstrap_servers": "localhost", "group_id": "stand-in", "topics": "stand-in"}
_EXACT_BELOW: Final = 2.0**53  # from there on, a float stands for several integers


def from_mapping(cls: type[ConfigT], mapping: Mapping[str, Any]) -> ConfigT:
    """See :meth:`.ConsumerConfig.from_mapping`."""
    if not isinstance(mapping, Mapping):
        raise ConfigError([f"a configuration must be a mapping of fields, is of type {type(mapping).__name__}"])
    return _structure(cls, mapping, lambda _subject: "")


def from_toml(cls: type[ConfigT], path: str | os.PathLike[str], table: str | None) -> ConfigT:
    """See :meth:`.ConsumerConfig.from_toml`."""
    file_name = os.fspath(path)
    try:
        with open(file_name, "rb") as file:  # noqa: PTH123 - the name is the user's, as it is
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError([f"{file_name} can't be read: {error}; check the path"]) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{file_name} is no TOML: {error}"]) from error
    return _structure(cls, _find_table(document, file_name, table), lambda _subject: f" (in {file_name})")


def from_env(cls: type[ConfigT], environ: Mapping[str, str] | None, dotenv: str | os.PathLike[str] | None) -> ConfigT:
    """See :meth:`.ConsumerConfig.from_env`."""
    field_names = tuple(attrs.fields_dict(cls))
    found = Variables()
    if dotenv is not None:
        file_name = os.fspath(dotenv)
        found = read_variables(read_dotenv(file_name), field_names, file=file_name)
    found = found.overridden_by(read_variables(os.environ if environ is None else environ, field_names))
    variables = {field: variable for variable, field in variables_of(field_names).items()}

    def origin(subject: str) -> str:
        variable = found.origins.get(subject) or variables.get(subject)
        return f" (variable {variable})" if variable else ""

    return _structure(cls, found.as_mapping(), origin, found.problems)


def _structure(
    cls: type[ConfigT], given: Mapping[str, Any], origin: Origin, problems: list[str] | None = None
) -> ConfigT:
    converter = _converter(cls)
    lines = list(problems or ())
    cause = None
    try:
        config = converter.structure(given, cls)
    except ClassValidationError as error:
        cause = error
        lines += [f"{problem}{origin(problem.subject)}" for problem in _all_problems(converter, cls, given, error)]
    else:
        if not lines:
            return config
    raise ConfigError(lines) from cause


def _converter(cls: type[attrs.AttrsInstance]) -> Converter:
    """A converter for the class, whose hooks leave what they don't understand for the class to judge."""
    converter = Converter(forbid_extra_keys=True, prefer_attrib_converters=True)
    converter.register_structure_hook(str, lambda value, _: value)
    converter.register_structure_hook(int, lambda value, _: _whole_number(value))
    converter.register_structure_hook(float, lambda value, _: _number(value))
    structure = make_dict_structure_fn(
        cls,
        converter,
        key_of=override(struct_hook=lambda value, _: _function(value)),
        kafka=override(struct_hook=lambda value, _: _flat(value)),
    )
    converter.register_structure_hook(cls, structure)
    return converter


def _all_problems(
    converter: Converter,
    cls: type[attrs.AttrsInstance],
    given: Mapping[str, Any],
    error: ClassValidationError,
) -> list[Problem]:
    """What is wrong with names and forms, and then what the class finds wrong with the rest."""
    problems = list(_problems(error, tuple(attrs.fields_dict(cls))))
    if any(isinstance(each, ConfigError) for each in error.exceptions):
        return problems  # the class itself has spoken, of all that is given
    unusable = {problem.subject for problem in problems}
    rest = {name: value for name, value in given.items() if str(name) not in unusable}
    try:
        converter.structure({**_STAND_INS, **rest}, cls)
    except ClassValidationError as more:
        problems += _problems(more, ())
    return problems


def _problems(error: ClassValidationError, field_names: tuple[str, ...]) -> Iterator[Problem]:
    for each in error.exceptions:
        if isinstance(each, ConfigError):
            yield from (problem for problem in each.problems if isinstance(problem, Problem))
        elif isinstance(each, ForbiddenExtraKeysError):
            for name in sorted(map(str, each.extra_fields)):
                fields = f"; the fields are {', '.join(field_names)}"
                yield Problem(name, f"is no field{did_you_mean(name, field_names) or fields}")
    with_notes, _ = error.group_exceptions()
    for each, note in with_notes:
        fault = "is missing, and has no default; give one" if isinstance(each, KeyError) else str(each)
        yield Problem(note.name, fault)


def _number(value: Any) -> Any:
    """The number that text is for certain, else the value itself."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _whole_number(value: Any) -> Any:
    """The integer that text or a float is for certain, else the value itself."""
    if isinstance(value, str):
        with suppress(ValueError):
            return int(value)
    number = _number(value)  # "1e3" is an integer too
    is_exact = isinstance(number, float) and number.is_integer() and abs(number) < _EXACT_BELOW
    return int(number) if is_exact else value


def _function(value: Any) -> Any:
    """The function that ``"module:function"`` names; what isn't text, itself."""
    if not isinstance(value, str):
        return value
    if ":" not in value:
        raise ValueError(f"must be 'module:function', is {shown(value)}")
    try:
        return pkgutil.resolve_name(value)
    except Exception as error:  # a module may raise anything
        raise ValueError(
            f"can't import {shown(value)}: {type(error).__name__}: {error}; check the spelling and the path"
        ) from error


def _flat(value: Any) -> Any:
    """Properties by their whole names, out of nested mappings; what is no mapping, itself."""
    if not isinstance(value, Mapping):
        return value
    pairs = list(_flat_items(value))
    twice = [repr(name) for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"has {', '.join(twice)} twice, in one piece and nested; leave one out")
    return dict(pairs)


def _flat_items(table: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[Any, Any]]:
    for name, value in table.items():
        whole_name = f"{prefix}{name}" if prefix else name
        if isinstance(value, Mapping):
            yield from _flat_items(value, f"{whole_name}.")
        else:
            yield whole_name, value


def _find_table(document: dict[str, Any], file_name: str, wanted: str | None) -> Mapping[str, Any]:
    names = TOML_TABLES if wanted is None else (wanted,)
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
