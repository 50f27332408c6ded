"""Calls serialisers and deserialisers, which are sync functions and may block, without blocking the Trio loop.

Theory of operation
-------------------

A call in a thread costs 200 us and more, one on the spot 1 us. Most are quick, but not always:
confluent-kafka's ask a schema registry over HTTP when they first see a schema, and not again. So calls are told apart
by *kind*, which is whatever makes the function do something new: the topic, and the schema that the data names. A
kind's first call is made in a thread; others of that kind wait for it rather than asking the same again. Once a call
has succeeded within ``QUICK`` seconds, the kind is *quick*, and its calls are made on the spot. They are timed, too:
one that takes longer means that what they relied on has gone (an expired cache, a store that got slow), and no kind
counts as quick any more.

The first call that blocks unannounced thus holds the loop up. What may block at any call is to be wrapped in
:class:`InThread`.

A thread can't be killed, and none is left behind: who is cancelled while the function runs waits for it to return,
as with a handler that sits in a thread. So at most ``THREADS`` of them run, and all have ended when their callers have.
"""

from __future__ import annotations

import enum
import functools
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Generic, ParamSpec, TypeVar

import attrs
import trio
from confluent_kafka.serialization import SerializationContext

P = ParamSpec("P")
R = TypeVar("R")
Given = TypeVar("Given")
Made = TypeVar("Made")

QUICK: Final = 0.001
"""Seconds: a function that takes less may run on the Trio thread."""

THREADS: Final = 4
"""How many calls of one conversion may run in threads at once."""

MAX_KINDS: Final = 256
"""How many kinds are remembered; fewer than the registry's client remembers schemas (1,000)."""

never_in_threads: Final[ContextVar[bool]] = ContextVar("never_in_threads", default=False)
"""Asked when a conversion is made: true where time is virtual, which goes on while a thread is waited for."""


@attrs.frozen
class Inline(Generic[Given, Made]):
    """Wraps a serialiser or deserialiser that never blocks: it is always called on the Trio thread.

    For functions that only compute.

    Args:
        function: the serialiser or deserialiser.
    """

    function: Callable[[Given, SerializationContext], Made]

    def __call__(self, data: Given, context: SerializationContext) -> Made:
        """Call the function."""
        return self.function(data, context)


@attrs.frozen
class InThread(Generic[Given, Made]):
    """Wraps a serialiser or deserialiser that may block at any call: it is always called in a thread.

    For functions that ask a server about single records, or whose cache of schemas expires. Each call costs about
    0.2 ms, and at most four run at once.

    Args:
        function: the serialiser or deserialiser.
    """

    function: Callable[[Given, SerializationContext], Made]

    def __call__(self, data: Given, context: SerializationContext) -> Made:
        """Call the function."""
        return self.function(data, context)


class Place(enum.Enum):
    """Where a function is called."""

    ADAPTIVE = enum.auto()
    INLINE = enum.auto()
    THREAD = enum.auto()


def place_of(*functions: Callable[..., Any] | None) -> Place:
    """Where to call a function that calls these, each of which may be ``None``."""
    given = [function for function in functions if function is not None]
    if any(isinstance(function, InThread) for function in given):
        return Place.THREAD
    return Place.INLINE if all(isinstance(function, Inline) for function in given) else Place.ADAPTIVE


class Conversion(Generic[P, R]):
    """A sync function as an async one that doesn't block the loop.

    Args:
        function: what to call. It is called by several threads at once.
        place: where.
    """

    def __init__(self, function: Callable[P, R], place: Place = Place.ADAPTIVE) -> None:
        self._function: Final = function
        self._place: Final = Place.INLINE if never_in_threads.get() else place
        self._is_quick: Final[dict[Hashable, bool]] = {}
        self._first_calls: Final[dict[Hashable, trio.Event]] = {}
        self._turns: Final = trio.Semaphore(THREADS)
        self._limiter: Final = trio.CapacityLimiter(THREADS)

    async def __call__(self, kind: Hashable, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function; whatever it raises leaves.

        Args:
            kind: what calls have in common that are as quick as each other.
            args: passed on.
            kwargs: passed on.

        **Cancellation.** Before the function is called, nothing has happened. While it runs in a thread, it is waited
        for; then the cancellation leaves. A call on the spot is no checkpoint.
        """
        if self._place is Place.INLINE or self._is_quick.get(kind):
            return self._call_here(*args, **kwargs)  # noqa: ASYNC910 - a checkpoint costs more than most functions
        while kind in self._first_calls:
            await self._first_calls[kind].wait()
        if kind in self._is_quick:
            return await self._call_in_turn(kind, *args, **kwargs)
        with self._first_call(kind):
            return await self._call_in_turn(kind, *args, **kwargs)

    def _call_here(self, *args: P.args, **kwargs: P.kwargs) -> R:
        started = time.perf_counter()
        try:
            return self._function(*args, **kwargs)
        finally:
            if time.perf_counter() - started >= QUICK:
                self._is_quick.clear()

    @contextmanager
    def _first_call(self, kind: Hashable) -> Iterator[None]:
        has_ended = self._first_calls[kind] = trio.Event()
        try:
            yield
        finally:
            del self._first_calls[kind]
            has_ended.set()

    async def _call_in_turn(self, kind: Hashable, /, *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turns:
            if self._is_quick.get(kind):  # by now
                return self._call_here(*args, **kwargs)
            return await self._call_in_thread(kind, functools.partial(self._function, *args, **kwargs))

    async def _call_in_thread(self, kind: Hashable, call: Callable[[], R]) -> R:
        def timed() -> tuple[R, float]:
            started = time.perf_counter()
            result = call()
            return result, time.perf_counter() - started

        self._note(kind, is_quick=False)  # and so it stays if the call fails, which says nothing of the next
        result, seconds = await trio.to_thread.run_sync(timed, limiter=self._limiter)
        self._note(kind, is_quick=seconds < QUICK and self._place is Place.ADAPTIVE)
        await trio.lowlevel.checkpoint_if_cancelled()
        return result

    def _note(self, kind: Hashable, *, is_quick: bool) -> None:
        if kind not in self._is_quick and len(self._is_quick) == MAX_KINDS:
            del self._is_quick[next(iter(self._is_quick))]
        self._is_quick[kind] = is_quick
