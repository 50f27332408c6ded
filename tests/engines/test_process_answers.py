"""What handlers in worker processes return and raise, and how it reaches the consumer."""

from __future__ import annotations

import functools
import os
import re
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import process_handlers
from engines.process_handlers import Adder, DetailedError
from engines.process_kit import is_alive, lines, opened, record, records

from trio_parallel_kafka.errors import InvalidResultError, SerializationError
from trio_parallel_kafka.execution.engine import Attempt
from trio_parallel_kafka.execution.engines.worker_process import STRAY, RemoteError


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        (process_handlers.act, 1),
        (process_handlers.act_async, 1),
        ("engines.process_handlers:act", 1),
        ("engines.process_handlers:act_async", 1),
        (functools.partial(process_handlers.of_two, 100), 107),
        (functools.partial(process_handlers.act_async), 1),
        (Adder(200).add, 207),
        (Adder(300), 307),
        ("engines.process_handlers:Adder.named", 1007),
    ],
    ids=[
        "function",
        "async function",
        "name",
        "name of async",
        "partial",
        "partial of async",
        "method",
        "object",
        "path",
    ],
)
async def test_handlers_of_all_kinds(handler: Any, result: int) -> None:
    """Whatever can be pickled, or be found by its name, can handle records; async ones are run by Trio."""
    async with opened(handler) as driver:
        await driver.handle_all([record(7, "give 1")])
    assert driver.results == {7: result}


async def test_batches_are_handled() -> None:
    """What is given may be a tuple of records, too."""
    async with opened(process_handlers.offsets) as driver:
        results = [await driver.execute(tuple(records("a", "b", "c")), Attempt(None)) for _ in range(2)]
    assert results == [[0, 1, 2]] * 2


@pytest.mark.parametrize("handler", [process_handlers.act, process_handlers.act_async], ids=["sync", "async"])
async def test_exception_tells_where_it_was_raised(handler: Callable[..., Any]) -> None:
    """It has its class, attributes, notes, cause and, beyond the process's border, the handler's own lines."""
    async with opened(handler) as driver:
        await driver.handle_all(records("give 0", "fail the key", "give 2"))
    assert (driver.results[0], driver.results[2]) == (0, 2)
    error = driver.results[1]
    assert type(error) is DetailedError
    assert (str(error), error.code, error.__notes__) == ("it went wrong", 7, ["look at the code"])
    assert type(error.__cause__) is KeyError
    told = "".join(traceback.format_exception(error))
    assert re.search(r"in fail\n    os.environ\[argument\]\n(.*\n)+KeyError: 'the key'\n", told)
    assert re.search(
        r"in fail\n    raise error from cause\n[ ^]+\nengines.*DetailedError: it went wrong\nlook at the code\n", told
    )
    assert process_handlers.__file__ in told


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("fail-with-lock x", RemoteError, r"ValueError: \('x', <unlocked _thread.lock"),
        ("raise MuteError()", RemoteError, "^MuteError"),
        ("raise UnreadableError('no words', 'left')", RemoteError, "^UnreadableError: no words"),
        ("raise ForeignError()", InvalidResultError, "can't be read here: RuntimeError: not at home"),
        ("raise ExceptionGroup('two', [KeyError('a'), DetailedError('b', code=1)])", ExceptionGroup, "two"),
        ("raise UnicodeDecodeError('utf-8', bytes([255]), 0, 1, 'no')", UnicodeDecodeError, "can't decode byte 0xff"),
        ("raise BaseExceptionGroup('both', [SystemExit(3), KeyError('a')])", BaseExceptionGroup, "both"),
        ("leave 3", SystemExit, "3"),
        ("raise KeyboardInterrupt", KeyboardInterrupt, "^$"),
        ("give Foreign()", InvalidResultError, "can't be read here: RuntimeError: not at home"),
        (
            "give threading.Lock()",
            InvalidResultError,
            "returned, a lock, can't be sent from its process: cannot pickle",
        ),
        ("give lambda: 1", InvalidResultError, "returned, a function, can't be sent from its process"),
    ],
)
async def test_bad_answer_fails_its_record_alone(value: str, kind: type[BaseException], message: str) -> None:
    """It says what was wrong with it; the others of its chunk aren't concerned, nor is the process."""
    async with opened() as driver:
        first, bad, last, pid = driver.put(*records("give 0", value, "give 2", "pid"))
        with pytest.raises(kind, match=message):
            await bad.answer()
        assert [await first.answer(), await last.answer()] == [0, 2]
        assert await driver.call("pid") == await pid.answer()
    assert driver.engine.statistics().died == 0


