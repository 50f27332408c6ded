"""What runs in a worker process, run here."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import io
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from engines import process_handlers
from engines.process_kit import open_files, records

from trio_parallel_kafka.errors import InvalidResultError, WorkerStartError
from trio_parallel_kafka.execution.engines import worker_process
from trio_parallel_kafka.execution.engines.board import ANSWERED, DONE, SKIPPED, Board, open_board
from trio_parallel_kafka.execution.engines.worker_process import (
    ORPHANED,
    STRAY,
    Answer,
    Orders,
    RemoteError,
    Report,
    WorkerProcess,
)


class ExitCalledError(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What this process would have exited with."""
    codes: list[int] = []

    def exit_now(code: int) -> None:
        codes.append(code)
        raise ExitCalledError

    monkeypatch.setattr(os, "_exit", exit_now)
    return codes


@pytest.fixture
def board() -> Iterator[tuple[Board, str]]:
    """The consumer's side of a board, and where a process finds it."""
    with open_board() as made:
        yield made


def orders(handler: Any = process_handlers.act, initializer: Any = None, **limits: int) -> Orders:
    """What a process is told by an engine."""
    return Orders(pickle.dumps(handler), pickle.dumps(initializer), limits.get("max_tasks"), limits.get("max_memory"))


def payloads(*values: str) -> list[bytes]:
    """A chunk of records."""
    return [pickle.dumps(each) for each in records(*values)]


def read(answer: Answer) -> Any:
    """What an answer says."""
    if answer is None:
        return None
    result, error = pickle.loads(answer)
    return result if error is None else error


@pytest.mark.parametrize("handler", [process_handlers.act, process_handlers.act_async], ids=["sync", "async"])
def test_chunk_is_run_in_order(board: tuple[Board, str], handler: Callable[..., Any]) -> None:
    """Each call has its state and its answer; what was marked before its turn is skipped, and doesn't count."""
    consumer, path = board
    consumer.mark(1)
    process = WorkerProcess(orders(handler))
    answers = process.run(path, payloads("give None", "give 1", "give 2", "raise KeyError('three')"))
    assert answers[:2] == [None, None]
    assert read(answers[2]) == 2
    assert repr(read(answers[3])) == "KeyError('three')"
    assert [consumer.state(index) for index in range(4)] == [DONE, SKIPPED, ANSWERED, ANSWERED]
    assert process.report(answers) == Report(os.getpid(), 3, is_retiring=False, answers=answers)


def test_second_chunk_finds_everything_ready(board: tuple[Board, str]) -> None:
    """Handler and initializer are called for once, the board is opened once."""
    consumer, path = board
    process_handlers.initialized.clear()
    process = WorkerProcess(orders(initializer=process_handlers.initialize))
    process.set_up()
    assert process_handlers.initialized == [os.getpid()]
    gc.collect()
    before = open_files()
    for _ in range(3):
        consumer.clear()
        assert read(process.run(path, payloads("initialized"))[0]) == [os.getpid()]
    assert open_files() == before + 1


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("fail-with-lock x", RemoteError, "ValueError: ('x', <unlocked _thread.lock"),
        ("raise MuteError()", RemoteError, "MuteError"),
        ("raise UnreadableError('a', 'b')", RemoteError, "UnreadableError: a"),
        ("give lambda: 1", InvalidResultError, "what the handler returned, a function, can't be sent from its process"),
    ],
)
def test_answers_that_cannot_be_sent(board: tuple[Board, str], value: str, kind: type[Exception], message: str) -> None:
    """Something that says what they were is sent in their place."""
    (answer,) = WorkerProcess(orders()).run(board[1], payloads(value))
    error = read(answer)
    assert type(error) is kind
    assert str(error).startswith(message)


@pytest.mark.parametrize("initializer", [process_handlers.initialize_badly, process_handlers.leave])
def test_problem_at_the_start_is_told_apart_from_its_cause(initializer: Callable[[], object]) -> None:
    """The error can be sent though its cause can't: it has that as text alone. The next set-up tries again."""
    process = WorkerProcess(orders(initializer=initializer))
    for _ in range(2):
        with pytest.raises(WorkerStartError, match="worker_initializer failed") as caught:
            process.set_up()
        assert caught.value.__cause__ is caught.value.__context__ is None


def test_process_is_worn_after_so_many_calls(board: tuple[Board, str]) -> None:
    """Not one earlier."""
    process = WorkerProcess(orders(max_tasks=3))
    process.run(board[1], payloads("give None", "give 1"))
    assert not process.report().is_retiring
    process.run(board[1], payloads("give None"))
    assert process.report(()) == Report(os.getpid(), 3, is_retiring=True)
    assert process.is_retiring


