"""Values of all kinds, made of the bytes that a fuzzer chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Data:
    """Reads values from the start of some bytes; where they end, everything is 0 or empty.

    Each byte decides as little as possible, so that a small change of the bytes is a small change of the values.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there is more."""
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """Up to so many bytes."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(len(self._data))

    def byte(self) -> int:
        """A number from 0 to 255."""
        return int.from_bytes(self.take(1), "big")

    def pick(self, choices: Sequence[T]) -> T:
        """One of up to 256 things."""
        return choices[self.byte() % len(choices)]

    def signed(self, size: int) -> int:
        """A number of so many bytes."""
        return int.from_bytes(self.take(size), "big", signed=True)

    def magnitude(self) -> int:
        """A number from 0 on, of up to 8 bytes: small ones are as likely as large ones."""
        return int.from_bytes(self.take(self.byte() % 9), "big")

    def block(self) -> bytes:
        """Up to 255 bytes."""
        return self.take(self.byte())

    def text(self) -> str:
        """Up to 255 bytes as text; what isn't UTF-8 becomes lone surrogates."""
        return self.block().decode(errors="surrogateescape")
