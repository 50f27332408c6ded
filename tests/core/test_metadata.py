"""Commit metadata as it is found: every text has an answer."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from trio_parallel_kafka.core.foreign_maps import Decompress
from trio_parallel_kafka.core.metadata import ReadMap, read_metadata
from trio_parallel_kafka.core.offset_map import encode

TOPIC_ID = bytes(range(16))
OWN = encode(7, ((8, 20), (22, 23)), topic_id=TOPIC_ID).text


def any_bytes(_frame: bytes, _most: int) -> bytes:
    """Stand in for a decompressor that gives out anything."""
    return b"\x00\x01\x00\x01"


def failing(_frame: bytes, _most: int) -> bytes:
    """Stand in for a decompressor that fails in its own way."""
    raise MemoryError


texts = st.one_of(
    st.text(),
    st.binary().map(lambda raw: raw.decode("latin-1")),
    st.builds(
        str.__add__,
        st.sampled_from(["tpk1.", "tpk2.", "R", "B", "B7:", "R8,", "b", "bA", "SA", "Z"]),
        st.text(),
    ),
    st.integers(0, len(OWN)).map(lambda end: OWN[:end]),
)


@given(
    text=texts,
    committed=st.integers(-1001, 2**63 - 1),
    zstd=st.sampled_from([None, any_bytes, failing]),
    exact=st.booleans(),
)
@example(text="\udcff", committed=0, zstd=None, exact=False)
@example(text="\x00", committed=0, zstd=None, exact=False)
def test_any_text_is_answered(
    text: str,
    committed: int,
    zstd: Decompress | None,
    exact: bool,
) -> None:
    """Nothing raises; a warning comes with no offsets, and offsets lie at or above the committed one."""
    read = read_metadata(text, committed, zstd=zstd, exact=exact)
    if read.warning is not None:
        assert read == ReadMap(source=read.source, warning=read.warning)
        assert read.warning.isascii()
    assert all(committed <= start < end for start, end in read.completed)
    if read.source == "none":
        assert (read.warning is None) == (text == "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ReadMap()),
        (OWN, ReadMap(((8, 20), (22, 23)), "own", TOPIC_ID)),
        ("bAAFEgA=", ReadMap(((8, 9), (11, 12)), "java-parallel-consumer")),
        ("R8-9,12", ReadMap(((8, 10), (12, 13)), "pyrallel")),
        ("R", ReadMap((), "pyrallel")),
        ("B7:12", ReadMap(((8, 9), (11, 12)), "pyrallel")),
    ],
)
def test_each_writer_is_recognised(text: str, expected: ReadMap) -> None:
    """The three formats are told apart by how they start."""
    assert read_metadata(text, 7) == expected


@pytest.mark.parametrize(
    ("text", "source", "reason"),
    [
        (OWN[:-4], "own", "checksum"),
        (OWN.replace("tpk1", "tpk2"), "own", "doesn't start with 'tpk1.'"),
        ("O", "pyrallel", "too long for Pyrallel"),
        ("Sii1L/0AWFUAABAAAQEACyfeYQE=", "java-parallel-consumer", "install trio-parallel-kafka"),
        ("Restarted by hand", "none", "no known consumer writes 'Restarted by hand'"),
        ("\x02\u00e9", "none", r"no known consumer writes '\\x02\\xe9'"),
    ],
)
def test_what_is_ignored_is_said(text: str, source: str, reason: str) -> None:
    """Metadata that isn't used is named, with the reason."""
    read = read_metadata(text, 7)
    assert read.completed == ()
    assert read.source == source
    assert read.warning is not None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(read.warning)


def test_map_of_another_offset_skips_nothing() -> None:
    """An own map that was copied to another offset is ignored."""
    assert read_metadata(OWN, 8).completed == ()
