"""librdkafka properties as a mapping that can't be changed and doesn't show secrets."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

PropertyValue: TypeAlias = str | int | float | bool | Callable[..., Any] | logging.Logger

HIDDEN: Final = "'***'"

# Rather one too many: hiding the path of a key file hurts nobody.
_SECRET_NAME: Final = re.compile(
    r"passw|passphrase|secret|token|private|credential|key\.pem$|\.key$|jaas|oauthbearer\.(config|extensions)",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Whether the property of this name holds what nobody may read in a log."""
    return _SECRET_NAME.search(name) is not None


class Properties(Mapping[str, PropertyValue]):
    """An immutable, hashable copy of librdkafka properties, whose ``repr`` hides secrets."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, PropertyValue]) -> None:
        self._values: Final = dict(values)

    def __getitem__(self, name: str) -> PropertyValue:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        shown = (f"{name!r}: {HIDDEN if is_secret(name) else repr(value)}" for name, value in self.items())
        return "{" + ", ".join(shown) + "}"
