"""Handlers for worker processes: what one does stands in its record's value."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, NoReturn

import trio

from trio_parallel_kafka import Record
from trio_parallel_kafka.execution.engines.board import Board

initialized: list[int] = []
"""One entry, the process's id, for each time that :func:`initialize` was called."""


def act(record: Record[Any, Any]) -> object:
    """Note that it was called, in the file that the key names; then do what the value says."""
    if record.key:
        note(record.key.decode(), f"{record.offset} {os.getpid()}")
    action, _, argument = record.value.decode().partition(" ")
    return ACTIONS[action](argument)


async def act_async(record: Record[Any, Any]) -> object:
    """The same, in a Trio run."""
    await trio.lowlevel.checkpoint()
    return act(record)


def note(path: str, line: str) -> None:
    """Append a line to a file, in one piece."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def initialize() -> None:
    """Leave something behind for handlers."""
    initialized.append(os.getpid())


def initialize_badly() -> None:
    """Fail in a way that can't be told by pickle."""
    raise UnreadableError("no model", "here")


def initialize_badly_and_linger() -> None:
    """Fail, and keep the process from ending."""
    threading.Thread(target=hang, args=("",)).start()
    initialize_badly()


def fail_always(path: Path) -> None:
    """Fail, and leave a trace of it."""
    note(str(path), "failed")
    raise ValueError("never")


def fail_but_first(path: Path) -> None:
    """Fail but for the first process."""
    note(str(path), "started")
    if path.read_text() != "started\n":
        raise ValueError("no second one")


def fail_in(which: Container[int], path: Path) -> None:
    """Fail in some of the calls, by their numbers from 1."""
    note(str(path), "started")
    if path.read_text().count("started") in which:
        raise ValueError("not now")


def exit_in(which: Container[int], path: Path) -> None:
    """End some of the processes that call this one after another, by their numbers from 1."""
    note(str(path), "started")
    if path.read_text().count("started") in which:
        os._exit(5)


def leave() -> NoReturn:
    """An initializer that wants to end its process."""
    sys.exit("no licence")


def of_two(first: int, record: Record[Any, Any]) -> int:
    """A handler for a partial."""
    return first + record.offset


def offsets(batch: tuple[Record[Any, Any], ...]) -> list[int]:
    """A handler of batches."""
    return [record.offset for record in batch]


class Adder:
    """An object with methods that are handlers."""

    def __init__(self, first: int) -> None:
        self.first = first

    @staticmethod
    def named(record: Record[Any, Any]) -> int:
        return 1000 + record.offset

    def add(self, record: Record[Any, Any]) -> int:
        return self.first + record.offset

    async def __call__(self, record: Record[Any, Any]) -> int:
        return self.first + record.offset


class UnreadableError(Exception):
    """Can be pickled, not unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


class MuteError(Exception):
    """Can't even say what it is."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("not to be pickled")

    def __str__(self) -> NoReturn:
        raise ValueError("no words")


class DetailedError(Exception):
    """Has more than a message."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class DeadlyToPickle:
    """Ends the process that pickles it."""

    def __reduce__(self) -> NoReturn:
        os._exit(4)


class DeadlyToUnpickle:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (4,)


class Foreign:
    """Can be unpickled in the process that made it alone."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _at_home, (os.getpid(),)


class ForeignError(Exception):
    """Likewise."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _at_home, (os.getpid(),)


def _at_home(pid: int) -> Exception:
    if os.getpid() != pid:
        raise RuntimeError("not at home")
    return ForeignError("at home")


# Actions: each gets the rest of the record's value.


def give(argument: str) -> object:
    """Evaluate a Python expression."""
    return eval(argument)


def wait_for(path: str) -> None:
    """Be held up until there is such a file."""
    while not Path(path).exists():
        time.sleep(0.001)


def hang(argument: str) -> NoReturn:
    """Sleep for good."""
    while True:
        time.sleep(1)


def burn(argument: str) -> NoReturn:
    """Keep a core busy for good."""
    while True:
        pass


def kill_oneself(argument: str) -> None:
    """Die as if for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def segfault(argument: str) -> None:
    """Die as C code does."""
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


def die_afterwards(argument: str) -> object:
    """End the process as soon as this call is over, before the next one begins."""
    end = Board.end

    def end_and_exit(board: Board, index: int, state: int) -> None:
        end(board, index, state)
        os._exit(6)

    Board.end = end_and_exit  # type: ignore[assignment,method-assign]
    return give(argument)


def fail(argument: str) -> NoReturn:
    """Raise what has a cause, a note and attributes."""
    error = DetailedError("it went wrong", code=7)
    error.add_note("look at the code")
    try:
        os.environ[argument]
    except KeyError as cause:
        raise error from cause
    raise error


def fail_with_lock(argument: str) -> NoReturn:
    """Raise what can't be pickled."""
    raise ValueError(argument, threading.Lock())


def raise_error(argument: str) -> NoReturn:
    """Raise what an expression gives."""
    raise eval(argument)


def run_program(argument: str) -> str:
    """Run Python code in a subprocess, and give its output."""
    return subprocess.run([sys.executable, "-c", argument], capture_output=True, text=True, check=True).stdout


def fork_and_come_back(argument: str) -> object:
    """The parent returns from here; the child does something else, and returns, too."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return f"the child ended with {os.waitstatus_to_exitcode(status)}"
    action, _, rest = argument.partition(" ")
    return ACTIONS[action](rest)


def fork_and_hang(path: str) -> NoReturn:
    """A grandchild lives on, its id in a file; then the child hangs, too."""
    pid = os.fork()
    if pid:
        note(path, str(pid))
    hang("")


def fork_and_exit(path: str) -> None:
    """A grandchild lives on, its id in a file, after the death of the child."""
    pid = os.fork()
    if not pid:
        hang("")
    note(path, str(pid))
    os._exit(9)


ACTIONS: dict[str, Callable[[str], object]] = {
    "give": give,
    "wait": wait_for,
    "hang": hang,
    "burn": burn,
    "exit": lambda status: os._exit(int(status)),
    "kill": kill_oneself,
    "segfault": segfault,
    "die-afterwards": die_afterwards,
    "fail": fail,
    "fail-with-lock": fail_with_lock,
    "raise": raise_error,
    "leave": lambda status: sys.exit(int(status)),
    "initialized": lambda _: initialized,
    "pid": lambda _: os.getpid(),
    "run": run_program,
    "fork-and-come-back": fork_and_come_back,
    "fork-and-hang": fork_and_hang,
    "fork-and-exit": fork_and_exit,
}
