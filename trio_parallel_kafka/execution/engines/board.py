"""What a worker process and its consumer can see of each other at any moment: a page of shared memory.

The process says which call of its chunk it is on; the consumer says which calls it wants back. So the consumer knows
what a process died on, when an attempt began, and what it may run elsewhere, without a message per record.

**Taking back.** The process looks at the consumer's mark after it has announced a call, and skips the call if it is
marked; the consumer looks at the announcement some time after it has marked the call (:data:`SETTLED`). So one of the
two sees the other's, and a call that is marked and not announced by then is never run.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from typing import Final

CAPACITY: Final = 512
"""Calls that a chunk may have."""

SETTLED: Final = 0.001
"""Seconds after which what one process has written is seen by another for certain; it takes microseconds."""

WAITING: Final = 0
RUNNING: Final = 1
DONE: Final = 2
"""It has returned ``None``."""
ANSWERED: Final = 3
"""It has returned something else, or raised; what, isn't known before the chunk ends."""
SKIPPED: Final = 4

_RUNNING: Final = bytes([RUNNING])
_STARTED: Final = struct.Struct("d")
_STATES: Final = 64
_MARKS: Final = _STATES + CAPACITY
_SIZE: Final = _MARKS + CAPACITY


class Board:
    """The page, from either side.

    Args:
        fd: an open file of at least a page's size.
    """

    def __init__(self, fd: int) -> None:
        self._memory: Final = mmap.mmap(fd, _SIZE)

    # The consumer's side

    def clear(self) -> None:
        """A new chunk begins; no process looks at it now."""
        self._memory[:] = bytes(_SIZE)

    def mark(self, index: int) -> None:
        """Want a call back."""
        self._memory[_MARKS + index] = 1

    def state(self, index: int) -> int:
        """How far a call is."""
        return self._memory[_STATES + index]

    def running(self) -> tuple[int, float] | None:
        """The call that the process is on, and for how many seconds."""
        index = self._memory.find(_RUNNING, _STATES, _MARKS) - _STATES
        if index < 0:
            return None
        (started,) = _STARTED.unpack_from(self._memory)
        return index, max(0.0, time.monotonic() - started)

    # The process's side

    def begin(self, index: int) -> bool:
        """Announce a call; ``False``: it isn't wanted any more."""
        _STARTED.pack_into(self._memory, 0, time.monotonic())
        self._memory[_STATES + index] = RUNNING
        if self._memory[_MARKS + index]:
            self._memory[_STATES + index] = SKIPPED
            return False
        return True

    def end(self, index: int, state: int) -> None:
        """It has ended."""
        self._memory[_STATES + index] = state

    def close(self) -> None:
        self._memory.close()


@contextlib.contextmanager
def open_board() -> Iterator[tuple[Board, str]]:
    """Make a board for the length of a block; also give the path by which a child process can open it."""
    with contextlib.ExitStack() as stack:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("trio-parallel-kafka")
            stack.callback(os.close, fd)
            path = f"/proc/{os.getpid()}/fd/{fd}"  # nothing has to be removed, however this process ends
        else:
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="trio-parallel-kafka-"))
            fd, path = file.fileno(), file.name
        os.ftruncate(fd, _SIZE)
        board = Board(fd)
        stack.callback(board.close)
        yield board, path


def join_board(path: str) -> Board:
    """Open a board that another process has made."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return Board(fd)
    finally:
        os.close(fd)
