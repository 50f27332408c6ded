"""From an engine to attempts: bounded in time, and waited for where they can't be stopped."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import trio

from trio_parallel_kafka.execution.deadline import timeout_error
from trio_parallel_kafka.execution.engine import Attempt, Execute
from trio_parallel_kafka.record import Record

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.workers")

AttemptAt = Callable[[Any], Awaitable[object]]


class GoesOn(Exception):  # noqa: N818 - the cause of an error, not one itself
    """What was begun can't be stopped: the cause of the error that its time is up."""

    def __init__(self, given: object, ended: trio.Event) -> None:
        super().__init__("the handler can't be stopped, and goes on")
        self.given: Final = given
        self.ended: Final = ended


def goes_on_after(error: Exception | None) -> bool:
    """Whether the handler goes on whose attempt has failed with this."""
    return error is not None and isinstance(error.__cause__, GoesOn)


class GivenUp:
    """Handlers that were given up but go on, because nothing can stop them."""

    def __init__(self) -> None:
        self.count: int = 0
        """How many there are now."""

    async def wait(self, given: object, ended: trio.Event) -> None:
        """Wait until one has ended, whatever is cancelled meanwhile: until then its lane has to stand still."""
        if ended.is_set():
            return
        logger.warning("the handler of %r was given up, but goes on; its lane waits for it to end", given)
        self.count += 1
        try:
            with trio.CancelScope(shield=True):
                await ended.wait()
        finally:
            self.count -= 1

    async def wait_after(self, error: Exception | None) -> None:
        """The same, if this error says that there is one."""
        cause = error and error.__cause__
        if isinstance(cause, GoesOn):
            await self.wait(cause.given, cause.ended)
            await trio.lowlevel.checkpoint_if_cancelled()


class UnderWay:
    """Attempts that engines have now, by what they were given."""

    def __init__(self) -> None:
        self._attempts: Final[dict[int, Attempt]] = {}

    def begin(self, given: object, attempt: Attempt) -> None:
        """One begins; it may have to wait for its turn."""
        for record in _records(given):
            self._attempts[id(record)] = attempt

    def end(self, given: object) -> None:
        """It has ended."""
        for record in _records(given):
            del self._attempts[id(record)]

    def is_in_time(self, record: Record[Any, Any]) -> bool:
        """Whether there is one whose time isn't up, or doesn't run yet."""
        attempt = self._attempts.get(id(record))
        return attempt is not None and attempt.scope.deadline > trio.current_time()


def attempting(execute: Execute, timeout: float | None, given_up: GivenUp, under_way: UnderWay) -> AttemptAt:
    """Give attempts by an engine that are cancelled when their time is up.

    One that returns later than that all the same has failed too: what it did may be half done.
    """

    async def attempt_at(given: Any) -> object:
        attempt = Attempt(timeout)
        under_way.begin(given, attempt)
        try:
            if timeout is None:  # a scope costs as much as all else here
                return await execute(given, attempt)
            with attempt.scope:
                result = await execute(given, attempt)
                if not attempt.scope.cancel_called:
                    return result
        except BaseException:  # a nursery in the engine makes a group of Cancelled
            if attempt.ended is not None:
                await given_up.wait(given, attempt.ended)  # noqa: ASYNC102 - it can't be stopped
            raise
        finally:
            under_way.end(given)
        raise timeout_error(timeout) from (None if attempt.ended is None else GoesOn(given, attempt.ended))

    return attempt_at


def _records(given: Any) -> Iterable[object]:
    return given if isinstance(given, tuple) else (given,)


def waiting(execute: Execute) -> Execute:
    """Have the time stand still until the engine begins."""

    async def wait_and_execute(given: Any, attempt: Attempt) -> object:
        attempt.waits()
        return await execute(given, attempt)

    return wait_and_execute
