"""What is fuzzed: a function of bytes, and what holds of it whatever the bytes are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class Target:
    """One function under test.

    Attributes:
        name: what it is called, on the command line and in ``corpus/``.
        check: calls it with the input's bytes, and raises if it breaks a promise; a folder for files comes along.
        seeds: inputs made by hand.
        share: its part of all inputs of a run, against those of the others.
        max_size: bytes of the longest input that a fuzzer makes; those made by hand may be longer.
        max_memory: bytes that an input may ask for at most; ``None`` where most of them go into what the target itself
            makes of the input.
        words: what inputs are likely to be made of.
    """

    name: str
    check: Callable[[bytes, Path], None]
    seeds: Callable[[], Iterable[bytes]]
    share: int
    max_size: int
    max_memory: int | None = None
    words: tuple[str, ...] = ()
