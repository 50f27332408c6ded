"""When the client is asked for more records.

What is fetched before a worker is free for it costs memory, and time too: all of it is looked at by each full garbage
collection, and is out of the processor's caches when its turn comes. With 5 ms handlers, buffers filled up to the flow
control's bound made a record a third dearer. So while all workers are busy and have enough to go on with, the next
batch isn't asked for, for up to :data:`PACE` seconds: a partition behind the others still fills up in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from trio_parallel_kafka.control.client import Client, Event, Fetched

PACE: Final = 0.2
"""Seconds between two batches, at most, while there is enough to do."""

LOOK_AGAIN: Final = 0.002
"""Seconds between two looks whether there is."""


class Intake:
    """Waits for the client's events, and asks for the next batch.

    Args:
        client: the port.
        has_enough: says whether workers have enough to go on with.
    """

    def __init__(self, client: Client, has_enough: Callable[[], bool]) -> None:
        self._client: Final = client
        self._has_enough: Final = has_enough
        self._last: Fetched | None = None
        self._pause = trio.CancelScope()
        self._ask_by = 0.0

    async def next_event(self) -> Event:
        """Wait for what happens next; whoever comes back has taken the last batch."""
        while self._last is not None:
            if self._has_enough() and trio.current_time() < self._ask_by:
                with trio.move_on_after(LOOK_AGAIN) as self._pause:
                    return self._noted(await self._client.next_event())
            else:
                self._last.taken()
                self._last = None
        return self._noted(await self._client.next_event())

    def look_again(self) -> None:
        """A worker has nothing to do: look whether there is enough."""
        self._pause.cancel()

    def _noted(self, event: Event) -> Event:
        if isinstance(event, Fetched):
            self._last = event
            self._ask_by = trio.current_time() + PACE
        return event
