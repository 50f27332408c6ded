"""The library's own map: what is written is read back, whatever else is refused."""

from __future__ import annotations

import string
import time
import tracemalloc
from random import Random
from zlib import crc32

import pytest
from hypothesis import example, given, settings, strategies as st

from trio_parallel_kafka.core import strict_base64
from trio_parallel_kafka.core.offset_map import (
    MAX_METADATA_LENGTH,
    PREFIX,
    DecodedMap,
    EncodedMap,
    decode,
    encode,
)
from trio_parallel_kafka.core.ranges import MAX_POSITION, MapError, OffsetRanges, from_bits, from_runs

TOPIC_ID = bytes(range(16))

positions = st.one_of(st.integers(0, 300), st.integers(0, MAX_POSITION))
run_lengths = st.one_of(st.integers(1, 3), st.integers(1, 300), st.integers(1, 2**40))
topic_ids = st.none() | st.binary(min_size=16, max_size=16)


def lay_out(position: int, first_gap: int, runs: list[tuple[int, int]]) -> OffsetRanges:
    """Turn (completed, incomplete after it) pairs into ranges, as many as Kafka has offsets for."""
    ranges = []
    start = position + first_gap
    for length, gap in runs:
        if start + length > MAX_POSITION:
            break
        ranges.append((start, start + length))
        start += length + gap
    return tuple(ranges)


@st.composite
def commits(draw: st.DrawFn) -> tuple[int, OffsetRanges]:
    """Any position with any completed ranges at or above it."""
    position = draw(positions)
    runs = draw(st.lists(st.tuples(run_lengths, run_lengths), max_size=60))
    return position, lay_out(position, draw(st.integers(0, 2) | run_lengths), runs)


@st.composite
def crowded_commits(draw: st.DrawFn) -> tuple[int, OffsetRanges]:
    """Positions with so many ranges that a map of thousands of characters is too short for them."""
    random = Random(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([2, 4, 30, 500, 10**6]))
    runs = [(random.randint(1, scale), random.randint(1, 2 * scale)) for _ in range(draw(st.integers(1, 4000)))]
    position = draw(st.integers(0, 2**40))
    return position, lay_out(position, 1, runs)


def below(completed: OffsetRanges, end: int) -> OffsetRanges:
    """Cut ranges at ``end``, the plain way."""
    return tuple((start, min(stop, end)) for start, stop in completed if start < end)


