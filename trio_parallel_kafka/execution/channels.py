"""Lane buffers as Trio memory channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class LaneChannel(Generic[T]):
    """Both ends of one memory channel. Flow control bounds what is in it, so it needs no bound of its own."""

    __slots__ = ("_receiver", "_sender", "receive_nowait", "send_nowait")

    def __init__(self) -> None:
        self._sender, self._receiver = trio.open_memory_channel[T](math.inf)
        self.send_nowait: Callable[[T], None] = self._sender.send_nowait
        self.receive_nowait: Callable[[], T] = self._receiver.receive_nowait

    def close(self) -> None:
        """Close both ends; what is in it is dropped."""
        self._sender.close()
        self._receiver.close()
