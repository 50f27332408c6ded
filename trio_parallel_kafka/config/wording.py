"""How a problem is worded: the value that is wrong, the name that may have been meant."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self


class _Shortened(reprlib.Repr):
    """Shows no mapping: in the wrong place, it may hold secrets."""

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, Mapping):
            return "{...}" if x else "{}"
        return super().repr1(x, level)


_SHORTENED: Final = _Shortened()
_SHORTENED.maxstring = _SHORTENED.maxother = 80


class Problem(str):
    """One fault, as the line that a user reads.

    Attributes:
        subject: what it is about: a field, or ``kafka['<property>']``; with a dot after the field that it is within.
        fault: what is wrong with it.
    """

    __slots__ = ("fault", "subject")

    subject: str
    fault: str

    def __new__(cls, subject: str, fault: str) -> Self:
        """Join the two into a line."""
        problem = super().__new__(cls, f"{subject}: {fault}")
        problem.subject = subject
        problem.fault = fault
        return problem

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # or it couldn't be pickled
        return self.subject, self.fault

    def within(self, field: str) -> Problem:
        """The same, as it is called from outside of the field that holds its subject."""
        return Problem(f"{field}.{self.subject}", self.fault)


def property_subject(name: object) -> str:
    """What a problem with this librdkafka property is about."""
    return f"kafka[{name!r}]" if isinstance(name, str) else f"kafka[{shown(name)}]"


def name_shown(name: object) -> str:
    """A key of a mapping, which should be text, as a message shows it."""
    return name if isinstance(name, str) else shown(name)


def shown(value: object) -> str:
    """The value as a message shows it: short, whatever it is."""
    try:
        return _SHORTENED.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"<{type(value).__name__}>"


def did_you_mean(name: str, candidates: Iterable[str], *, prefix: str = "") -> str:
    """The end of a sentence that proposes the candidate nearest to ``name``; empty if none is near.

    Args:
        name: what was written.
        candidates: what may have been meant.
        prefix: what all names begin with, and which would make them all alike.
    """
    by_ending = {candidate.removeprefix(prefix).lower(): candidate for candidate in candidates}
    nearest = difflib.get_close_matches(name.removeprefix(prefix).lower(), by_ending, n=1)
    return f"; did you mean {by_ending[nearest[0]]!r}?" if nearest else ""
