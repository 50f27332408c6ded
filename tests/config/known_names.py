"""What librdkafka says of its properties."""

from __future__ import annotations

import ctypes
from pathlib import Path

from confluent_kafka import cimpl


def names_that_text_can_set(kind: str, listing: Path) -> set[str]:
    """The names of the properties of consumers (``"C"``) or producers (``"P"``), written to a file by librdkafka."""
    client_library, c_library = ctypes.CDLL(cimpl.__file__), ctypes.CDLL(None)
    c_library.fopen.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(c_library.fopen(bytes(listing), b"w"))
    client_library.rd_kafka_conf_properties_show(stream)
    c_library.fclose(stream)
    rows = [line.split("|") for line in listing.read_text(encoding="utf-8").splitlines() if line.count("|") > 4]
    of_kind = {row[0].strip() for row in rows if row[1].strip() in {"*", kind}}
    objects = {name for name in of_kind if "_" in name} - {"enabled_events", "log_level"}
    return of_kind - objects - {"opaque", "interceptors", "builtin.features"}
