"""A function that tells where it is called, and time that passes only where it says so."""

from __future__ import annotations

import threading
from typing import Any

import trio

HANG = 60


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Function:
    """A function that notes where it is called, takes as long as it is told, and blocks while it is held."""

    def __init__(self, clock: Clock) -> None:
        self.takes = 0.0
        self.error: Exception | None = None
        self.were_inline: list[bool] = []
        self.running = 0
        self.peak = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._may_go = threading.Event()
        self._may_go.set()

    def __call__(self, data: Any = None, _context: object = None) -> Any:
        with self._lock:
            self.were_inline.append(threading.current_thread() is threading.main_thread())
            self.running += 1
            self.peak = max(self.peak, self.running)
        assert self._may_go.wait(HANG)
        with self._lock:
            self.running -= 1
            self._clock.now += self.takes
        if self.error is not None:
            raise self.error
        return data

    def hold(self) -> None:
        self._may_go.clear()

    def let_go(self) -> None:
        self._may_go.set()

    async def wait_until_running(self, count: int = 1) -> None:
        with trio.fail_after(HANG):
            while self.running < count:
                await trio.sleep(0.001)
