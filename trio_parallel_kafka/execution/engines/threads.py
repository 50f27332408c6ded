"""Plain handlers in threads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, cast

import trio

from trio_parallel_kafka.errors import InvalidHandlerError
from trio_parallel_kafka.execution.engine import AnyHandler, Attempt, Execute, ExecutionEngine
from trio_parallel_kafka.execution.engines.handlers import imported, is_async, made
from trio_parallel_kafka.statistics import EngineStatistics


class ThreadEngine(ExecutionEngine):
    """Calls handlers in threads of Trio's, under a limit of its own.

    A thread can't be killed. One whose call was cancelled goes on, counts against the limit until it ends, and what
    it returns is dropped. Within it, :func:`trio.from_thread.check_cancelled` tells a handler that it was given up.

    Args:
        threads: how many there may be at once.
    """

    mode: str = "thread"

    def __init__(self, threads: int) -> None:
        self._threads: Final = threads
        self._limiter: trio.CapacityLimiter | None = None

    def open(self, handler: AnyHandler | str) -> AbstractAsyncContextManager[Execute]:
        handler = imported(handler)
        if is_async(handler) or not callable(handler):
            raise InvalidHandlerError(
                f"in execution_mode='thread' the handler has to be a plain function (def handle(...): ...), not "
                f"{handler!r}; for async ones leave the mode out"
            )
        return self._opened(handler)

    @asynccontextmanager
    async def _opened(self, handler: AnyHandler) -> AsyncIterator[Execute]:
        self._limiter = limiter = trio.CapacityLimiter(self._threads)

        def call(given: Any) -> object:
            return made(handler(given))

        async def execute(given: Any, attempt: Attempt) -> object:
            seat = _Seat(limiter, attempt)
            try:
                return await trio.to_thread.run_sync(
                    call, given, abandon_on_cancel=True, limiter=cast("trio.CapacityLimiter", seat)
                )
            except trio.Cancelled:
                if seat.is_taken:
                    attempt.goes_on_until(seat.left)
                raise

        yield execute

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(mode=self.mode, busy=self._limiter.borrowed_tokens if self._limiter else 0)


class _Seat:
    """A place under a limit. :func:`trio.to_thread.run_sync` takes it, and leaves it when the thread has ended."""

    def __init__(self, limiter: trio.CapacityLimiter, attempt: Attempt) -> None:
        self._limiter: Final = limiter
        self._attempt: Final = attempt
        self.is_taken: bool = False
        self.left: Final = trio.Event()

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        self.is_taken = True
        self._attempt.started()

    def release_on_behalf_of(self, borrower: object) -> None:
        self._limiter.release_on_behalf_of(borrower)
        self.is_taken = False
        self.left.set()
