"""Bring what is given for a field into its final form.

They leave what they don't know as it is: only the validation speaks of faults, so that it can name them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard, cast

from trio_parallel_kafka.config.properties import Properties, PropertyValue


def as_servers(given: str | Sequence[str]) -> str:
    """Addresses, separated by commas."""
    parts = given.split(",") if isinstance(given, str) else given
    if not is_texts(parts):
        return cast("str", given)
    return ",".join(part.strip() for part in parts)


def as_properties(given: Mapping[str, PropertyValue]) -> Properties:
    """An immutable copy that doesn't show secrets."""
    if not isinstance(given, Mapping):
        return given
    return Properties(given)


def is_texts(given: object) -> TypeGuard[Sequence[str]]:
    """Whether this is a sequence of texts, and not a single one."""
    return isinstance(given, Sequence) and not isinstance(given, str) and all(isinstance(part, str) for part in given)
