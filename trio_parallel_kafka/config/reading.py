"""What a value in a file, a mapping or a variable stands for.

What isn't certain stays as it is: the configuration itself judges it, and shows it as it was given.
"""

from __future__ import annotations

import pkgutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final

from trio_parallel_kafka.config.wording import name_shown, shown

_DEEPEST: Final = 16
"""Parts that a property's name may have; librdkafka's have up to six."""

_EXACT_BELOW: Final = 2.0**53  # from there on, a float stands for several integers


def number(value: Any) -> Any:
    """The number that text is for certain, else the value itself."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def whole_number(value: Any) -> Any:
    """The integer that text or a float is for certain, else the value itself."""
    if isinstance(value, str):
        with suppress(ValueError):
            return int(value)
    given = number(value)  # "1e3" is an integer too
    is_exact = isinstance(given, float) and given.is_integer() and abs(given) < _EXACT_BELOW
    return int(given) if is_exact else value


def _number_of_times(value: Any) -> Any:
    """As above; also ``None`` for the word."""
    return None if isinstance(value, str) and value.lower() == "none" else whole_number(value)


def _function(value: Any) -> Any:
    """The function that ``"module:function"`` names; what isn't text, itself."""
    return _imported(value, "function") if isinstance(value, str) else value


def _functions(value: Any) -> Any:
    """The classes or the function that ``"module:Class, module:Class"`` or a list of such names."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return value
    found = [_imported(part.strip(), "Class") if isinstance(part, str) else part for part in parts]
    return found[0] if len(found) == 1 else found


def _topic(value: Any) -> Any:
    """The function that is named if it is one; else the topic's name, which has no colon."""
    return _function(value) if isinstance(value, str) and ":" in value else value


def _imported(name: str, kind: str) -> Any:
    if ":" not in name:
        raise ValueError(f"must be 'module:{kind}', is {shown(name)}")
    try:
        return pkgutil.resolve_name(name)
    except Exception as error:  # a module may raise anything
        raise ValueError(
            f"can't import {shown(name)}: {type(error).__name__}: {error}; check the spelling and the path"
        ) from error


def flat(value: Any) -> Any:
    """Properties by their whole names, out of nested mappings; what is no mapping, itself."""
    if not isinstance(value, Mapping):
        return value
    pairs = list(_flat_items(value))
    twice = [repr(name) for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"has {', '.join(twice)} twice, in one piece and nested; leave one out")
    return dict(pairs)


def _flat_items(table: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[Any, Any]]:
    if prefix.count(".") >= _DEEPEST:
        raise ValueError(
            f"has mappings within mappings, more than {_DEEPEST} deep; give properties by their whole names"
        )
    for name, value in table.items():
        whole_name = f"{prefix}{name_shown(name)}" if prefix else name
        if isinstance(value, Mapping):
            yield from _flat_items(value, f"{name_shown(whole_name)}.")
        else:
            yield whole_name, value


READERS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "deserialize_key": _function,
        "deserialize_value": _function,
        "kafka": flat,
        "key_of": _function,
        "max_attempts": _number_of_times,
        "max_tasks_per_worker": _number_of_times,
        "max_worker_memory": _number_of_times,
        "on_dead_letter_failure": lambda value: value,
        "process_workers": _number_of_times,
        "retry_on": _functions,
        "serialize_key": _function,
        "serialize_value": _function,
        "topic": _topic,
        "worker_initializer": _function,
        "worker_start_method": lambda value: value,
    }
)
"""How fields are read whose type doesn't say it all, by their names."""
