"""What a member tells its supervisor, as lines of JSON."""

from __future__ import annotations

import attrs

from trio_parallel_kafka.cli.fleet.statistics import CONVERTER
from trio_parallel_kafka.errors import ConfigError, InvalidHandlerError, ParallelKafkaError
from trio_parallel_kafka.statistics import ConsumerStatistics

MAX_LINE = 4 * 1024 * 1024
"""Bytes of a report that is still read: that of some ten thousand partitions."""

LONGEST_DESCRIPTION = 1_000
"""Characters of an error that are told."""

_BEYOND_RESTARTS = (ConfigError, InvalidHandlerError)


@attrs.frozen(kw_only=True)
class MemberReport:
    """A member at one moment.

    Attributes:
        statistics: those of its consumer, or ``None`` before there is one.
        running_for: seconds since the consumer began to run.
        has_begun: it could handle records, and has been given partitions.
        failure: what ended it, or ``None``.
    """

    statistics: ConsumerStatistics | None = None
    running_for: float = 0.0
    has_begun: bool = False
    failure: str | None = None

    def as_line(self) -> bytes:
        """Its line, with the newline."""
        return CONVERTER.dumps(self).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> MemberReport | None:
        """Read a line; ``None`` if it is none, such as the beginning of one that was never finished."""
        try:
            return CONVERTER.loads(line, cls)
        except Exception:  # noqa: BLE001 - of many kinds, and all mean the same
            return None


class LineSplitter:
    """Makes lines of what comes in pieces. A line beyond ``longest`` bytes is passed over."""

    def __init__(self, longest: int = MAX_LINE) -> None:
        self._longest = longest
        self._rest = b""
        self._is_too_long = False

    def feed(self, piece: bytes) -> list[bytes]:
        """Take a piece; return the lines that it completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if lines and self._is_too_long:
            del lines[0]
            self._is_too_long = False
        if len(self._rest) > self._longest:
            self._rest = b""
            self._is_too_long = True
        return [line for line in lines if line]


def describe(error: BaseException) -> str:
    """The first of the errors in a group, on one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    described = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return described if len(described) <= LONGEST_DESCRIPTION else f"{described[:LONGEST_DESCRIPTION]}..."


def is_beyond_restarts(error: BaseException) -> bool:
    """Whether it fails just so until somebody mends it: the configuration is wrong, or the handler isn't there."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(_BEYOND_RESTARTS)[0] is not None
    return isinstance(error, _BEYOND_RESTARTS)


def speaks_for_itself(error: BaseException) -> bool:
    """Whether it was raised on purpose and needs no traceback."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(ParallelKafkaError)[1] is None
    return isinstance(error, ParallelKafkaError)
