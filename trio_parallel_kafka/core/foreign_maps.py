"""The maps of completed offsets that other consumers leave in commit metadata.

They are read so that a group can move over without handling everything again. What
isn't certain to be whole and consistent is refused: a record too many is handled twice,
a record too few is lost.

**Java parallel-consumer.** Base64 of a letter and a body, of which these are two forms, each
with numbers of 16 or 32 bits (signed, big endian):

- a bitset: the number of offsets from the committed one to the highest completed one, then a
  bit each, the first in the lowest bit of the first byte, then one byte more than it takes;
- run lengths: offsets incomplete, offsets completed, and so on.

Either may be a zstd frame instead. The highest offset is always a completed one and the
first always an incomplete one; a map in which nothing is completed is a single 0.

**The end of a Java map is doubtful.** The Java client stores no NUL after the text, and the
client that reads it here goes on to the next NUL: what follows may be anything, the end of an
older map included. A bitset says its length and a zstd frame ends itself. Run lengths do
neither, and base64 padding doesn't end them either, for it may be the older map's. They are
taken only where no more than one end is possible.

**Pyrallel** commits through the client that is used here, so its text is exact: ``R`` and a list
of inclusive ranges, ``B``, the committed offset, a colon and a bitset in hexadecimal, or ``O`` where
the map was too long.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from itertools import chain, pairwise
from typing import Final, TypeAlias

import attrs

from trio_parallel_kafka.core import strict_base64
from trio_parallel_kafka.core.ranges import MapError, OffsetRanges, from_bits, from_runs

Decompress: TypeAlias = Callable[[bytes, int], bytes]
"""Reads a zstd frame that may be followed by other bytes: ``(frame, most bytes out) -> bytes``.

It raises whatever it likes where the frame is damaged, cut off, or larger than allowed.
"""

MAX_FOREIGN_LENGTH: Final = 32_767
"""Characters of foreign metadata that are looked at; brokers take 4,096 unless configured otherwise."""

MAX_DECOMPRESSED_SIZE: Final = 128 * 1024
"""Bytes that a compressed map may have: a million offsets as a bitset."""

ZSTD_EXTRA: Final = "trio-parallel-kafka[zstd]"

_OFFSET: Final = "(0|[1-9][0-9]{0,18})"
_RUN_ITEM: Final = re.compile(f"{_OFFSET}(?:-{_OFFSET})?")
_BITSET_TEXT: Final = re.compile(f"B{_OFFSET}:((?:[0-9a-f]{{2}})*)")


@attrs.frozen
class _JavaKind:
    """How a Java map's body is written.

    Attributes:
        bitset: a bitset, else run lengths.
        number: the struct letter of its numbers.
        compressed: the body is in a zstd frame.
    """

    bitset: bool
    number: str
    compressed: bool = False

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return struct.calcsize(self.number)


_JAVA_KINDS: Final = {
    ord("l"): _JavaKind(bitset=True, number="h"),
    ord("o"): _JavaKind(bitset=True, number="i"),
    ord("n"): _JavaKind(bitset=False, number="h"),
    ord("e"): _JavaKind(bitset=False, number="i"),
    ord("a"): _JavaKind(bitset=True, number="h", compressed=True),
    ord("s"): _JavaKind(bitset=True, number="i", compressed=True),
    ord("J"): _JavaKind(bitset=False, number="h", compressed=True),
    ord("p"): _JavaKind(bitset=False, number="i", compressed=True),
}


def is_java(text: str) -> bool:
    """Whether metadata starts as the Java parallel-consumer's does."""
    data = strict_base64.decode_start(text[:4])
    return bool(data) and data[0] in _JAVA_KINDS


def decode_java(
    text: str,
    committed: int,
    *,
    zstd: Decompress | None = None,
    exact: bool = False,
) -> OffsetRanges:
    """Read a map of the Java parallel-consumer.

    Args:
        text: the metadata, perhaps with other characters after it.
        committed: the offset that was committed with it.
        zstd: reads compressed maps.
        exact: the text is known to end where its writer ended it, as when a client that
            respects lengths has read it.

    Returns:
        The completed offsets, above the committed one.

    Raises:
        MapError: the map isn't certain to be whole, contradicts itself, or is compressed and
            there is no ``zstd``.
    """
    text = text[:MAX_FOREIGN_LENGTH]
    data = strict_base64.decode_start(text)
    kind = _JAVA_KINDS.get(data[0]) if data else None
    if kind is None:
        raise MapError("not a map of the Java parallel-consumer")
    body = data[1:]
    if kind.compressed:
        body = _decompressed(body, zstd)
    elif kind.bitset:
        size = kind.width + _bitset_size(_bit_count(body, kind))
        if not _ends_at(text, data, 1 + size):
            raise MapError("it is cut off or damaged")
        body = body[:size]
    elif exact:
        body = strict_base64.decode(text)[1:]
    else:
        body = data[1 : _only_possible_end(text, data, kind)]
    if kind.bitset:
        return _read_bitset(body, kind, committed)
    return _read_runs(_numbers(body, kind), committed)


