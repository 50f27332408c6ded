"""Calls of a handler that wait for a worker process."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

import trio

from trio_parallel_kafka.errors import InvalidResultError, SerializationError, WorkerDiedError
from trio_parallel_kafka.execution.engine import Attempt


class Crew(Protocol):
    """What has calls in its hands."""

    async def take_back(self, call: Call) -> None:
        """See :meth:`CallQueue.take_back`."""


class Call:
    """One call of the handler.

    Args:
        given: what the handler is to get.
        attempt: told when it begins.

    Attributes:
        payload: ``given``, pickled.
        crew: who has it in its hands, if anybody.
        index: its place in the crew's chunk.
        is_alone: it is to be the only call of its chunk, because others died without saying on which they were.
        deaths: processes that have died as they were given it, alone.
        is_wanted: somebody waits for it.
        is_over: nothing more happens to it: it is answered, or taken back.

    Raises:
        SerializationError: ``given`` can't be pickled.
    """

    __slots__ = (
        "_answered",
        "_error",
        "_result",
        "attempt",
        "crew",
        "deaths",
        "given",
        "index",
        "is_alone",
        "is_over",
        "is_wanted",
        "payload",
    )

    def __init__(self, given: object, attempt: Attempt) -> None:
        self.given: Final = given
        self.attempt: Final = attempt
        self.payload: Final = _pickled(given)
        self.crew: Crew | None = None
        self.index: int = 0
        self.is_alone: bool = False
        self.deaths: int = 0
        self.is_wanted: bool = True
        self.is_over: bool = False
        self._answered: Final = trio.Event()
        self._result: object = None
        self._error: BaseException | None = None

    async def answer(self) -> object:
        """Wait for what the handler returns, or raise what it raised."""
        await self._answered.wait()
        if self._error is not None:
            raise self._error
        return self._result

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """It is over, with this answer if anybody still wants it."""
        self.crew = None
        self.is_over = True
        self._result = result
        self._error = error
        self._answered.set()

    def end_with(self, answer: bytes | None) -> None:
        """The same, with an answer as a worker process gives it."""
        if answer is None:
            self.end()
            return
        try:
            result, error = pickle.loads(answer)  # noqa: S301 - a process of one's own made it
        except Exception as failed:  # noqa: BLE001 - a class may do anything as it comes back
            error = InvalidResultError(
                f"what the handler returned or raised in its process can't be read here: "
                f"{type(failed).__name__}: {failed}"
            )
            error.__cause__ = failed
            result = None
        self.end(result, error)

    async def wait_until_over(self) -> None:
        """Wait for that, in whatever way."""
        await self._answered.wait()


class CallQueue:
    """Calls that wait, shared by several crews.

    Args:
        crews: how many share it.
    """

    def __init__(self, crews: int) -> None:
        self._crews: Final = crews
        self._calls: deque[Call] = deque()
        self._idle: Final = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def is_starving(self) -> bool:
        """Whether somebody waits in vain for calls."""
        return bool(self._idle)

    def put(self, call: Call) -> None:
        """Have it run; the bound of how many there may be is that of the callers."""
        self._calls.append(call)
        self._idle.unpark()

    def put_back(self, calls: Iterable[Call]) -> None:
        """Have those that somebody waits for run before all others; until then their time doesn't run."""
        waiting = []
        for call in calls:
            if call.is_wanted:
                call.crew = None
                call.attempt.waits()
                waiting.append(call)
            else:
                call.end()
        self._calls.extendleft(reversed(waiting))
        if waiting:
            self._idle.unpark()

    def close(self) -> None:
        """No crew is left: fail what waits still."""
        while self._calls:
            self._calls.popleft().end(error=WorkerDiedError("the engine was closed before the record was handled"))

    async def take_back(self, call: Call) -> None:
        """It isn't wanted any more: have it not run, or ended."""
        call.is_wanted = False
        if call.is_over:
            return
        if call.crew is None:
            self._calls.remove(call)
            call.end()
        else:
            await call.crew.take_back(call)

    async def take(self, limit: int) -> list[Call]:
        """Wait for calls; give up to ``limit`` of them, and leave the other crews their share."""
        while not self._calls:
            await self._idle.park()
        share = -(-len(self._calls) // self._crews)
        chunk = [self._calls.popleft()]
        while len(chunk) < min(limit, share) and not (chunk[0].is_alone or self._calls[0].is_alone):
            chunk.append(self._calls.popleft())
        if self._calls:
            self._idle.unpark()
        return chunk


def _pickled(given: object) -> bytes:
    try:
        return pickle.dumps(given, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise SerializationError(
            f"the record can't be sent to a worker process: {type(error).__name__}: {error}; what deserialisers make "
            "of it has to be picklable"
        ) from error
