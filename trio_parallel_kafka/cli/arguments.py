"""What values arguments take. The errors say what is allowed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Final, Self

import attrs

LONGEST_WORK: Final = 60.0
"""Seconds."""

_DAY: Final = 86_400.0
_NUMBER: Final = r"(\d+(?:\.\d*)?|\.\d+)"
_RANGE: Final = re.compile(rf"{_NUMBER}(?:-{_NUMBER})?", re.ASCII)


@attrs.frozen
class WorkTime:
    """How long the work on a record takes: between two bounds, in seconds."""

    shortest: float
    longest: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read milliseconds: a number, or two with a hyphen between them."""
        match = _RANGE.fullmatch(text.strip())
        if match is not None:
            shortest = float(match[1]) / 1000
            longest = float(match[2]) / 1000 if match[2] else shortest
            if 0 < shortest <= longest <= LONGEST_WORK:
                return cls(shortest, longest)
        raise argparse.ArgumentTypeError(
            f"must be milliseconds above 0, {LONGEST_WORK * 1000:,.0f} at most: "
            f"a number (3) or a range (1-5), the smaller first; not {text!r}"
        )

    def __str__(self) -> str:
        shortest, longest = (f"{bound * 1000:g}" for bound in (self.shortest, self.longest))
        return f"{shortest} ms" if shortest == longest else f"{shortest}-{longest} ms"


def whole_number(highest: int, *, lowest: int = 1) -> Callable[[str], int]:
    """Make a reader of whole numbers from ``lowest`` to ``highest``."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"must be a whole number from {lowest} to {highest:,}, not {text!r}")
        return number

    return parse


def servers(text: str) -> str:
    """Read the addresses of a cluster."""
    if not all(part.strip() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be host:port, or several with commas between them, not {text!r}")
    return text


def seconds(text: str) -> float:
    """Read a time in seconds, from 0 to a day."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= _DAY:
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to {_DAY:,.0f}, not {text!r}")
    return number


def handler_name(text: str) -> str:
    """Read the name of a function and its module."""
    module, colon, function = text.partition(":")
    names = [*module.split("."), *function.split(".")]
    if not colon or not all(map(str.isidentifier, names)):
        raise argparse.ArgumentTypeError(
            f"must be a module and a function in it, as in billing.orders:handle, not {text!r}"
        )
    return text
