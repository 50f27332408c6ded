"""Writes maps as the Java parallel-consumer does."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import zstandard

from trio_parallel_kafka.core import strict_base64
from trio_parallel_kafka.core.ranges import OffsetRanges


def ranges_of(committed: int, runs: Sequence[int]) -> OffsetRanges:
    """Read alternating runs the plain way."""
    ranges = []
    offset = committed
    for index, run in enumerate(runs):
        if index % 2:
            ranges.append((offset, offset + run))
        offset += run
    return tuple(ranges)


def java_body(letter: str, runs: Sequence[int]) -> bytes:
    """Write a Java map's body before compression."""
    if letter in "ne":
        return struct.pack(f">{len(runs)}{'h' if letter == 'n' else 'i'}", *runs)
    bits = "".join("01"[index % 2] * run for index, run in enumerate(runs))
    number = int(bits[::-1] or "0", 2).to_bytes((len(bits) + 7) // 8 + 1, "little")
    return struct.pack(">h" if letter == "l" else ">i", len(bits)) + number


def java_text(letter: str, runs: Sequence[int]) -> str:
    """Write a Java map."""
    plain = dict(zip("aJsp", "lnoe", strict=True)).get(letter)
    if plain is None:
        return strict_base64.encode(letter.encode() + java_body(letter, runs))
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    return strict_base64.encode(letter.encode() + compressor.compress(java_body(plain, runs)))
