"""What a single field has to be: the checks that all configurations are made of.

A check takes a value and yields what is wrong with it, as the end of a line that begins with the field's name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, TypeAlias

from trio_parallel_kafka.config.librdkafka import ClientKind, is_async_function, is_c_text, property_faults
from trio_parallel_kafka.config.properties import Properties
from trio_parallel_kafka.config.wording import Problem, did_you_mean, property_subject, shown

FieldCheck: TypeAlias = Callable[[Any], Iterator[str]]
FieldChecks: TypeAlias = Mapping[str, FieldCheck]

MAX_SECONDS: Final = 24 * 24 * 3600.0
"""24 days: more milliseconds don't fit into the 32 bits that the client has for them."""

MAX_WHOLE_NUMBER: Final = 2**63 - 1
MAX_PORT: Final = 2**16 - 1

_SERVER: Final = re.compile(r"([a-z_]+://)?(\[[0-9a-f:.%]+\]|[^\s:/\[\]@]+)(:(?P<port>[0-9]{1,6}))?", re.IGNORECASE)
_TOPIC_NAME: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


def field_problems(config: object, checks: FieldChecks) -> list[Problem]:
    """What is wrong with each field by itself, in the order of the checks."""
    return [Problem(field, fault) for field, check in checks.items() for fault in check(getattr(config, field))]


def property_problems(kafka: Any, kind: ClientKind) -> list[Problem]:
    """What is wrong with each property in a field ``kafka``; one that is no mapping has none."""
    given: Mapping[Any, Any] = kafka if isinstance(kafka, Mapping) else {}
    with_plugins = "plugin.library.paths" in given
    return [
        Problem(property_subject(name), fault)
        for name, value in given.items()
        for fault in property_faults(name, value, with_plugins=with_plugins, kind=kind)
    ]


def sound_properties(kafka: Any, wrong: Collection[str]) -> Properties:
    """Those of a field ``kafka`` that no problem is about."""
    given: Mapping[Any, Any] = kafka if isinstance(kafka, Mapping) else {}
    return Properties({name: value for name, value in given.items() if property_subject(name) not in wrong})


def servers(value: Any) -> Iterator[str]:
    """``host:port``, several separated by commas."""
    if not isinstance(value, str):
        yield f"must be 'host:port', or a sequence of such, is {shown(value)}"
        return
    for server in value.split(","):
        match = _SERVER.fullmatch(server)
        if match is None or not is_c_text(server):
            yield f"must be 'host:port', several separated by commas, has {shown(server)}"
        elif match["port"] and not 1 <= int(match["port"]) <= MAX_PORT:
            yield f"must have ports from 1 to {MAX_PORT}, has {shown(server)}"


def text(value: Any) -> Iterator[str]:
    """Text that says something."""
    if not isinstance(value, str) or not value.strip() or not is_c_text(value):
        yield f"must be text that isn't empty, is {shown(value)}"


def topic_name(topic: str) -> Iterator[str]:
    """What a topic can be called."""
    if not _TOPIC_NAME.fullmatch(topic):
        yield f"has {shown(topic)}, which no topic can be called: give up to 249 of the characters A-Z a-z 0-9 . _ -"


def one_of(*names: str) -> FieldCheck:
    """One of a few words."""

    def check(value: Any) -> Iterator[str]:
        if value not in names:
            nearest = did_you_mean(value, names) if isinstance(value, str) else ""
            yield f"must be one of {', '.join(map(repr, names))}, is {shown(value)}{nearest}"

    return check


def count(value: Any) -> Iterator[str]:
    """How many of something there may be."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_WHOLE_NUMBER:
        yield f"must be a whole number from 1 up, is {shown(value)}"


def seconds(*, may_be_zero: bool) -> FieldCheck:
    """A time."""
    least = "0" if may_be_zero else "more than 0"

    def check(value: Any) -> Iterator[str]:
        if not _is_number(value) or not 0 <= value <= MAX_SECONDS or (value == 0 and not may_be_zero):
            yield f"must be seconds, from {least} to {MAX_SECONDS:.0f}, is {shown(value)}"

    return check


def fraction(*, may_be_zero: bool) -> FieldCheck:
    """A part of a whole."""
    least = "0" if may_be_zero else "more than 0"

    def check(value: Any) -> Iterator[str]:
        if not _is_number(value) or not 0 <= value <= 1 or (value == 0 and not may_be_zero):
            yield f"must be a fraction, from {least} to 1, is {shown(value)}"

    return check


def factor(value: Any) -> Iterator[str]:
    """What something grows by."""
    if not _is_number(value) or not 1 <= value <= sys.float_info.max:
        yield f"must be a number from 1 up, is {shown(value)}"


def function_of(argument: str, *, must_not_wait: str) -> FieldCheck:
    """A plain function, not an async one.

    Args:
        argument: what it is called with.
        must_not_wait: why it can't be async.
    """

    def check(value: Any) -> Iterator[str]:
        if not callable(value):
            yield f"must be a function of {argument}, is {shown(value)}"
        elif is_async_function(value):
            yield f"must not be async, is {shown(value)}: {must_not_wait}; give a plain function"

    return check


def instance_of(cls: type[object]) -> FieldCheck:
    """Something of a class; its value isn't shown, for it may hold secrets."""

    def check(value: Any) -> Iterator[str]:
        if not isinstance(value, cls):
            yield f"must be a {cls.__name__}, is of type {type(value).__name__}"

    return check


def optional(check: FieldCheck, meaning: str) -> FieldCheck:
    """What another check takes, or ``None``, which has a meaning of its own."""

    def check_unless_none(value: Any) -> Iterator[str]:
        if value is not None:
            yield from (f"{fault}; None means {meaning}" for fault in check(value))

    return check_unless_none


def properties(value: Any) -> Iterator[str]:
    """Properties of librdkafka, by their names."""
    if not isinstance(value, Mapping):  # its type alone: it may hold secrets
        yield f"must be a mapping of librdkafka properties, is of type {type(value).__name__}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
