"""What runs handlers: the interface of execution engines.

An engine knows nothing of lanes, retries, deadlines and commits. It is given records, one call each, and answers each
call when its handler has ended. All else is done outside it, by what every engine can do: be called, and be cancelled.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, TypeAlias

import trio

from trio_parallel_kafka.statistics import EngineStatistics

AnyHandler: TypeAlias = Callable[[Any], Any]
"""A handler of records or of batches, async or not."""


class Attempt:
    """One attempt at handling, made by the consumer for an engine to say how far it is.

    Attributes:
        timeout: ``handler_timeout``: seconds from :meth:`started` on after which the call is cancelled, or ``None``.
        scope: what cancels the call then.
        ended: set once what couldn't be stopped has ended; ``None`` while there is no such thing.
    """

    __slots__ = ("ended", "scope", "timeout")

    def __init__(self, timeout: float | None) -> None:
        self.timeout: Final = timeout
        self.scope: Final = trio.CancelScope()
        self.ended: trio.Event | None = None
        self.started()

    def waits(self) -> None:
        """It waits for its turn; its time doesn't run."""
        if self.timeout is not None:
            self.scope.deadline = math.inf

    def started(self, seconds_ago: float = 0.0) -> None:
        """The handler has begun: its time runs from then. To be called before the handler can do anything."""
        if self.timeout is not None:
            self.scope.deadline = trio.current_time() + self.timeout - seconds_ago

    def goes_on_until(self, ended: trio.Event) -> None:
        """The call was cancelled, but the handler goes on: nothing of its lane starts before ``ended`` is set."""
        self.ended = ended


class Execute(Protocol):
    """Calls the handler, wherever the engine runs it."""

    async def __call__(self, given: Any, attempt: Attempt) -> object:
        """Return what the handler returns, and raise what it raises.

        **Cancellation.** The result isn't wanted any more: the time is up, the partition is taken away, or the
        consumer ends. Stop the handler and raise once it has ended. If it can't be stopped, tell ``attempt`` and
        raise at once.
        """


class ExecutionEngine(abc.ABC):
    """Runs handlers. Make one of your own, and pass it to ``run(handler, engine=...)``.

    Attributes:
        mode: its name, for :meth:`statistics`.
    """

    mode: str = "custom"

    @abc.abstractmethod
    def open(self, handler: AnyHandler | str) -> AbstractAsyncContextManager[Execute]:
        """Be ready to run ``handler`` for the length of a block; nothing of it outlives the block.

        It may be called from many tasks at once, ``max_concurrency`` at most, for records of as many lanes.

        Args:
            handler: a function of a record, or, for ``run_batches``, of a tuple of records; or ``"module:function"``.

        Raises:
            InvalidHandlerError: the engine can't run it. To be raised by this call, not by the block, if that is known.
        """

    def statistics(self) -> EngineStatistics:
        """What there is to say about it at this moment."""
        return EngineStatistics(mode=self.mode)
