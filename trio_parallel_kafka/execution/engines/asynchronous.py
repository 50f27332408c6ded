"""Async handlers in the consumer's own Trio run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from trio_parallel_kafka.errors import InvalidHandlerError
from trio_parallel_kafka.execution.engine import AnyHandler, Attempt, Execute, ExecutionEngine
from trio_parallel_kafka.execution.engines.handlers import imported, is_async


class Direct:
    """Calls an async handler at once, and nothing else.

    Whoever knows that may call :attr:`handler` itself: so a record in async mode costs no call more than its handler.
    """

    def __init__(self, handler: AnyHandler) -> None:
        self.handler: Final = handler

    async def __call__(self, given: Any, attempt: Attempt) -> object:
        attempt.started()
        return await self.handler(given)


class AsyncEngine(ExecutionEngine):
    """Awaits handlers in the worker tasks."""

    mode: str = "async"

    def open(self, handler: AnyHandler | str) -> AbstractAsyncContextManager[Execute]:
        handler = imported(handler)
        if not is_async(handler):
            raise InvalidHandlerError(
                f"the handler has to be an async function (async def handle(...): ...), not {handler!r}; for plain "
                "ones set execution_mode='thread' if they block, or 'process' if they keep a core busy"
            )
        return self._opened(handler)

    @staticmethod
    @asynccontextmanager
    async def _opened(handler: AnyHandler) -> AsyncIterator[Execute]:
        yield Direct(handler)
