"""Decompression of foreign maps: bounded, and optional."""

from __future__ import annotations

import sys

import pytest
import zstandard
from hypothesis import given, strategies as st

from trio_parallel_kafka.control.zstd import zstd_decompressor


@given(st.binary(max_size=5000), st.binary(max_size=50), st.booleans())
def test_frame_ends_itself(data: bytes, end: bytes, sized: bool) -> None:
    """What follows a frame is left alone, whether or not the frame says its size."""
    decompress = zstd_decompressor()
    assert decompress is not None
    frame = zstandard.ZstdCompressor(write_content_size=sized).compress(data)
    assert decompress(frame + end, len(data)) == data


@given(st.binary(max_size=5000), st.data())
def test_cut_frame_is_refused(data: bytes, draw: st.DataObject) -> None:
    """A frame that lost its end gives nothing."""
    decompress = zstd_decompressor()
    assert decompress is not None
    frame = zstandard.compress(data)
    with pytest.raises(ValueError, match="cut off"):
        decompress(frame[: draw.draw(st.integers(0, len(frame) - 1))], len(data))


def test_output_is_bounded() -> None:
    """A frame that gives one byte too many is refused."""
    decompress = zstd_decompressor()
    assert decompress is not None
    frame = zstandard.compress(bytes(1000))
    assert len(decompress(frame, 1000)) == 1000
    with pytest.raises(ValueError, match="more than 999 bytes"):
        decompress(frame, 999)


def test_without_the_extra_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library isn't installed, there is no decompressor, and no error."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert zstd_decompressor() is None
