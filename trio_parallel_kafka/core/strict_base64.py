"""Base64 that has exactly one spelling for each sequence of bytes."""

from __future__ import annotations

import base64
import re
from typing import Final

from trio_parallel_kafka.core.ranges import MapError

_LEADING_DIGITS: Final = re.compile("[A-Za-z0-9+/]*")


def encode(data: bytes) -> str:
    """Spell bytes as padded base64."""
    return base64.b64encode(data).decode("ascii")


def decode(text: str) -> bytes:
    """Read bytes that :func:`encode` spelt.

    Raises:
        MapError: the text is anything that :func:`encode` doesn't write.
    """
    data = decode_start(text)
    if encode(data) != text:
        raise MapError("not whole, well-formed base64")
    return data


def decode_start(text: str) -> bytes:
    """Read as many whole bytes as the base64 digits at the start of the text spell.

    What follows the digits is ignored, and so are bits that are left over: for text whose
    end isn't known. Compare with :func:`encode` to know whether a part of it is whole.
    """
    digits = _LEADING_DIGITS.match(text).group()  # type: ignore[union-attr]  # matches any text
    if len(digits) % 4 == 1:
        digits = digits[:-1]
    return base64.b64decode(digits + "=" * (-len(digits) % 4))
