"""Which topics a subscription takes in, as far as its words say."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Final

_POSIX_CLASSES: Final = {
    "alnum": "A-Za-z0-9",
    "alpha": "A-Za-z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\s",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
_POSIX_CLASS: Final = re.compile(rf"\[:({'|'.join(_POSIX_CLASSES)}):\]")
_ANYTHING_AT_THE_END: Final = re.compile(r"(?<!\\)(\\\\)*\.[*+]\)*\$?\Z")


def is_pattern(topic: str) -> bool:
    """Whether this stands for all topics that it matches, rather than for one."""
    return topic.startswith("^")


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as Python's own, for which POSIX classes are spelt out.

    Raises:
        re.error: it is no regular expression, nor are what :func:`re.compile` raises besides for monstrous ones.
    """
    spelt_out = _POSIX_CLASS.sub(lambda name: _POSIX_CLASSES[name[1]], pattern)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Python's plans for its own syntax
        return re.compile(spelt_out)


def reader_of(topic: str, subscription: Iterable[str], *, whole_names: bool) -> str | None:
    """The part of a subscription that takes in this topic.

    Args:
        topic: the topic's name.
        subscription: names and patterns.
        whole_names: whether a pattern matches whole names, rather than their beginnings.
    """
    for part in subscription:
        if part == topic:
            return part
        if is_pattern(part):
            pattern = compiled(part)
            if pattern.fullmatch(topic) if whole_names else pattern.search(topic):
                return part
    return None


def is_open_ended(pattern: str, *, whole_names: bool) -> bool:
    """Whether a pattern that matches a name also matches what begins with it, as far as its end tells."""
    has_end = whole_names or pattern.endswith("$")
    return not has_end or _ANYTHING_AT_THE_END.search(pattern) is not None
