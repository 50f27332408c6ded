"""Fields from environment variables and ``.env`` files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from trio_parallel_kafka.config.property_names import PROPERTY_NAMES
from trio_parallel_kafka.config.wording import did_you_mean, property_subject
from trio_parallel_kafka.errors import ConfigError

PREFIX: Final = "PARALLEL_CONSUMER_"
PROPERTY_PREFIX: Final = f"{PREFIX}KAFKA_"
COMMON_VARIABLES: Final = {
    "KAFKA_BOOTSTRAP_SERVERS": "bootstrap_servers",
    "KAFKA_CONSUMER_GROUP": "group_id",
    "KAFKA_TOPICS": "topics",
}
"""Variables that are likely to be there for other programs too."""

# The few properties with underscores in their names could not be told from those with dots.
_PROPERTIES: Final = {name.upper().replace(".", "_"): name for name in PROPERTY_NAMES}


@attrs.frozen(kw_only=True)
class Variables:
    """What one or more sources of variables say.

    Attributes:
        fields: values by field, still as text.
        properties: values by librdkafka property.
        origins: the variable, and the file if it isn't the environment, by what a problem may be about.
        problems: what can't be taken for a field's value at all.
    """

    fields: dict[str, Any] = attrs.field(factory=dict)
    properties: dict[str, str] = attrs.field(factory=dict, repr=False)
    origins: dict[str, str] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)

    def overridden_by(self, other: Variables) -> Variables:
        """The two together; where both say something of a field, the other's word."""
        return Variables(
            fields=self.fields | other.fields,
            properties=self.properties | other.properties,
            origins=self.origins | other.origins,
            problems=self.problems + other.problems,
        )

    def as_mapping(self) -> dict[str, Any]:
        """What there is, as a mapping of fields."""
        return {**self.fields, "kafka": self.properties}


def read_variables(
    variables: Mapping[str, str | None], field_names: Iterable[str], *, file: str | None = None
) -> Variables:
    """Pick the variables that are meant for a consumer.

    Args:
        variables: their texts by name; ``None`` if a file names one without a value.
        field_names: the fields that there are.
        file: where they come from, if not from the environment.
    """
    found = Variables()
    known = variables_of(field_names)
    place = f" in {file}" if file else ""
    for variable, text in variables.items():
        if variable not in known and not variable.startswith(PREFIX):
            continue
        if text is None:
            found.problems.append(f"{variable}{place}: has no value; give one, or leave it out")
        elif variable in known:
            found.problems.extend(_take_field(found, known[variable], variable + place, text))
        elif variable.startswith(PROPERTY_PREFIX):
            _take_property(found, variable, place, text)
        else:
            found.problems.append(f"{variable}{place}: {_unknown(variable, known)}")
    return found


def variables_of(field_names: Iterable[str]) -> dict[str, str]:
    """The field that each variable sets."""
    own = {PREFIX + field.upper(): field for field in field_names if field != "kafka"}
    return own | COMMON_VARIABLES


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


def _take_field(found: Variables, field: str, origin: str, text: str) -> Iterator[str]:
    value = [topic.strip() for topic in text.split(",")] if field == "topics" else text
    if found.fields.setdefault(field, value) != value:
        both = f"{found.origins[field]} and {origin}"
        yield f"{field}: is set twice, differently; leave one out (variables {both})"
    found.origins.setdefault(field, origin)


def _take_property(found: Variables, variable: str, place: str, text: str) -> None:
    suffix = variable.removeprefix(PROPERTY_PREFIX)
    name = _PROPERTIES.get(suffix, suffix.lower().replace("_", "."))
    found.properties[name] = text
    found.origins[property_subject(name)] = variable + place


def _unknown(variable: str, known: Iterable[str]) -> str:
    if variable == PREFIX + "KAFKA":
        return f"librdkafka's properties are set one by one, as {PROPERTY_PREFIX}<PROPERTY>"
    candidates = [*known, *(PROPERTY_PREFIX + suffix for suffix in _PROPERTIES)]
    return f"sets nothing{did_you_mean(variable, candidates, prefix=PREFIX)}"
