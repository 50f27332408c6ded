"""Reading zstd frames, where the extra ``zstd`` is installed."""

from __future__ import annotations

from typing import Final

from trio_parallel_kafka.core.foreign_maps import Decompress

_MAX_WINDOW_SIZE: Final = 8 * 1024 * 1024
_PIECE_SIZE: Final = 16
"""Bytes fed at once: a block of a frame is 4 bytes or more and yields up to 128 KiB."""


def zstd_decompressor() -> Decompress | None:
    """Return a function that reads a zstd frame, or ``None`` without the extra ``zstd``.

    The function takes a frame, perhaps with other bytes after it, and the most bytes that may
    come out. It raises :exc:`ValueError` or the library's error where the frame is damaged, cut
    off, or larger than that; memory stays bounded whatever the frame claims.
    """
    try:
        import zstandard  # noqa: PLC0415 - an optional extra
    except ImportError:
        return None

    def decompress(frame: bytes, max_output: int) -> bytes:
        reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_SIZE).decompressobj()
        output = bytearray()
        for start in range(0, len(frame), _PIECE_SIZE):
            output += reader.decompress(frame[start : start + _PIECE_SIZE])
            if len(output) > max_output:
                raise ValueError(f"more than {max_output} bytes come out of it")
            if reader.eof:
                return bytes(output)
        raise ValueError("the frame is cut off")

    return decompress
