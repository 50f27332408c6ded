"""Maps of completed offsets from their writer to their reader: what is read was written, whatever happens between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from core.java_maps import java_text, ranges_of
from fuzz.data import Data
from fuzz.target import Target

from trio_parallel_kafka.control.zstd import zstd_decompressor
from trio_parallel_kafka.core.metadata import read_metadata
from trio_parallel_kafka.core.offset_map import MAX_METADATA_LENGTH, decode, encode
from trio_parallel_kafka.core.ranges import MAX_POSITION, MapError, OffsetRanges

ZSTD: Final = zstd_decompressor()
_MOST_BITS: Final = 20_000
"""Offsets of a bitset, which the plain writers of other formats write one by one."""


def check(given: bytes, _folder: Path) -> None:
    """Own maps are read as they were written, cut or not; damaged ones aren't read; nor are others' misread."""
    data = Data(given)
    position = data.magnitude() if data.byte() % 2 else data.signed(4)
    topic_id = data.take(16) if data.byte() % 2 else None
    limit = _limit(data)
    where, damage = data.magnitude(), data.text()
    runs = _runs(data)
    completed = ranges_of(position, runs)
    try:
        written = encode(position, completed, topic_id=topic_id, limit=limit)
    except ValueError:
        assert not _is_writable(position, runs, topic_id, limit)
        return
    assert _is_writable(position, runs, topic_id, limit)
    assert len(written.text) <= limit
    if not written.text:
        assert written.covered_to == position
    else:
        found = decode(written.text, position)
        assert found.topic_id == topic_id
        assert found.completed == _below(written.covered_to, completed)
        _check_refusals(written.text, position, where, damage)
    if completed and runs[0] > 0:
        _check_java(position, runs, damage, where)
        _check_pyrallel(position, runs)


def _limit(data: Data) -> int:
    """Characters that a map may have; most often so few that it is cut."""
    match data.byte() % 4:
        case 0:
            return MAX_METADATA_LENGTH
        case 1:
            return data.byte()
        case 2:
            return 16 * data.byte()
        case _:
            return data.signed(2)


def _runs(data: Data) -> list[int]:
    """Offsets incomplete, completed, and so on; a few of them impossible."""
    kind = data.byte()
    runs = []
    while data:
        match kind % 4:
            case 0:  # one to 8 of each: a bitset is shorter
                pair = data.byte()
                runs += [1 + (pair & 7), 1 + (pair >> 4 & 7)]
            case 1:
                runs += [1 + data.byte(), 1 + data.byte()]
            case 2:
                runs += [1 + data.magnitude(), 1 + data.magnitude()]
            case _:
                runs += [data.signed(2), data.signed(2)]
    if runs and kind & 0x80:
        runs[0] = 0
    return runs


def _is_writable(position: int, runs: Sequence[int], topic_id: bytes | None, limit: int) -> bool:
    return (
        0 <= position <= position + sum(runs) <= MAX_POSITION
        and all(run > 0 for run in runs[1:])
        and (not runs or runs[0] >= 0)
        and (topic_id is None or len(topic_id) == 16)
        and 0 <= limit <= MAX_METADATA_LENGTH
    )


def _below(end: int, ranges: OffsetRanges) -> OffsetRanges:
    return tuple((start, min(stop, end)) for start, stop in ranges if start < end)


def _check_refusals(text: str, position: int, where: int, damage: str) -> None:
    """Nothing is read at another offset, with another character, or without the end."""
    for other in {0, position - 1, position + 1, where} - {position}:
        assert not read_metadata(text, other).completed
    at = where % len(text)
    replaced = text[:at] + (damage[:1] or "A") + text[at + 1 :]
    for damaged in {replaced, text[:at], text + (damage or "=")} - {text}:
        try:
            decode(damaged, position)
        except MapError:
            continue
        raise AssertionError(text, damaged)


def _check_java(position: int, runs: Sequence[int], end: str, where: int) -> None:
    for letter in _java_kinds(runs, where):
        text = java_text(letter, runs)
        assert read_metadata(text, position, zstd=ZSTD, exact=True).completed == ranges_of(position, runs)
        found = read_metadata(text + end, position, zstd=ZSTD)
        if found.completed:
            assert found.completed == ranges_of(position, runs)
        else:
            assert letter in "ne"  # which don't say where they end


def _java_kinds(runs: Sequence[int], where: int) -> Iterator[str]:
    """The kinds of maps in which these runs can be said, one of a pair that differ in their compression alone."""
    if sum(runs) < _MOST_BITS:
        yield "la"[where % 2]
        yield "os"[where % 2]
    if len(runs) < 1000:
        if max(runs) < 2**15:
            yield "nJ"[where % 2]
        if max(runs) < 2**31:
            yield "ep"[where % 2]


def _check_pyrallel(position: int, runs: Sequence[int]) -> None:
    ranges = ranges_of(position, runs)
    text = "R" + ",".join(f"{start}-{end - 1}" if end - start > 1 else str(start) for start, end in ranges)
    if len(text) < 32_000:
        assert read_metadata(text, position).completed == ranges
    if sum(runs) < _MOST_BITS:
        bits = sum(((1 << end - start) - 1) << start - position for start, end in ranges)
        digits = bits.to_bytes((bits.bit_length() + 7) // 8, "little").hex()
        assert read_metadata(f"B{position}:{digits}", position).completed == ranges


_POSITIONS: Final = (
    b"\0\0\0\0\0", b"\0\xff\xff\xff\xff", b"\1\1\7", b"\1\6" + bytes(range(6)), b"\1\x08\x7f" + b"\xff" * 7,
)  # fmt: skip
_LIMITS: Final = (b"\1\x40", b"\1\x10", b"\2\x10", b"\3\x0f\xff", b"\3\xff\xff")
_FEW_RUNS: Final = ((0, b"\x21\x77\0"), (1, b"\x05\x80\xff\0"), (2, b"\1\5\2\1\1"), (3, b"\0\1\0\2\xff\xff"))


def seeds() -> Iterator[bytes]:
    """A few runs and many, short and long, in all positions; with room for all, for some, and impossible ones."""
    many = bytes(range(0, 256, 2))
    for head in (position + topic_id for position in _POSITIONS for topic_id in (b"\0", b"\1" + bytes(16))):
        yield from (head + b"\0\1\x0d\2Z=" + bytes((kind,)) + numbers * 3 for kind, numbers in _FEW_RUNS)
        for limit in _LIMITS:
            yield from (head + limit + b"\2\1\0\4\xc3\xa9AA" + bytes((kind,)) + many for kind in (0, 0x82))


TARGET: Final = Target(
    name="written-maps", check=check, seeds=seeds, share=12, max_size=320, max_memory=2 * 1024 * 1024
)
