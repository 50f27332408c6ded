"""Maps of other consumers: read where they are certain, refused where they aren't."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zstandard
from core.java_maps import java_body, java_text, ranges_of
from hypothesis import assume, example, given, strategies as st

from trio_parallel_kafka.control.zstd import zstd_decompressor
from trio_parallel_kafka.core import strict_base64
from trio_parallel_kafka.core.foreign_maps import (
    MAX_DECOMPRESSED_SIZE,
    MAX_FOREIGN_LENGTH,
    decode_java,
    decode_pyrallel,
    is_java,
    is_pyrallel,
)
from trio_parallel_kafka.core.ranges import MAX_POSITION, MapError, OffsetRanges

ZSTD = zstd_decompressor()

REAL_MAPS = json.loads(
    (Path(__file__).parent.parent / "data" / "java_parallel_consumer_maps.json").read_text(encoding="utf-8"),
)
REAL_IDS = [f"{index}-{real['kind']}" for index, real in enumerate(REAL_MAPS)]

base64_digits = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=", max_size=40)
older_ends = st.sampled_from([real["metadata"] for real in REAL_MAPS]).flatmap(
    lambda text: st.integers(0, len(text)).map(lambda start: text[start:]),
)
foreign_ends = st.text(max_size=20) | base64_digits | older_ends
positions = st.one_of(st.integers(0, 300), st.integers(0, 2**48))
java_runs = st.lists(st.integers(1, 40), max_size=60).map(lambda runs: runs[: len(runs) // 2 * 2] or [0])


def completed_in(real: dict[str, Any]) -> OffsetRanges:
    """Make a real map's inclusive ranges half open."""
    return tuple((first, last + 1) for first, last in real["completed_above"])


@pytest.mark.parametrize("real", REAL_MAPS, ids=REAL_IDS)
def test_real_java_map_is_read(real: dict[str, Any]) -> None:
    """Each map from a real run says exactly what had completed, where its end is known."""
    assert is_java(real["metadata"])
    assert decode_java(real["metadata"], real["committed"], zstd=ZSTD, exact=True) == completed_in(real)


@pytest.mark.parametrize("real", REAL_MAPS, ids=REAL_IDS)
@given(foreign_ends)
@example("")
@example("AAEAAQ==")
def test_real_java_map_with_a_foreign_end(real: dict[str, Any], end: str) -> None:
    """What follows the text changes nothing; run lengths, which don't say where they end, are refused."""
    text = real["metadata"] + end
    if real["kind"] == "n":
        with pytest.raises(MapError, match="more than one end is possible"):
            decode_java(text, real["committed"])
    else:
        assert decode_java(text, real["committed"], zstd=ZSTD) == completed_in(real)


@given(st.sampled_from("lonaseJp"), positions, java_runs, foreign_ends)
# The end of an older map, left in the same memory, looks like two runs more.
@example("n", 0, [1, 2, 3, 4], "AAEAAQ==")
@example("n", 0, [0], "AAE=")
@example("e", 0, [1, 2], "AAAAAQAAAAE=")
@example("l", 0, [1, 4], "AAAA")
def test_foreign_end_never_completes_a_record(letter: str, committed: int, runs: list[int], end: str) -> None:
    """Whatever follows a Java map, it's read as exactly what was written, or refused."""
    expected = ranges_of(committed, runs)
    try:
        completed = decode_java(java_text(letter, runs) + end, committed, zstd=ZSTD)
    except MapError:
        assert letter in "ne"
        assert len(runs) > 2 or letter == "e"
    else:
        assert completed == expected


@given(st.sampled_from("lonaseJp"), positions, java_runs)
def test_java_round_trip(letter: str, committed: int, runs: list[int]) -> None:
    """Every kind of Java map is read where its end is known."""
    text = java_text(letter, runs)
    assert decode_java(text, committed, zstd=ZSTD, exact=True) == ranges_of(committed, runs)


@given(st.sampled_from("lonaseJp"), positions, java_runs, st.booleans(), st.data())
def test_truncated_java_map_never_completes_a_record(
    letter: str,
    committed: int,
    runs: list[int],
    exact: bool,
    data: st.DataObject,
) -> None:
    """A Java map that lost its end is refused, or is read as some of what was written."""
    text = java_text(letter, runs)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    try:
        completed = decode_java(cut, committed, zstd=ZSTD, exact=exact)
    except MapError:
        return
    assert set(completed) <= set(ranges_of(committed, runs))


