"""What runs in a worker process: chunks of calls, one after another."""

from __future__ import annotations

import contextlib
import fcntl
import io
import multiprocessing
import os
import pickle
import signal
import stat
import sys
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast

import attrs
import trio

from trio_parallel_kafka.errors import InvalidHandlerError, InvalidResultError, ParallelKafkaError, WorkerStartError
from trio_parallel_kafka.execution.engine import AnyHandler
from trio_parallel_kafka.execution.engines.board import ANSWERED, DONE, Board, join_board
from trio_parallel_kafka.execution.engines.handlers import imported, is_async, made

ORPHANED: Final = 75
"""What a worker exits with whose consumer has died; nobody is left to read it."""

STRAY: Final = 76
"""The same of a fork of it, made by a handler, that came back to it."""

STDERR: Final = 2

Result = TypeVar("Result")

Answer = bytes | None
"""A pickled pair of what a handler returned and ``None``, or of ``None`` and what it raised; ``None`` for ``None``."""


class RemoteError(ParallelKafkaError):
    """Stands in for an exception of a handler that can't leave its process; it says what that said."""


class UnusableHandlerError(WorkerStartError, InvalidHandlerError):
    """The handler can't be loaded; another process would fail just so."""


@attrs.frozen
class Orders:
    """What a worker process is to do. It is pickled once for each process.

    Attributes:
        handler: pickled: a function, or ``"module:function"``.
        initializer: pickled: a function of nothing, or ``None``.
        max_tasks: calls after which it wants to be replaced.
        max_memory: bytes of resident memory above which it does.
    """

    handler: bytes
    initializer: bytes
    max_tasks: int | None
    max_memory: int | None


@attrs.frozen
class Report:
    """What a worker process says after it has done something.

    Attributes:
        pid: which process it is.
        tasks: calls that it has run in its life.
        is_retiring: it ends now, as it was told to.
        answers: one for each call.
    """

    pid: int
    tasks: int
    is_retiring: bool
    answers: Sequence[Answer] = ()


class WorkerProcess:
    """The state of the process that this module runs in.

    Args:
        orders: what it is to do.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders: Final = orders
        self._pid: Final = os.getpid()
        self._handler: AnyHandler | None = None
        self._boards: Final[dict[str, Board]] = {}
        self._tasks = 0
        self.is_retiring: bool = False

    def report(self, answers: Sequence[Answer] | None = None) -> Report:
        """Say who it is; with answers, also whether it has done enough."""
        max_tasks, max_memory = self._orders.max_tasks, self._orders.max_memory
        is_worn = max_tasks is not None and self._tasks >= max_tasks
        is_large = max_memory is not None and _resident_memory() > max_memory
        self.is_retiring = answers is not None and (is_worn or is_large)
        return Report(self._pid, self._tasks, self.is_retiring, answers or ())

    def set_up(self) -> None:
        """Be ready to handle.

        Raises:
            WorkerStartError: the handler isn't to be had, or the initializer failed.
        """
        if self._handler is not None:
            return
        handler = _explained("the handler can't be loaded", self._load)
        _explained("worker_initializer failed", self._initialize)
        self._handler = handler

    def run(self, path: str, payloads: Sequence[bytes]) -> list[Answer]:
        """Call the handler with each; see :data:`Answer`."""
        self.set_up()
        handler = self._handler
        assert handler is not None  # noqa: S101 - or set_up() had raised
        board = self._boards.get(path) or self._boards.setdefault(path, join_board(path))
        try:
            if is_async(handler):
                return trio.run(self._serve_async, handler, board, payloads)
            return self._serve(handler, board, payloads)
        finally:
            self._flush()

    def _load(self) -> AnyHandler:
        try:
            handler = imported(pickle.loads(self._orders.handler))  # noqa: S301 - it comes from the consumer
        except (ImportError, AttributeError) as error:
            raise InvalidHandlerError(
                f"{error}; put it into a module that worker processes can import, and name it by 'module:function'"
            ) from error
        if not callable(handler):
            raise InvalidHandlerError(f"it has to be a function, not {handler!r}")
        return handler

    def _initialize(self) -> None:
        initializer: Callable[[], object] | None = pickle.loads(self._orders.initializer)  # noqa: S301 - likewise
        if initializer is not None:
            initializer()

    def _serve(self, handler: AnyHandler, board: Board, payloads: Sequence[bytes]) -> list[Answer]:
        answers: list[Answer] = [None] * len(payloads)
        for index, payload in enumerate(payloads):
            if board.begin(index):
                try:
                    answer = _answer(made(handler(pickle.loads(payload))))  # noqa: S301 - it comes from the consumer
                except BaseException as error:  # noqa: BLE001, ASYNC103 - the consumer deals with it
                    answer = _refusal(error)
                self._end(board, index, answer)
                answers[index] = answer
        return answers

    async def _serve_async(self, handler: AnyHandler, board: Board, payloads: Sequence[bytes]) -> list[Answer]:
        answers: list[Answer] = [None] * len(payloads)
        for index, payload in enumerate(payloads):
            if board.begin(index):
                try:
                    answer = _answer(await handler(pickle.loads(payload)))  # noqa: S301 - it comes from the consumer
                except BaseException as error:  # noqa: BLE001, ASYNC103 - the consumer deals with it
                    answer = _refusal(error)
                self._end(board, index, answer)
                answers[index] = answer
        return answers

    def _end(self, board: Board, index: int, answer: Answer) -> None:
        if os.getpid() != self._pid:
            os._exit(STRAY)  # a handler forked, and the child came here: what follows is its parent's
        self._tasks += 1
        board.end(index, DONE if answer is None else ANSWERED)

    @staticmethod
    def _flush() -> None:
        """Show what handlers have printed: a worker may be killed at any time."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # it may be closed, or missing
                stream.flush()


