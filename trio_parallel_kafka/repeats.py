"""Keeps what is said again and again out of the log: a broker that is down is reported many times a second."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Hashable
from typing import Final

PERIOD: Final = 10.0
"""Seconds in which the same is said once."""

MAX_KEYS: Final = 1000

_NUMBERS: Final = re.compile(r"[0-9]+")


class Repeats:
    """Counts what is left out."""

    def __init__(self) -> None:
        self._said: dict[Hashable, tuple[float, int]] = {}

    def count(self, key: Hashable, now: float) -> int | None:
        """How often this was left out since it was last said, or ``None``: leave it out now."""
        said_at, left_out = self._said.get(key, (-PERIOD, 0))
        if now - said_at < PERIOD:
            self._said[key] = (said_at, left_out + 1)
            return None
        if len(self._said) >= MAX_KEYS:
            self._said.clear()
        self._said[key] = (now, 0)
        return left_out


class QuietLogger:
    """What the client logs to: lines that differ in numbers only are the same."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger: Final = logger
        self._repeats: Final = Repeats()

    def log(self, level: int, form: str, *arguments: object) -> None:
        """Called by the client for each of its lines."""
        line = form % arguments
        repeated = self._repeats.count(_NUMBERS.sub("", line), time.monotonic())
        if repeated is not None:
            self._logger.log(level, "%s%s", line, f" ({repeated} times more since)" if repeated else "")
