"""Commit metadata as a broker may hold it: any text at all, and damaged or forged maps of each known writer."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import zstandard
from fuzz.data import Data
from fuzz.target import Target

from trio_parallel_kafka.control.zstd import zstd_decompressor
from trio_parallel_kafka.core import strict_base64
from trio_parallel_kafka.core.foreign_maps import MAX_DECOMPRESSED_SIZE
from trio_parallel_kafka.core.metadata import ReadMap, read_metadata
from trio_parallel_kafka.core.offset_map import PREFIX, decode, encode
from trio_parallel_kafka.core.ranges import MAX_POSITION

ZSTD: Final = zstd_decompressor()
REAL_MAPS: Final = json.loads(
    (Path(__file__).parents[1] / "data" / "java_parallel_consumer_maps.json").read_text(encoding="utf-8")
)

_EXACT: Final = 0x80
_COMPRESSED: Final = 0x40
_MAX_TEXT: Final = 4096


def _any_text(data: Data, _committed: int, _how: int) -> str:
    return data.rest().decode(errors="surrogateescape")


def _forged(data: Data, _committed: int, _how: int) -> str:
    """Any payload, with the checksum that makes it credible."""
    return _own(data.rest())


def _forged_for_this_commit(data: Data, committed: int, _how: int) -> str:
    flags = data.byte()
    topic_id = data.take(16) if flags & 2 else b""
    return _own(bytes((flags,)) + topic_id + _varint(committed) + data.rest())


def _own(payload: bytes) -> str:
    return PREFIX + strict_base64.encode(zlib.crc32(payload).to_bytes(4, "big") + payload)


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _java(data: Data, _committed: int, how: int) -> str:
    """Any body behind a letter of the Java client's, and what stands in the memory behind it."""
    letter = data.pick(b"lonaseJp")
    end = data.block()
    body = data.rest()
    if how & _COMPRESSED:
        body = zstandard.compress(body)
    return strict_base64.encode(bytes((letter,)) + body) + end.decode(errors="surrogateescape")


def _pyrallel(data: Data, committed: int, how: int) -> str:
    if how & _COMPRESSED:
        return f"B{committed}:{data.rest().hex()}"
    return data.pick("RBO") + data.rest().decode("latin-1")


_WRITERS: Final = (_any_text, _forged, _forged_for_this_commit, _java, _pyrallel)


def check(given: bytes, _folder: Path) -> None:
    """Any text is answered; what it is taken for is within bounds, and could have been written."""
    data = Data(given)
    how = data.byte()
    committed = int.from_bytes(data.take(8), "big") & MAX_POSITION
    text = _WRITERS[(how & 0x0F) % len(_WRITERS)](data, committed, how)
    found = read_metadata(text, committed, zstd=ZSTD, exact=bool(how & _EXACT))
    assert found.warning is None or not found.completed
    assert found.warning is None or len(found.warning) < 500
    assert found.topic_id is None or (found.source == "own" and len(found.topic_id) == 16)
    _check_ranges(found, committed, len(text))
    if found.source == "own" and found.warning is None:
        _check_own(text, found, committed)


def _check_ranges(found: ReadMap, committed: int, length: int) -> None:
    """They rise, don't touch, are offsets of Kafka's, and no more than there are bits."""
    most_bits = 6 * length if found.source == "own" else max(6 * length, 8 * MAX_DECOMPRESSED_SIZE)
    assert 2 * len(found.completed) <= most_bits + 1
    if not found.completed:
        return
    first, last = found.completed[0][0], found.completed[-1][1]
    assert committed <= first if found.source == "own" else committed < first
    assert last <= MAX_POSITION
    assert all(start < end for start, end in found.completed)
    assert all(end < start for (_, end), (start, _) in pairwise(found.completed))


def _check_own(text: str, found: ReadMap, committed: int) -> None:
    """It says what a map says that is written for the same offsets, which is no longer than it is."""
    written = encode(committed, found.completed, topic_id=found.topic_id)
    assert len(written.text) <= len(text)
    if found.completed:
        assert written.covered_to == found.completed[-1][1]
        assert decode(written.text, committed).completed == found.completed