@pytest.mark.parametrize("has_proc", [True, False])
def test_process_is_worn_when_it_has_grown(monkeypatch: pytest.MonkeyPatch, *, has_proc: bool) -> None:
    """Its memory now is what counts, or the most that it ever had, on systems that tell no more."""
    if not has_proc:
        monkeypatch.setattr(worker_process, "Path", lambda _: Path("/nowhere"))
        monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5000))
    memory = worker_process._resident_memory()
    assert memory == 5000 or 2**20 < memory < 2**35
    assert WorkerProcess(orders(max_memory=memory // 2)).report(()).is_retiring
    assert not WorkerProcess(orders(max_memory=memory * 2)).report(()).is_retiring


@pytest.mark.parametrize("handler", [process_handlers.act, process_handlers.act_async], ids=["sync", "async"])
@pytest.mark.parametrize("value", ["give 1", "raise ValueError"])
def test_stray_fork_ends(
    monkeypatch: pytest.MonkeyPatch, board: tuple[Board, str], exits: list[int], handler: Callable[..., Any], value: str
) -> None:
    """What comes back from a handler in another process than it was called in ends without a trace on the board."""
    consumer, path = board
    process = WorkerProcess(orders(handler))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ExitCalledError):
        process.run(path, payloads(value))
    assert exits == [STRAY]
    assert consumer.running() is not None


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["missing", "closed"])
def test_streams_may_be_missing(
    monkeypatch: pytest.MonkeyPatch, board: tuple[Board, str], stream: io.StringIO | None
) -> None:
    """A process without a standard output handles records all the same, and shows what is printed elsewhere."""
    if stream is not None:
        stream.close()
    shown = io.BytesIO()
    stderr = io.TextIOWrapper(shown)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stderr)
    process = WorkerProcess(orders())
    assert read(process.run(board[1], payloads("give print('hello', file=sys.stderr)"))[0]) is None
    assert shown.getvalue() == b"hello\n"


def test_prepared_process_serves(monkeypatch: pytest.MonkeyPatch, board: tuple[Board, str], exits: list[int]) -> None:
    """It watches its consumer from the start, keeps its pipes from forks, and does what it is told."""
    watches = threading.Event()
    at_fork: list[Callable[[], None]] = []
    monkeypatch.setattr(worker_process, "_process", None)
    monkeypatch.setattr(worker_process, "_die_with_parent", watches.set)
    monkeypatch.setattr(os, "register_at_fork", lambda *, after_in_child: at_fork.append(after_in_child))
    worker_process.prepare(orders(max_tasks=2))
    assert watches.wait(60)
    assert len(at_fork) == 1
    assert worker_process.set_up() == Report(os.getpid(), 0, is_retiring=False)
    assert not worker_process.wants_to_retire()
    report = worker_process.run(board[1], payloads("give 1", "give None"))
    assert attrs.evolve(report, answers=()) == Report(os.getpid(), 2, is_retiring=True)
    assert [read(answer) for answer in report.answers] == [1, None]
    assert worker_process.wants_to_retire()


def test_forks_close_the_pipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All that the process had when it was prepared, and nothing else; those that are closed by then don't matter."""
    at_fork: list[Callable[[], None]] = []
    monkeypatch.setattr(os, "register_at_fork", lambda *, after_in_child: at_fork.append(after_in_child))
    pipes = [*os.pipe(), *os.pipe()]
    file = os.open(tmp_path, os.O_RDONLY)
    is_pipe = worker_process._is_pipe
    monkeypatch.setattr(worker_process, "_is_pipe", lambda fd: fd in {*pipes, file} and is_pipe(fd))
    worker_process._keep_pipes_from_forks()
    os.close(pipes[3])
    later = os.pipe()
    assert later[0] == pipes[3]
    os.close(later[0])
    (close,) = at_fork
    close()
    for fd in pipes:
        assert not is_pipe(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    for fd in (file, later[1]):
        os.close(fd)


@pytest.mark.skipif(not hasattr(fcntl, "F_SETSIG"), reason="the kernel tells of pipes in no other way than by reading")
def test_kernel_ends_process_with_its_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process gets a signal at the moment when its parent's end of the pipe is closed, and not before."""
    read_end, write_end = os.pipe()
    signals: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda number, _: signals.append(number))
    try:
        monkeypatch.setattr(signal, "SIGKILL", signal.SIGUSR1)
        monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(sentinel=read_end))
        worker_process._be_killed_with_parent()
        assert signals == []
        os.close(write_end)
        assert signals == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, old)
        os.close(read_end)


def test_kernel_may_be_unable_to_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """On systems that have no such signals, or without a parent, nothing is asked of it."""
    asked: list[object] = []
    monkeypatch.setattr(fcntl, "fcntl", lambda *arguments: asked.append(arguments))
    worker_process._be_killed_with_parent()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(sentinel=0))
    monkeypatch.delattr(fcntl, "F_SETSIG")
    worker_process._be_killed_with_parent()
    assert not asked


def test_process_ends_with_its_consumer(monkeypatch: pytest.MonkeyPatch, exits: list[int]) -> None:
    """It exits when its parent is gone."""
    joined = []
    parent = SimpleNamespace(join=lambda: joined.append(True))
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    with contextlib.suppress(ExitCalledError):
        worker_process._die_with_parent()
    assert exits == [ORPHANED]
    assert joined == [True]


def test_handler_has_to_be_importable() -> None:
    """One that is pickled by a name that is nothing in this process is asked for in a module that is."""
    lost = attrs.evolve(orders(), handler=pickle.dumps(process_handlers.act).replace(b"act", b"atc"))
    with pytest.raises(WorkerStartError, match=r"InvalidHandlerError: .*'atc'.*; put it into a module that worker"):
        WorkerProcess(lost).set_up()


def test_handler_has_to_be_a_function() -> None:
    """What the name of the handler leads to is looked at where it is found."""
    with pytest.raises(WorkerStartError, match="InvalidHandlerError: it has to be a function"):
        WorkerProcess(orders("engines.process_handlers:ACTIONS")).set_up()