_process: WorkerProcess | None = None


def prepare(orders: Orders) -> None:
    """Begin; what can fail comes later, where it can be told."""
    global _process  # noqa: PLW0603 - there is one in a process
    _process = WorkerProcess(orders)
    _keep_pipes_from_forks()
    _be_killed_with_parent()
    threading.Thread(target=_die_with_parent, name="waits for the consumer's end", daemon=True).start()


def set_up() -> Report:
    """See :meth:`WorkerProcess.set_up`."""
    _this().set_up()
    return _this().report()


def run(path: str, payloads: Sequence[bytes]) -> Report:
    """See :meth:`WorkerProcess.run`."""
    return _this().report(_this().run(path, payloads))


def wants_to_retire() -> bool:
    """Whether the process is to end after what it has done last."""
    return _this().is_retiring


def _this() -> WorkerProcess:
    assert _process is not None  # noqa: S101 - prepare() comes first
    return _process


def _answer(result: object) -> Answer:
    if result is None:
        return None
    try:
        return pickle.dumps((result, None), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise InvalidResultError(
            f"what the handler returned, a {type(result).__name__}, can't be sent from its process: {error}"
        ) from error


def _refusal(error: BaseException) -> bytes:
    """The exception with its traceback, or one that says the same where it can't be pickled."""
    from tblib import pickling_support  # noqa: PLC0415 - comes with the extra

    try:
        pickling_support.install(error)
        pickled = _dumped((None, error))
        pickle.loads(pickled)  # noqa: S301 - its own; many exceptions can be pickled, but not be unpickled
    except Exception:  # noqa: BLE001 - whatever its class does
        substitute = RemoteError(_said(error))
        substitute.add_note("".join(traceback.format_exception(error)))
        return pickle.dumps((None, substitute), pickle.HIGHEST_PROTOCOL)
    return pickled


def _dumped(answer: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(answer)
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    """Makes exceptions anew from their arguments wherever their class is initialised in C.

    What tblib does for those, setting attributes on an empty one, loses what they keep outside of ``args``: the code
    of a ``SystemExit``, all that a ``UnicodeDecodeError`` says.
    """

    def reducer_override(self, obj: object) -> Any:
        if not isinstance(obj, BaseException) or not isinstance(type(obj).__init__, types.WrapperDescriptorType):
            return NotImplemented
        from tblib.pickling_support import unpickle_exception  # noqa: PLC0415 - comes with the extra

        make, arguments, *state = cast("tuple[Any, ...]", obj.__reduce__())
        notes = getattr(obj, "__notes__", None)
        surroundings = (obj.__cause__, obj.__traceback__, obj.__context__, obj.__suppress_context__, notes)
        return unpickle_exception, (make, arguments, *surroundings), *state


def _said(error: BaseException) -> str:
    with contextlib.suppress(Exception):  # its class may be at fault, too
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


def _explained(what: str, step: Callable[[], Result]) -> Result:
    try:
        return step()
    except BaseException as error:  # noqa: BLE001, ASYNC103 - it is the user's code, which may even exit
        kind = UnusableHandlerError if isinstance(error, InvalidHandlerError) else WorkerStartError
        problem = kind(f"{what}: {_said(error)}")
        problem.add_note("in the worker process:\n" + "".join(traceback.format_exception(error)))
    raise problem  # without the error as its context, which the consumer may be unable to read


def _keep_pipes_from_forks() -> None:
    """Have forks of this process close its pipes, or the consumer wouldn't learn of its death while they live."""
    pipes = [fd for each in Path("/dev/fd").iterdir() if (fd := int(each.name)) > STDERR and _is_pipe(fd)]

    def close() -> None:
        for fd in pipes:
            with contextlib.suppress(OSError):
                os.close(fd)

    os.register_at_fork(after_in_child=close)


def _is_pipe(fd: int) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    return False


def _be_killed_with_parent() -> None:
    """Have the kernel see to it where it can: threads stand still while native code doesn't let go of the GIL."""
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(fcntl, "F_SETSIG"):
        return
    pipe = parent.sentinel  # nothing is sent by it any more; the only event is that its other end is closed
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _die_with_parent() -> NoReturn:
    """Also in the midst of a handler, where the kernel doesn't see to it."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - multiprocessing has made this process
    parent.join()
    os._exit(ORPHANED)


def _resident_memory() -> int:
    """In bytes; where only the highest so far is to be had, that."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import resource  # noqa: PLC0415 - only where there is no /proc

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * os.sysconf("SC_PAGE_SIZE")
