"""What the program says to people."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final

PROGRAM: Final = "trio-parallel-kafka"


def say(text: str) -> None:
    """Print a line on the standard error, with the program's name before it; if nobody takes it, all else goes on."""
    with suppress(OSError):
        print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)


def complain(error: BaseException) -> None:
    """Print what it says; of a group, what each of its errors says."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            complain(each)
    else:
        say(f"error: {error}")


def discard_output() -> None:
    """Nobody reads the standard output any more; or Python tries once more to write what is buffered, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
