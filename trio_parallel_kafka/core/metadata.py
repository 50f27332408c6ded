"""Commit metadata as it is found: whoever wrote it, and whatever became of it."""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

import attrs

from trio_parallel_kafka.core import foreign_maps, offset_map
from trio_parallel_kafka.core.foreign_maps import Decompress
from trio_parallel_kafka.core.ranges import MapError, OffsetRanges

MapSource: TypeAlias = Literal["own", "java-parallel-consumer", "pyrallel", "none"]
"""Who wrote the metadata of a commit, as far as that can be told."""

_OWN_VERSION: Final = re.compile(r"tpk[0-9]+\.")
_SHOWN_LENGTH: Final = 24


@attrs.frozen
class ReadMap:
    """What a commit's metadata says.

    Attributes:
        completed: offsets at or above the committed one whose records are completed.
        source: who wrote it; ``"none"`` where there is no metadata, or by nobody known.
        topic_id: the id of the topic that it was written for, 16 bytes, or ``None``.
        warning: why the metadata was ignored, so that its records are handled again, or ``None``.
    """

    completed: OffsetRanges = ()
    source: MapSource = "none"
    topic_id: bytes | None = None
    warning: str | None = None


def read_metadata(
    text: str,
    committed: int,
    *,
    zstd: Decompress | None = None,
    exact: bool = False,
) -> ReadMap:
    """Read the metadata of a commit; any text is answered, never with an exception.

    Args:
        text: the metadata, empty where there is none.
        committed: the offset that was committed with it.
        zstd: reads the compressed maps of the Java parallel-consumer.
        exact: the text is known to end where its writer ended it. Metadata that another
            client wrote isn't, when it is read by confluent-kafka.

    Returns:
        The completed offsets, or none of them and a warning.
    """
    if not text:
        return ReadMap()
    source = _writer_of(text)
    try:
        match source:
            case "own":
                own = offset_map.decode(text, committed)
                return ReadMap(own.completed, source, own.topic_id)
            case "java-parallel-consumer":
                completed = foreign_maps.decode_java(text, committed, zstd=zstd, exact=exact)
                return ReadMap(completed, source)
            case "pyrallel":
                return ReadMap(foreign_maps.decode_pyrallel(text, committed), source)
            case _:
                reason = f"no known consumer writes {text[:_SHOWN_LENGTH]!a}"
                return ReadMap(warning=f"commit metadata ignored: {reason}")
    except MapError as error:
        return ReadMap(source=source, warning=f"commit metadata ({source}) ignored: {error}")


def _writer_of(text: str) -> MapSource:
    if _OWN_VERSION.match(text):
        return "own"
    if foreign_maps.is_pyrallel(text):
        return "pyrallel"
    if foreign_maps.is_java(text):
        return "java-parallel-consumer"
    return "none"