@pytest.mark.parametrize(
    ("value", "attributes"),
    [
        ("leave 3", {"code": 3}),
        (
            "raise UnicodeDecodeError('utf-8', b'xyz', 1, 2, 'bad')",
            {"object": b"xyz", "start": 1, "end": 2, "reason": "bad"},
        ),
        (
            "raise FileNotFoundError(2, 'not there', 'a.txt')",
            {"errno": 2, "strerror": "not there", "filename": "a.txt"},
        ),
        ("raise DetailedError('x', code=1)", {"args": ("x",), "code": 1}),
    ],
)
async def test_exceptions_keep_what_they_say(value: str, attributes: dict[str, object]) -> None:
    """Built-in ones, and classes of one's own, arrive with their attributes, and are told in the same words."""
    async with opened() as driver:
        (call,) = driver.put(record(0, value))
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - the class follows from the rest
            await call.answer()
    assert {name: getattr(caught.value, name) for name in attributes} == attributes
    assert caught.traceback[-1].path == Path(process_handlers.__file__)


async def test_groups_keep_what_their_members_say() -> None:
    """The exceptions of a group arrive whole, too."""
    async with opened() as driver:
        group = await driver.call("raise ExceptionGroup('two', [StopIteration(5), KeyError('key')])")
    assert type(group) is ExceptionGroup
    assert group.message == "two"
    assert [getattr(each, "value", each.args) for each in group.exceptions] == [5, ("key",)]


async def test_stand_in_has_the_traceback_in_its_notes() -> None:
    """An exception that can't leave its process is told in full all the same."""
    async with opened() as driver:
        error = await driver.call("fail-with-lock x")
    (note,) = error.__notes__
    assert "in fail_with_lock\n    raise ValueError(argument, threading.Lock())\nValueError: ('x', " in note


async def test_records_that_cannot_cross_fail_alone() -> None:
    """One that can't be pickled, and one that can't be unpickled, fail clearly; others of that time are handled."""
    unpicklable = record(1).decoded("key", threading.Lock())
    unreadable = record(2).decoded("key", process_handlers.UnreadableError("a", "b"))
    async with opened() as driver:
        await driver.handle_all([record(0, "give 0"), unpicklable, unreadable, record(3, "give 3")])
    assert (driver.results[0], driver.results[3]) == (0, 3)
    assert type(driver.results[1]) is SerializationError
    assert "the record can't be sent to a worker process: TypeError: cannot pickle '_thread.lock'" in str(
        driver.results[1]
    )
    assert type(driver.results[2]) is TypeError
    assert "UnreadableError.__init__() missing 1 required positional argument" in str(driver.results[2])


async def test_handlers_may_run_programs() -> None:
    """A subprocess of a handler, and its output, are the handler's own affair."""
    async with opened() as driver:
        assert await driver.call("run print(6 * 7)") == "42\n"


@pytest.mark.parametrize("handler", [process_handlers.act, process_handlers.act_async], ids=["sync", "async"])
@pytest.mark.parametrize("value", ["give 5", "raise ValueError", "give None"])
async def test_fork_that_comes_back_ends_there(tmp_path: Path, handler: Callable[..., Any], value: str) -> None:
    """A handler's fork that returns, or raises, in the child too, has one answer; nothing is handled twice."""
    journal = tmp_path / "journal"
    async with opened(handler) as driver:
        await driver.handle_all(
            [
                record(0, "give 0", key=journal),
                record(1, f"fork-and-come-back {value}", key=journal),
                record(2, "give 2", key=journal),
            ]
        )
        assert await driver.call("give 3", offset=3) == 3
    assert driver.results == {0: 0, 1: f"the child ended with {STRAY}", 2: 2, 3: 3}
    assert sorted(line.split()[0] for line in lines(journal)) == ["0", "1", "2"]
    assert driver.engine.statistics().died == 0


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_death_shows_though_a_fork_lives_on(tmp_path: Path, start_method: str) -> None:
    """A grandchild doesn't hide its parent's end: neither when that died by itself, nor when it was killed."""
    pids = tmp_path / "pids"
    async with opened(start_method=start_method) as driver:
        await driver.handle(record(0, f"fork-and-exit {pids}"))
        assert "it exited with status 9" in str(driver.results[0])
        await driver.handle(record(1, f"fork-and-hang {pids}"), time=0.1)
        assert driver.results[1] == "timeout"
        assert await driver.call("give 2", offset=2) == 2
        grandchildren = [int(line) for line in lines(pids)]
        assert len(grandchildren) == 2
        assert all(map(is_alive, grandchildren))
    for pid in grandchildren:
        os.kill(pid, signal.SIGKILL)
