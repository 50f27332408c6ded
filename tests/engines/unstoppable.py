"""An engine of a user's own, in virtual time, whose handlers can't be stopped: as threads can't."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import outcome
import trio

from trio_parallel_kafka import Attempt, Execute, ExecutionEngine


class Unstoppable(ExecutionEngine):
    """Runs each call of an async handler in a task of its own, out of reach of any cancellation."""

    mode = "unstoppable"

    def open(self, handler: Any) -> AbstractAsyncContextManager[Execute]:
        return self._opened(handler)

    @asynccontextmanager
    async def _opened(self, handler: Callable[[Any], Awaitable[object]]) -> AsyncIterator[Execute]:
        async with trio.open_nursery() as nursery:

            async def execute(given: Any, attempt: Attempt) -> object:
                ended = trio.Event()
                results: list[outcome.Outcome[object]] = []

                async def call() -> None:
                    with trio.CancelScope(shield=True):
                        results.append(await outcome.acapture(handler, given))
                    ended.set()

                attempt.started()
                nursery.start_soon(call)
                try:
                    await ended.wait()
                except trio.Cancelled:
                    attempt.goes_on_until(ended)
                    raise
                return results[0].unwrap()

            yield execute