def varint_size(number: int) -> int:
    """Count the bytes of a number, seven bits each."""
    return max(1, (number.bit_length() + 6) // 7)


def shortest_text(position: int, completed: OffsetRanges, topic_id: bytes | None) -> int:
    """Count the characters of the shorter of the two maps, from the format's description."""
    if not completed and topic_id is None:
        return 0
    runs = 0
    cursor = position
    for start, end in completed:
        runs += varint_size(start - cursor) + varint_size(end - start)
        cursor = end
    bitset = -(-(cursor - position) // 8)
    size = 4 + 1 + len(topic_id or b"") + varint_size(position) + min(runs, bitset)
    return len(PREFIX) + 4 * -(-size // 3)


def sealed(payload: bytes) -> str:
    """Wrap any payload as a map whose checksum is right."""
    return PREFIX + strict_base64.encode(crc32(payload).to_bytes(4, "big") + payload)


@given(commits(), topic_ids)
@example((0, ()), None)
@example((0, ()), TOPIC_ID)
@example((MAX_POSITION, ()), TOPIC_ID)
@example((0, ((0, MAX_POSITION),)), None)
@example((MAX_POSITION - 3, ((MAX_POSITION - 2, MAX_POSITION),)), None)
def test_round_trip(commit: tuple[int, OffsetRanges], topic_id: bytes | None) -> None:
    """A map that fits says exactly what completed, and for which topic."""
    position, completed = commit
    encoded = encode(position, completed, topic_id=topic_id)
    assert encoded.covered_to == (completed[-1][1] if completed else position)
    if encoded.text:
        assert decode(encoded.text, position) == DecodedMap(completed, topic_id)
    else:
        assert not completed
        assert topic_id is None


@given(commits(), topic_ids, st.integers(0, 200))
@example((0, ((1, 2),)), None, 0)
@example((0, ((1, 2),)), None, 17)
@example((0, ((1, 2), (2 + 2**40, 3 + 2**40))), None, 30)
@example((0, ((1, 2**40),)), None, 18)
def test_cut_is_the_longest_prefix_that_fits(
    commit: tuple[int, OffsetRanges],
    topic_id: bytes | None,
    limit: int,
) -> None:
    """Over the limit, not one more completed offset would have fitted under either encoding."""
    check_cut(*commit, topic_id, limit)


@settings(max_examples=40)
@given(crowded_commits(), topic_ids)
def test_crowded_map_is_cut_to_the_longest_prefix(
    commit: tuple[int, OffsetRanges],
    topic_id: bytes | None,
) -> None:
    """At the broker's own limit as well, the cut is as far up as can be."""
    check_cut(*commit, topic_id, MAX_METADATA_LENGTH)


def check_cut(position: int, completed: OffsetRanges, topic_id: bytes | None, limit: int) -> None:
    """Check a cut against the plain count of what the next offset would have taken."""
    encoded = encode(position, completed, topic_id=topic_id, limit=limit)
    held = below(completed, encoded.covered_to)
    assert len(encoded.text) <= limit
    assert encoded.covered_to == (held[-1][1] if held else position)
    if encoded.text:
        assert len(encoded.text) == shortest_text(position, held, topic_id)
        assert decode(encoded.text, position) == DecodedMap(held, topic_id)
    else:
        assert not held
    left = [max(start, encoded.covered_to) for start, end in completed if end > encoded.covered_to]
    if left:
        assert shortest_text(position, below(completed, left[0] + 1), topic_id) > limit


@given(commits(), st.data())
def test_one_damaged_character_is_noticed(commit: tuple[int, OffsetRanges], data: st.DataObject) -> None:
    """No single wrong character is read as a map."""
    position, completed = commit
    text = encode(position, completed, topic_id=TOPIC_ID).text
    index = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(string.printable).filter(lambda char: char != text[index]))
    with pytest.raises(MapError):
        decode(text[:index] + other + text[index + 1 :], position)


@given(commits(), st.data())
def test_truncated_or_extended_map_is_refused(commit: tuple[int, OffsetRanges], data: st.DataObject) -> None:
    """A map that lost its end, or got something after it, is refused."""
    position, completed = commit
    text = encode(position, completed, topic_id=TOPIC_ID).text
    with pytest.raises(MapError):
        decode(text[: data.draw(st.integers(0, len(text) - 1))], position)
    with pytest.raises(MapError):
        decode(text + data.draw(st.text(min_size=1)), position)


@given(commits(), positions)
def test_map_of_another_offset_is_refused(commit: tuple[int, OffsetRanges], committed: int) -> None:
    """A map that was copied to another offset skips nothing there."""
    position, completed = commit
    text = encode(position, completed, topic_id=TOPIC_ID).text
    if committed != position:
        with pytest.raises(MapError, match="it was written for offset"):
            decode(text, committed)


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")) | st.text().map(PREFIX.__add__), positions)
@example("\udc80", 0)
@example(PREFIX + "\udc80", 0)
@example(PREFIX, 0)
@example(PREFIX + "AAAAAA==", 0)
def test_any_text_is_refused_politely(text: str, committed: int) -> None:
    """Whatever isn't a map is a MapError, nothing else."""
    with pytest.raises(MapError):
        decode(text, committed)


@given(st.binary(max_size=60), positions)
@example(b"\x00" + b"\x80" * 10, 0)
@example(b"\x00\x00\x01\x80", 0)
@example(b"\x00\x00\x01", 0)
@example(b"\x00\x00\x01\x00", 0)
@example(b"\x02\x00", 0)
@example(b"\x01\x00", 0)
@example(b"\x01\x00\x00\xff", 0)
def test_sealed_nonsense_stays_in_bounds(payload: bytes, committed: int) -> None:
    """A payload with a right checksum is read as sorted ranges from the committed offset up, or refused."""
    try:
        completed = decode(sealed(payload), committed).completed
    except MapError:
        return
    edges = [committed - 1, *(edge for pair in completed for edge in pair)]
    assert edges == sorted(set(edges))
    assert edges[-1] <= MAX_POSITION


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x04\x00", "unknown flags 0x4"),
        (b"\x00", "written for offset None"),
        (b"\x02" + TOPIC_ID, "written for offset None"),
        (b"\x00" + b"\xff" * 9 + b"\x01", "too large"),
        (b"\x00\x05\x01\x81", "cut off"),
        (b"\x00\x05\x01\x01\x00\x01", "a run of 0 offsets"),
        (b"\x00\x05\x01", "the last run isn't a completed one"),
        (b"\x00\x05\x01" + b"\xff" * 8 + b"\x7f", "out of Kafka's range"),
    ],
)
def test_refusal_says_why(payload: bytes, reason: str) -> None:
    """Each way in which a sealed payload can be wrong has its reason."""
    with pytest.raises(MapError, match=reason):
        decode(sealed(payload), 5)


