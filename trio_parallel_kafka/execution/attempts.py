"""From an engine to attempts: bounded in time, and waited for where they can't be stopped."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from trio_parallel_kafka.errors import HandlerTimeoutError
from trio_parallel_kafka.execution.engine import Attempt, Execute

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.workers")

AttemptAt = Callable[[Any], Awaitable[object]]


class OverrunError(HandlerTimeoutError):
    """The time is up, but what was begun goes on."""

    def __init__(self, message: str, given: object, ended: trio.Event) -> None:
        super().__init__(message)
        self.given: Final = given
        self.ended: Final = ended


class GivenUp:
    """Handlers that were given up but go on, because nothing can stop them."""

    def __init__(self) -> None:
        self.count: int = 0
        """How many there are now."""

    async def wait(self, given: object, ended: trio.Event) -> None:
        """Wait until one has ended, whatever is cancelled meanwhile: until then its lane has to stand still."""
        logger.warning("the handler of %r was given up, but goes on; its lane waits for it to end", given)
        self.count += 1
        try:
            with trio.CancelScope(shield=True):
                await ended.wait()
        finally:
            self.count -= 1

    async def wait_after(self, error: BaseException) -> None:
        """The same, if this error says that there is one."""
        if isinstance(error, OverrunError):
            await self.wait(error.given, error.ended)
            await trio.lowlevel.checkpoint_if_cancelled()


def attempting(execute: Execute, timeout: float | None, given_up: GivenUp) -> AttemptAt:
    """Give attempts by an engine that are cancelled when their time is up.

    One that returns later than that all the same has failed too: what it did may be half done.
    """

    async def attempt_at(given: Any) -> object:
        attempt = Attempt(timeout)
        try:
            with attempt.scope:
                result = await execute(given, attempt)
                if not attempt.scope.cancel_called:
                    return result
        except trio.Cancelled:
            if attempt.ended is not None:
                await given_up.wait(given, attempt.ended)  # noqa: ASYNC102 - it can't be stopped
            raise
        message = f"the handler took longer than {timeout:g} s (handler_timeout)"
        if attempt.ended is None:
            raise HandlerTimeoutError(message)
        raise OverrunError(message, given, attempt.ended)

    return attempt_at


def waiting(execute: Execute) -> Execute:
    """Have the time stand still until the engine begins."""

    async def wait_and_execute(given: Any, attempt: Attempt) -> object:
        attempt.waits()
        return await execute(given, attempt)

    return wait_and_execute