@pytest.mark.parametrize(
    ("text", "committed", "expected"),
    [
        ("bAAFEgA=", 0, ((1, 2), (4, 5))),
        ("bAAECgA=", 1000, ((1001, 1002), (1003, 1004))),
        ("ZQAAAAEAAMNK", 5, ((6, 50_000),)),
        ("bgAA", 100, ()),
        ("Sii1L/0AWFUAABAAAQEACyfeYQE=", 0, tuple((odd, odd + 1) for odd in range(1, 5000, 2))),
    ],
)
def test_known_java_maps(text: str, committed: int, expected: OffsetRanges) -> None:
    """Short maps of each shape are certain even where other characters may follow."""
    assert decode_java(text, committed, zstd=ZSTD) == expected


@pytest.mark.parametrize("end", ["", "=", "\x7f", "AAEAAQ=="])
def test_one_hung_record_is_certain(end: str) -> None:
    """One incomplete run and one completed run with padding have one possible end."""
    assert decode_java(java_text("n", [1, 5000]) + end, 10) == ((11, 5011),)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"l\x00\x05\x13\x00", "record at the committed offset 7 is completed"),
        (b"l\x00\x05\x02\x00", "bits don't agree"),
        (b"l\x00\x05\x22\x00", "bits don't agree"),
        (b"l\xff\xff\x02\x00", "cut off or negative"),
        (b"o\x00\x00", "cut off or negative"),
        (b"o\x7f\xff\xff\xff\x02\x00", "cut off or damaged"),
        (b"n\x00\x00\x00\x05", "record at the committed offset 7 is completed"),
        (b"n\x00\x01\x00\x00", "a run of 0 offsets"),
        (b"n\x00\x01\xff\xff", "a run of -1 offsets"),
        (b"n\x00\x01", "last run isn't a completed one"),
        (b"n\x00\x01\x00", "last run length is cut off"),
        (b"n", "no run lengths"),
        (b"x\x00\x05", "not a map of the Java"),
        (b"", "not a map of the Java"),
    ],
)
def test_contradictory_java_map_is_refused(data: bytes, reason: str) -> None:
    """A map that no Java writer writes is refused, with the reason."""
    with pytest.raises(MapError, match=reason):
        decode_java(strict_base64.encode(data), 7, exact=True)


@pytest.mark.parametrize("text", ["bg", "bgAB", "bgABAAA=", "bgABAAF=", "bgABAAFA"])
def test_java_runs_without_a_possible_end_are_refused(text: str) -> None:
    """Run lengths that can't be a whole map anywhere are refused."""
    with pytest.raises(MapError, match="cut off or damaged"):
        decode_java(text, 7)


def test_exact_java_runs_bear_nothing_after_them() -> None:
    """Where the end is said to be known, the whole text must be the map."""
    with pytest.raises(MapError, match="not whole"):
        decode_java("ZQAAAAEAAMNK\x7f", 5, exact=True)


def test_java_offsets_stay_in_range() -> None:
    """A map can't reach beyond Kafka's offsets, nor start below them."""
    for committed in (MAX_POSITION - 3, -1001):
        with pytest.raises(MapError, match="out of Kafka's range"):
            decode_java("bAAFEgA=", committed)


def test_java_text_of_any_length_is_bounded() -> None:
    """No more is looked at than a broker could hold, however far the client read on."""
    with pytest.raises(MapError, match="cut off or damaged"):
        decode_java(java_text("o", [1, 8 * MAX_FOREIGN_LENGTH]), 0)


def test_compressed_map_needs_the_extra() -> None:
    """Without zstd the reason names what to install."""
    with pytest.raises(MapError, match=r"install trio-parallel-kafka\[zstd\]"):
        decode_java(java_text("J", [1, 2]), 0)


@pytest.mark.parametrize(
    "frame",
    [b"no frame", java_body("n", [1, 2]), zstandard.compress(b"whole")[:-1], b""],
    ids=["text", "plain", "cut", "empty"],
)
def test_damaged_frame_is_refused(frame: bytes) -> None:
    """Whatever goes wrong in decompression is a reason to refuse the map."""
    with pytest.raises(MapError, match="can't be decompressed"):
        decode_java(strict_base64.encode(b"J" + frame), 0, zstd=ZSTD)