def test_map_over_the_limit_is_refused() -> None:
    """Text that no commit can carry isn't looked at."""
    with pytest.raises(MapError, match="over 4095 characters"):
        decode(PREFIX + "A" * MAX_METADATA_LENGTH, 0)


def test_offsets_at_the_top_of_the_range() -> None:
    """A bitset's spare bits aren't taken for offsets beyond Kafka's range."""
    position = MAX_POSITION - 20
    completed = tuple((position + offset, position + offset + 1) for offset in range(1, 20, 2))
    assert decode(encode(position, completed).text, position).completed == completed
    with pytest.raises(MapError, match="out of Kafka's range"):
        from_bits(MAX_POSITION, "1")
    with pytest.raises(MapError, match="out of Kafka's range"):
        from_runs(-1, [1, 1])


@pytest.mark.parametrize(
    ("position", "completed"),
    [
        (-1, ()),
        (MAX_POSITION + 1, ()),
        (10, ((9, 12),)),
        (10, ((12, 12),)),
        (10, ((12, 11),)),
        (10, ((12, 14), (14, 15))),
        (10, ((12, 14), (11, 12))),
        (10, ((12, MAX_POSITION + 1),)),
    ],
)
def test_what_would_write_a_wrong_map_is_refused(position: int, completed: OffsetRanges) -> None:
    """Ranges that aren't sorted, disjoint and above the position are never written."""
    with pytest.raises(ValueError, match=r"Kafka's range|is empty, out of order, or touches"):
        encode(position, completed)


def test_arguments_are_checked() -> None:
    """A topic id of the wrong size and a limit that no broker takes are refused."""
    with pytest.raises(ValueError, match="a topic id has 16 bytes, not 3"):
        encode(0, (), topic_id=b"abc")
    with pytest.raises(ValueError, match="limit must be from 0 to 4095"):
        encode(0, (), limit=MAX_METADATA_LENGTH + 1)


def test_nothing_completed_needs_no_text() -> None:
    """Where nothing completed above the position, the metadata stays empty."""
    assert encode(7, ()) == EncodedMap("", 7)


def test_format_is_the_described_one() -> None:
    """Version 1 is fixed: commits that are stored with it must stay readable."""
    assert encode(5, ((6, 50_000),)).text == sealed(b"\x00" + b"\x05" + b"\x01" + b"\xca\x86\x03")
    alternating = tuple((offset, offset + 1) for offset in range(301, 317, 2))
    assert encode(300, alternating).text == sealed(b"\x01" + b"\xac\x02" + b"\x55\x55")
    assert encode(5, ((7, 8),), topic_id=TOPIC_ID).text == sealed(b"\x03" + TOPIC_ID + b"\x05" + b"\x20")


def test_decoding_is_bounded() -> None:
    """The densest text takes little memory, and a run of any length takes no more than another."""
    alternating = tuple((offset, offset + 1) for offset in range(1, 60_000, 2))
    text = encode(0, alternating).text
    assert len(text) > MAX_METADATA_LENGTH - 4
    tracemalloc.start()
    try:
        completed = decode(text, 0).completed
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(completed) == 4 * 3060  # bytes of a full map's bitset, four ranges each
    assert peak < 4_000_000
    assert decode(encode(0, ((1, MAX_POSITION),)).text, 0).completed == ((1, MAX_POSITION),)


@pytest.mark.parametrize(("runs", "seconds"), [(256, 0.01), (5000, 0.1), (100_000, 1.0)])
def test_encoding_takes_linear_time(runs: int, seconds: float) -> None:
    """Encoding is quick enough for every commit; the bounds leave a slow machine 30 times as long."""
    completed = lay_out(0, 1, [(150, 3)] * runs)
    best = min(_timed(completed) for _ in range(5))
    assert best < seconds


def _timed(completed: OffsetRanges) -> float:
    started = time.perf_counter()
    encode(0, completed)
    return time.perf_counter() - started
