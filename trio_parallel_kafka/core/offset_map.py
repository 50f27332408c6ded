"""This library's own map of completed offsets, as text for a commit's metadata.

A commit's offset says that everything below it is completed; the map says what completed
at or above it, so that a restart doesn't handle those records again.

The format, version 1, is ASCII: ``tpk1.`` and then base64 of

====================  ================================================================
4 bytes, big endian   CRC-32 of all that follows
1 byte of flags       1: the body is a bitset, else run lengths; 2: a topic id follows
16 bytes, optional    the id of the topic: one made anew under the same name has another
varint                the base: the offset with which the map was committed
body                  what completed, from the base on
====================  ================================================================

A varint has seven bits a byte, the lowest first, the high bit set on all but the last. Run
lengths are varints: offsets incomplete, offsets completed, and so on; only the first may
be 0. A bitset has one bit an offset, the first in the highest bit of the first byte.

Two rules keep a reader safe. The base must be the committed offset, so a map that travelled
to another offset skips nothing. Nothing is compressed, so a reader's work is bounded by the
text's length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final
from zlib import crc32

import attrs

from trio_parallel_kafka.core import strict_base64
from trio_parallel_kafka.core.ranges import MAX_POSITION, MapError, OffsetRanges, from_bits, from_runs

MAX_METADATA_LENGTH: Final = 4095
"""Characters that a commit may carry: brokers take 4,096 bytes, and the client adds a NUL."""

PREFIX: Final = "tpk1."

TOPIC_ID_SIZE: Final = 16

_CRC_SIZE: Final = 4
_BITSET: Final = 1
_WITH_TOPIC_ID: Final = 2
_VARINT_MAX_SIZE: Final = 9


@attrs.frozen
class EncodedMap:
    """A map that fits its limit.

    Attributes:
        text: the metadata to commit.
        covered_to: the end (exclusive) of the completed offsets that the text holds. Where
            it isn't the end of the last completed range, the map was cut, and what completed
            from here on would be replayed.
    """

    text: str
    covered_to: int


@attrs.frozen
class DecodedMap:
    """What a map says.

    Attributes:
        completed: the completed offsets, at or above the committed one.
        topic_id: the id of the topic that it was written for, 16 bytes, or ``None``.
    """

    completed: OffsetRanges
    topic_id: bytes | None


def encode(
    position: int,
    completed: OffsetRanges,
    *,
    topic_id: bytes | None = None,
    limit: int = MAX_METADATA_LENGTH,
) -> EncodedMap:
    """Write the map for a commit; over the limit, of the longest prefix of offsets that fits.

    Args:
        position: the offset to be committed.
        completed: what completed at or above it.
        topic_id: the id of the topic, 16 bytes, if it is known.
        limit: the longest text, in characters, at most :data:`MAX_METADATA_LENGTH`.

    Returns:
        The text, empty where there is nothing to say or no room to say it in.

    Raises:
        ValueError: an argument is out of its range, or the ranges aren't as
            :data:`~trio_parallel_kafka.core.ranges.OffsetRanges` says.
    """
    _check(position, completed, topic_id, limit)
    flags = 0 if topic_id is None else _WITH_TOPIC_ID
    head = bytearray(topic_id or b"")
    _append_varint(head, position)
    room = (limit - len(PREFIX)) // 4 * 3 - _CRC_SIZE - 1 - len(head)
    if room < 0:
        return EncodedMap("", position)
    body, covered_to = _encode_runs(position, completed, room)
    bitset_end = _covered_below(position, completed, position + 8 * room)
    bitset_size = (bitset_end - position + 7) // 8
    if (bitset_end, -bitset_size) > (covered_to, -len(body)):
        flags |= _BITSET
        body, covered_to = _encode_bitset(position, completed, bitset_end), bitset_end
    if not body and topic_id is None:
        return EncodedMap("", position)
    payload = bytes((flags,)) + head + body
    checksum = crc32(payload).to_bytes(_CRC_SIZE, "big")
    return EncodedMap(PREFIX + strict_base64.encode(checksum + payload), covered_to)


def decode(text: str, committed: int) -> DecodedMap:
    """Read a map that :func:`encode` wrote.

    Args:
        text: the metadata.
        committed: the offset that was committed with it.

    Returns:
        What the map says.

    Raises:
        MapError: the text is damaged, foreign, too long, or belongs to another offset.
    """
    payload = _checked_payload(text)
    flags, rest = payload[0], payload[1:]
    if flags & ~(_BITSET | _WITH_TOPIC_ID):
        raise MapError(f"unknown flags {flags:#x}")
    topic_id = None
    if flags & _WITH_TOPIC_ID:
        topic_id, rest = rest[:TOPIC_ID_SIZE], rest[TOPIC_ID_SIZE:]
    numbers = _varints(rest)
    base, size = next(numbers, (None, 0))
    if base != committed:
        raise MapError(f"it was written for offset {base}, not for the committed {committed}")
    if flags & _BITSET:
        body = rest[size:]
        bits = f"{int.from_bytes(body, 'big'):0{8 * len(body)}b}"
        # The spare bits of the last byte are no offsets: next to the last one they would be out of range.
        return DecodedMap(from_bits(committed, bits.rstrip("0")), topic_id)
    return DecodedMap(from_runs(committed, (run for run, _ in numbers)), topic_id)


def _check(position: int, completed: OffsetRanges, topic_id: bytes | None, limit: int) -> None:
    if not 0 <= limit <= MAX_METADATA_LENGTH:
        raise ValueError(f"limit must be from 0 to {MAX_METADATA_LENGTH} characters, not {limit}")
    if topic_id is not None and len(topic_id) != TOPIC_ID_SIZE:
        raise ValueError(f"a topic id has {TOPIC_ID_SIZE} bytes, not {len(topic_id)}")
    lowest = position
    for start, end in completed:
        if not lowest <= start < end:
            raise ValueError(f"range {start}-{end} is empty, out of order, or touches what is below {lowest}")
        lowest = end + 1
    if position < 0 or max(position, lowest - 1) > MAX_POSITION:
        raise ValueError(f"position {position} or a completed offset is out of Kafka's range")


def _encode_runs(position: int, completed: OffsetRanges, room: int) -> tuple[bytearray, int]:
    """Write run lengths into at most ``room`` bytes; also return the end of what they cover."""
    body = bytearray()
    covered_to = position
    for start, end in completed:
        before = len(body)
        gap = start - covered_to
        length = end - start
        # Most runs are short: this spares them two calls each.
        if gap < 0x80 and length < 0x80:  # noqa: PLR2004 - one byte of a varint
            body.append(gap)
            body.append(length)
        else:
            _append_varint(body, gap)
            _append_varint(body, length)
        if len(body) > room:
            del body[before:]
            return body, _append_start_of_run(body, gap, covered_to, room)
        covered_to = end
    return body, covered_to


def _append_start_of_run(body: bytearray, gap: int, covered_to: int, room: int) -> int:
    """Fill the room that is left with as much of a run as a length can still say."""
    before = len(body)
    _append_varint(body, gap)
    left = room - len(body)
    if left < 1:
        del body[before:]
        return covered_to
    length = (1 << 7 * left) - 1
    _append_varint(body, length)
    return covered_to + gap + length


def _covered_below(position: int, completed: OffsetRanges, end: int) -> int:
    """Return the end of the completed offsets below ``end``."""
    below = bisect_left(completed, (end,))
    return min(completed[below - 1][1], end) if below else position


def _encode_bitset(position: int, completed: OffsetRanges, end: int) -> bytearray:
    bits = []
    cursor = position
    for start, stop in completed:
        if start >= end:
            break
        bits.append("0" * (start - cursor) + "1" * (min(stop, end) - start))
        cursor = stop
    size = (end - position + 7) // 8
    return bytearray(int("".join(bits).ljust(8 * size, "0"), 2).to_bytes(size, "big"))


def _checked_payload(text: str) -> bytes:
    if len(text) > MAX_METADATA_LENGTH or not text.startswith(PREFIX):
        raise MapError(f"it doesn't start with {PREFIX!r}, or is over {MAX_METADATA_LENGTH} characters")
    data = strict_base64.decode(text[len(PREFIX) :])
    checksum, payload = data[:_CRC_SIZE], data[_CRC_SIZE:]
    if not payload or crc32(payload) != int.from_bytes(checksum, "big"):
        raise MapError("its checksum doesn't match")
    return payload


def _append_varint(buffer: bytearray, number: int) -> None:
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        buffer.append(number & 0x7F | 0x80)
        number >>= 7
    buffer.append(number)


def _varints(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each number with the index of the byte after it."""
    number = shift = 0
    for index, byte in enumerate(data, 1):
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > 7 * _VARINT_MAX_SIZE:
            raise MapError("a number is too large")
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            yield number, index
            number = shift = 0
    if shift:
        raise MapError("its last number is cut off")
