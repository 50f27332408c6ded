"""What a handler may decide about its record by itself: raised, or returned in a batch's outcomes."""

from __future__ import annotations


class Outcome(Exception):  # noqa: N818 - a decision, not an error
    """Base of the decisions."""


class Retry(Outcome):
    """Handle the record again later; the records behind it in its lane wait.

    It counts as an attempt: where :attr:`.ConsumerConfig.retry` bounds the attempts, it bounds these too. Without one
    there is no bound.

    Args:
        after: seconds to wait; ``None``: what the retry policy says for this attempt.
    """

    after: float | None = None

    def __init__(self, after: float | None = None) -> None:
        if after is not None and not 0 <= after < float("inf"):
            message = f"after must be seconds from 0 on, or None, is {after!r}"
            raise ValueError(message)
        super().__init__(after)
        self.after = after

    def __str__(self) -> str:
        return "the handler asked for another attempt" + ("" if self.after is None else f" after {self.after:g} s")


class Skip(Outcome):
    """Complete the record without its being handled; it is logged and counted.

    Args:
        reason: why, for the log.
    """

    reason: str = ""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = str(reason)


class DeadLetter(Outcome):
    """Send the record to the dead letters at once, whatever attempts are left.

    Needs :attr:`.ConsumerConfig.dead_letter`. An exception that it was raised from (``raise DeadLetter("...") from
    error``) goes into the dead letter's headers.

    Args:
        reason: why, for the log and the headers.
    """

    reason: str = ""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = str(reason)


def unwrapped(error: Exception) -> Exception:
    """The exception that a group is about if it holds but one: so a handler's own nurseries change nothing."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
