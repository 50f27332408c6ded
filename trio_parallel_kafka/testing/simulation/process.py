"""A process of the simulation: what is opened in it ends with it, and nobody is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

import trio


class Killable(Protocol):
    """A client, of whatever kind."""

    def kill(self) -> None:
        """End at once; nothing reaches the broker any more."""


class SimulatedProcess:
    """Runs a part of an application, until that returns or the process is killed.

    Attributes:
        is_dead: whether it was killed.
    """

    def __init__(self) -> None:
        self.is_dead: bool = False
        self._clients: Final[list[Killable]] = []
        self._scope: Final = trio.CancelScope()

    async def run(self, main: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Run ``main(*args)``; each consumer and producer opened in it belongs to this process.

        Once it is killed, what ``main`` still does reaches nobody: it is cancelled, and what it raises is dropped.

        Raises:
            Exception: what ``main`` raises while the process lives.
        """
        token = current_process.set(self)
        try:
            with self._scope:
                await main(*args)
        except Exception:
            if not self.is_dead:
                raise
        finally:
            current_process.reset(token)

    def kill(self) -> None:
        """As ``kill -9``: its clients are cut off, its group learns of it when the session is over."""
        self.is_dead = True
        for client in self._clients:
            client.kill()
        self._scope.cancel()

    def adopt(self, client: Killable) -> None:
        """Have a client end with this process."""
        self._clients.append(client)
        if self.is_dead:
            client.kill()


current_process: Final[ContextVar[SimulatedProcess | None]] = ContextVar("current_process", default=None)
"""The process that the running task is a part of, if it is one."""