def test_compressed_map_that_contradicts_itself_is_refused() -> None:
    """A frame that decompresses is checked like any other map."""
    compress = zstandard.ZstdCompressor().compress
    for body in (b"\x00", b"", b"\x00\x05\x12", b"\x00\x05\x12\x00\x00"):
        with pytest.raises(MapError):
            decode_java(strict_base64.encode(b"a" + compress(body)), 0, zstd=ZSTD)


def test_decompression_is_bounded() -> None:
    """A frame of a few characters can't take much memory, whatever it claims to hold."""
    text = strict_base64.encode(b"p" + zstandard.compress(bytes(200_000_000)))[:MAX_FOREIGN_LENGTH]
    # A window of 128 MiB is asked for by the frame's header alone.
    wide = strict_base64.encode(b"p\x28\xb5\x2f\xfd\x00\x88" + b"\x02\x00\x08" * 9)
    tracemalloc.start()
    try:
        for bomb in (text, wide):
            with pytest.raises(MapError, match="can't be decompressed"):
                decode_java(bomb, 0, zstd=ZSTD)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * MAX_DECOMPRESSED_SIZE


@pytest.mark.parametrize(
    "decode",
    [partial(decode_java, zstd=ZSTD), partial(decode_java, zstd=ZSTD, exact=True), decode_pyrallel],
    ids=["java", "exact java", "pyrallel"],
)
@given(text=st.text() | base64_digits, committed=positions)
@example(text="b", committed=0)
@example(text="\udc80", committed=0)
def test_any_text_is_a_map_or_a_map_error(
    decode: Callable[[str, int], OffsetRanges],
    text: str,
    committed: int,
) -> None:
    """Neither decoder raises anything else, and what they read lies above the committed offset."""
    try:
        completed = decode(text, committed)
    except MapError:
        return
    edges = [committed, *(edge for pair in completed for edge in pair)]
    assert edges == sorted(set(edges))


@given(positions, java_runs)
def test_pyrallel_round_trip(committed: int, runs: list[int]) -> None:
    """Both of Pyrallel's forms are read."""
    expected = ranges_of(committed, runs)
    items = [f"{start}-{end - 1}" if end - start > 1 else f"{start}" for start, end in expected]
    run_list = "R" + ",".join(items)
    assert is_pyrallel(run_list)
    assert decode_pyrallel(run_list, committed) == expected
    number = sum(1 << offset - committed for start, end in expected for offset in range(start, end))
    bitset = f"B{committed}:{number.to_bytes((number.bit_length() + 7) // 8, 'little').hex()}"
    assert is_pyrallel(bitset)
    assert decode_pyrallel(bitset, committed) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("O", "too long for Pyrallel"),
        ("R1,", "not a whole map"),
        ("R8-", "not a whole map"),
        ("R8-9-10", "not a whole map"),
        ("R08", "not a whole map"),
        ("R8\u0663", "not a whole map"),
        ("R8,9 ", "not a whole map"),
        ("R" + "9" * 20, "not a whole map"),
        ("R" + "9" * 19, "out of Kafka's range"),
        ("R7-9", "record at the committed offset 7 is completed"),
        ("R5,9", "a run of -2 offsets"),
        ("R9-8", "a run of 0 offsets"),
        ("R8,9", "a run of 0 offsets"),
        ("R12,9", "a run of -4 offsets"),
        ("R8-12,10-14", "a run of -3 offsets"),
        ("B8:02", "written for offset 8, not for the committed 7"),
        ("B7:03", "record at the committed offset 7 is completed"),
        ("B7:2", "not a whole map"),
        ("B7:0G", "not a whole map"),
        ("B7", "not a whole map"),
        ("", "not a whole map"),
        ("R" + "8," * 20_000, "over 32767 characters"),
    ],
)
def test_contradictory_pyrallel_map_is_refused(text: str, reason: str) -> None:
    """What Pyrallel doesn't write for this offset is refused, with the reason."""
    with pytest.raises(MapError, match=reason):
        decode_pyrallel(text, 7)


def test_huge_pyrallel_runs_cost_nothing() -> None:
    """A run is kept as a range, however many offsets it spans."""
    assert decode_pyrallel(f"R8-{MAX_POSITION - 1}", 7) == ((8, MAX_POSITION),)


@given(st.text())
def test_recognition_never_raises(text: str) -> None:
    """Nothing is taken for both writers' text."""
    assume(text)
    assert not (is_java(text) and is_pyrallel(text))