def _input(how: int, committed: int, rest: bytes) -> bytes:
    return bytes((how,)) + committed.to_bytes(8, "big") + rest


def _real_maps() -> Iterator[bytes]:
    """Whole, cut, and with the end of another."""
    for index, real in enumerate(REAL_MAPS):
        text = real["metadata"].encode()
        for each in (text, text[:-3], text + b"\0" + text[7:], text + text[-20:]):
            yield _input(0 if index % 2 else _EXACT, real["committed"], each[:_MAX_TEXT])


def _at_the_limits() -> Iterator[bytes]:
    """Own maps and Pyrallel's, with numbers at their limits."""
    runs = (b"\0\1", b"\1\1", b"\1\0\1\1", b"\xff" * 8 + b"\x7f\1", b"\xff" * 9, b"\x80" * 40, b"\1\x80\0")
    for committed in (0, 1, 2**31, MAX_POSITION - 1, MAX_POSITION):
        room = MAX_POSITION - committed
        ranges = tuple((start, start + 1) for start in range(committed + 1, committed + min(room, 60), 2))
        for topic_id in (None, bytes(range(16))):
            yield _input(0, committed, encode(committed, ranges, topic_id=topic_id).text.encode())
        yield from (_input(2, committed, flags + body) for flags in (b"\0", b"\1") for body in (b"", *runs))
        yield _input(2, committed, b"\3" + bytes(16) + b"\xff" * 2500)
        yield _input(4, committed, f"R{committed + 1}-{committed + 5},{committed + 9}".encode())
        yield _input(4 | _COMPRESSED, committed, b"\2\xff\x55")


def _java_bodies() -> Iterator[bytes]:
    """Behind each letter, short ones that are right behind some."""
    runs = (b"\0\0", b"\0\1\0\1", b"\0\0\0\1\0\0\0\1", b"\x7f\xff\x7f\xff")
    bits = (b"\0\x09\xfe\1\0", b"\0\0\0\x09\xfe\1\0")
    for letter in range(8):
        for body in runs + bits:
            yield _input(3, 7, bytes((letter, 0)) + body)
            yield _input(3 | _EXACT, 7, bytes((letter, 4)) + b"AAE=" + body)
            yield _input(3 | _COMPRESSED, 7, bytes((letter, 0)) + body)


def _frames() -> Iterator[bytes]:
    """Compressed bodies from which much comes out, too much, or nothing."""
    bomb, widest_window = zstandard.compress(bytes(60_000_000)), b"\x28\xb5\x2f\xfd\0\xf8\1\0\0"
    for frame in (bomb, widest_window, zstandard.compress(b"x")[:-2]):
        yield _input(0, 0, strict_base64.encode(b"p" + frame).encode())
    bits = (8 * 20_000).to_bytes(4, "big") + b"\xaa" * 20_000 + b"\0"
    for letter, body in ((b"s", bits), (b"p", b"\0\0\0\1" * 6_000), (b"J", b"\0\1" * 6_000)):
        yield _input(0, 0, strict_base64.encode(letter + zstandard.compress(body)).encode())


_TEXTS: Final = (
    "", "O", "R", "R1-", "B0:", "B0:0", "tpk1.", "tpk2.AAAA", "tpk1.====", "\ud800", "a\0b", "bAAA" * 1000,
    "R" + "9" * 4000, "R1," * 1000, "B" + "9" * 4000 + ":ff", "R\u0663", "R1-\u0661", "B\u0661:00",
)  # fmt: skip


def seeds() -> Iterator[bytes]:
    """Maps of all writers, whole, damaged and at their limits; texts of nobody."""
    yield from _real_maps()
    yield from _at_the_limits()
    yield from _java_bodies()
    yield from _frames()
    yield from (_input(0, 0, text.encode(errors="surrogatepass")) for text in _TEXTS)


TARGET: Final = Target(
    name="stored-maps",
    check=check,
    seeds=seeds,
    share=470,
    max_size=512,
    max_memory=80 * 1024 * 1024,  # a million offsets, every other one completed
)
