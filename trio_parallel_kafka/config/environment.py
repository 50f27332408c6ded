"""Fields from environment variables and ``.env`` files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from trio_parallel_kafka.config.property_names import PRODUCER_PROPERTY_NAMES, PROPERTY_NAMES
from trio_parallel_kafka.config.wording import did_you_mean, property_subject
from trio_parallel_kafka.errors import ConfigError

COMMON_VARIABLES: Final = {
    "KAFKA_BOOTSTRAP_SERVERS": "bootstrap_servers",
    "KAFKA_CONSUMER_GROUP": "group_id",
    "KAFKA_TOPICS": "topics",
}
"""Variables that are likely to be there for other programs too."""

_PROPERTIES_FIELD: Final = "kafka"

# The few properties with underscores in their names could not be told from those with dots.
_PROPERTIES: Final = {name.upper().replace(".", "_"): name for name in sorted(PROPERTY_NAMES | PRODUCER_PROPERTY_NAMES)}


@attrs.frozen
class VariableNames:
    """Which variables there are for a configuration.

    Attributes:
        prefix: what its own variables begin with.
        fields: the field that each variable sets; one within another has a dot.
        property_fields: the field of librdkafka properties that variables with such a beginning are for.
        sections: what variables of the fields within a field begin with.
    """

    prefix: str
    fields: Mapping[str, str]
    property_fields: Mapping[str, str]
    sections: tuple[str, ...]

    @classmethod
    def of(cls, prefix: str, paths: Iterable[str]) -> VariableNames:
        """Name variables.

        Args:
            prefix: what they begin with.
            paths: the fields; one within another has a dot.
        """
        own = {prefix + path.upper().replace(".", "_"): path for path in paths}
        property_fields = {
            f"{variable}_": path for variable, path in own.items() if path.rpartition(".")[2] == _PROPERTIES_FIELD
        }
        fields = {variable: path for variable, path in own.items() if path not in property_fields.values()}
        common = {variable: path for variable, path in COMMON_VARIABLES.items() if path in fields.values()}
        holders = dict.fromkeys(path.partition(".")[0] for path in own.values() if "." in path)
        sections = tuple(f"{prefix}{holder.upper()}_" for holder in holders)
        return cls(prefix, fields | common, property_fields, sections)

    def variable_of(self, path: str) -> str | None:
        """The variable that is to be used for a field, the common one if there is one."""
        return {path: variable for variable, path in self.fields.items()}.get(path)


@attrs.frozen(kw_only=True)
class Variables:
    """What one or more sources of variables say.

    Attributes:
        values: texts by field, and by field and librdkafka property.
        origins: the variable, and the file if it isn't the environment, by what a problem may be about.
        problems: what can't be taken for a field's value at all.
    """

    values: dict[tuple[str, ...], Any] = attrs.field(factory=dict, repr=False)
    origins: dict[str, str] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)

    def overridden_by(self, other: Variables) -> Variables:
        """The two together; where both say something of a field, the other's word."""
        return Variables(
            values=self.values | other.values,
            origins=self.origins | other.origins,
            problems=self.problems + other.problems,
        )

    def as_mapping(self) -> dict[str, Any]:
        """What there is, as a mapping of fields."""
        mapping: dict[str, Any] = {}
        for (*holders, name), value in self.values.items():
            inner = mapping
            for holder in holders:
                inner = inner.setdefault(holder, {})
            inner[name] = value
        return mapping


def read_variables(variables: Mapping[str, str | None], names: VariableNames, *, file: str | None = None) -> Variables:
    """Pick the variables that are meant for a configuration.

    Args:
        variables: their texts by name; ``None`` if a file names one without a value.
        names: the variables that there are.
        file: where they come from, if not from the environment.
    """
    found = Variables()
    place = f" in {file}" if file else ""
    for variable, text in variables.items():
        if variable not in names.fields and not variable.startswith(names.prefix):
            continue
        if text is None:
            found.problems.append(f"{variable}{place}: has no value; give one, or leave it out")
        elif variable in names.fields:
            found.problems.extend(_take_field(found, names.fields[variable], variable + place, text))
        elif beginning := next(filter(variable.startswith, names.property_fields), None):
            _take_property(
                found, names.property_fields[beginning], variable.removeprefix(beginning), variable + place, text
            )
        else:
            found.problems.append(f"{variable}{place}: {_unknown(variable, names)}")
    return found


def read_dotenv(path: str) -> dict[str, str | None]:
    """The variables in a ``.env`` file, literally.

    Raises:
        ConfigError: python-dotenv isn't installed, or the file can't be read whole.
    """
    try:
        # Not dotenv_values(): it passes over a missing file, and over lines that it can't read.
        from dotenv.parser import parse_stream  # noqa: PLC0415 - an extra
    except ImportError as error:
        need = "reading a .env file needs python-dotenv: pip install 'trio-parallel-kafka[dotenv]'"
        raise ConfigError([need]) from error
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - the name is the user's, as it is
            bindings = list(parse_stream(file))
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path} can't be read: {error}; check the path"]) from error
    unreadable = [binding.original.line for binding in bindings if binding.error]
    if unreadable:
        raise ConfigError(f"{path}, line {line}: is no NAME=value" for line in unreadable)
    return {binding.key: binding.value for binding in bindings if binding.key is not None}


def _take_field(found: Variables, path: str, origin: str, text: str) -> Iterator[str]:
    value = [topic.strip() for topic in text.split(",")] if path == "topics" else text
    if found.values.setdefault(tuple(path.split(".")), value) != value:
        both = f"{found.origins[path]} and {origin}"
        yield f"{path}: is set twice, differently; leave one out (variables {both})"
    found.origins.setdefault(path, origin)


def _take_property(found: Variables, path: str, suffix: str, origin: str, text: str) -> None:
    name = _PROPERTIES.get(suffix, suffix.lower().replace("_", "."))
    *holders, _ = path.split(".")
    found.values[*path.split("."), name] = text
    found.origins[".".join([*holders, property_subject(name)])] = origin


def _unknown(variable: str, names: VariableNames) -> str:
    group = f"{variable}_"
    if group in names.property_fields:
        return f"librdkafka's properties are set one by one, as {group}<PROPERTY>"
    if group in names.sections:
        return f"its fields are set one by one, as {group}<FIELD>"
    properties = (beginning + suffix for beginning in names.property_fields for suffix in _PROPERTIES)
    return f"sets nothing{did_you_mean(variable, [*names.fields, *properties], prefix=names.prefix)}"