def is_pyrallel(text: str) -> bool:
    """Whether metadata starts as Pyrallel's does."""
    return text in ("O", "R") or (text[:1] in ("R", "B") and text[1:2].isdecimal())


def decode_pyrallel(text: str, committed: int) -> OffsetRanges:
    """Read a map of Pyrallel.

    Args:
        text: the metadata.
        committed: the offset that was committed with it.

    Returns:
        The completed offsets, above the committed one.

    Raises:
        MapError: the map isn't whole, contradicts itself, belongs to another offset, or was
            too long for its writer.
    """
    if len(text) > MAX_FOREIGN_LENGTH:
        raise MapError(f"it is over {MAX_FOREIGN_LENGTH} characters")
    if text == "O":
        raise MapError("it was too long for Pyrallel, which left it out")
    if text.startswith("R"):
        return _read_run_list(text[1:], committed)
    match = _BITSET_TEXT.fullmatch(text)
    if match is None:
        raise MapError("not a whole map of Pyrallel")
    base, digits = match.groups()
    if int(base) != committed:
        raise MapError(f"it was written for offset {base}, not for the committed {committed}")
    return _read_bits(int.from_bytes(bytes.fromhex(digits), "little"), committed)


def _decompressed(frame: bytes, zstd: Decompress | None) -> bytes:
    if zstd is None:
        raise MapError(f"it is compressed: install {ZSTD_EXTRA} to read it")
    try:
        return zstd(frame, MAX_DECOMPRESSED_SIZE)
    except Exception as error:
        raise MapError(f"it can't be decompressed: {error}") from error


def _bit_count(body: bytes, kind: _JavaKind) -> int:
    count = int.from_bytes(body[: kind.width], "big", signed=True)
    if len(body) < kind.width or count < 0:
        raise MapError("its length is cut off or negative")
    return count


def _bitset_size(bits: int) -> int:
    return (bits + 7) // 8 + 1


def _ends_at(text: str, data: bytes, size: int) -> bool:
    """Whether the text starts with exactly what a writer of the first ``size`` bytes writes."""
    return len(data) >= size and text.startswith(strict_base64.encode(data[:size]))


def _only_possible_end(text: str, data: bytes, kind: _JavaKind) -> int:
    """Return the size of the one whole run-length map that the text can start with."""
    body = data[1:]
    numbers = _numbers(body[: len(body) // kind.width * kind.width], kind)
    if numbers[:1] == (0,):
        return 1 + kind.width
    found = None
    for count in range(2, len(numbers) + 1, 2):
        size = 1 + count * kind.width
        if min(numbers[count - 2 : count]) < 1:
            break
        if _ends_at(text, data, size):
            if found is not None:
                raise MapError("run lengths don't say where they end, and more than one end is possible")
            found = size
    if found is None:
        raise MapError("it is cut off or damaged")
    return found


def _numbers(body: bytes, kind: _JavaKind) -> tuple[int, ...]:
    if len(body) % kind.width:
        raise MapError("its last run length is cut off")
    return struct.unpack(f">{len(body) // kind.width}{kind.number}", body)


def _read_bitset(body: bytes, kind: _JavaKind, committed: int) -> OffsetRanges:
    count = _bit_count(body, kind)
    bits = body[kind.width :]
    number = int.from_bytes(bits, "little")
    if len(bits) != _bitset_size(count) or number.bit_length() != count:
        raise MapError("its bits don't agree with its length")
    return _read_bits(number, committed)


def _read_bits(number: int, committed: int) -> OffsetRanges:
    if number & 1:
        raise _first_completed(committed)
    return from_bits(committed, f"{number:b}"[::-1] if number else "")


def _read_runs(runs: tuple[int, ...], committed: int) -> OffsetRanges:
    if not runs:
        raise MapError("it has no run lengths")
    if runs == (0,):
        return ()
    if runs[0] == 0:
        raise _first_completed(committed)
    return from_runs(committed, runs)


def _read_run_list(text: str, committed: int) -> OffsetRanges:
    ranges = []
    for item in text.split(",") if text else ():
        match = _RUN_ITEM.fullmatch(item)
        if match is None:
            raise MapError("not a whole map of Pyrallel")
        first, last = match.groups()
        ranges.append((int(first), int(last or first) + 1))
    if ranges and ranges[0][0] == committed:
        raise _first_completed(committed)
    # As run lengths they are checked like any other map: ascending, not touching, in range.
    edges = (committed, *chain.from_iterable(ranges))
    return from_runs(committed, [after - before for before, after in pairwise(edges)])


def _first_completed(committed: int) -> MapError:
    return MapError(f"it says that the record at the committed offset {committed} is completed")
