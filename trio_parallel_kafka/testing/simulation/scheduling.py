"""Trio's scheduler, and all other chance in a run, by a seed.

Trio runs tasks that are ready at once in an order that it draws from a generator of its own, so that nobody relies on
it. The generator, and the switch that makes all else of that order reproducible, are private names of Trio; a test
guards that they still do what is said here.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
from trio._core import _run

T = TypeVar("T")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have the runs within the block take the same course each time.

    What remains to chance is the order of sets of strings: it is fixed by the environment variable
    ``PYTHONHASHSEED``, at the start of Python.

    Args:
        seed: Which course.
    """
    scheduler, chance, was_fixed = _run._r.getstate(), random.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001 - see above
    _run._r.seed(seed)  # noqa: SLF001
    random.seed(seed)
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # noqa: SLF001
    try:
        yield
    finally:
        _run._r.setstate(scheduler)  # noqa: SLF001
        random.setstate(chance)
        _run._ALLOW_DETERMINISTIC_SCHEDULING = was_fixed  # type: ignore[misc]  # noqa: SLF001


def simulate(main: Callable[..., Awaitable[T]], *args: Any, seed: int = 0) -> T:
    """Run ``main(*args)`` in virtual time, with a seeded scheduler; return what it returns.

    Time passes only while every task sleeps, and then at once.

    Args:
        main: The async function.
        args: Its arguments.
        seed: See :func:`seeded`.

    Raises:
        BaseException: What ``main`` raises, with a note that names the seed.
    """
    from trio.testing import MockClock  # noqa: PLC0415 - it imports pytest, which only who simulates has to pay for

    try:
        with seeded(seed):
            return trio.run(main, *args, clock=MockClock(autojump_threshold=0))
    except BaseException as error:
        error.add_note(f"simulated with seed {seed}")
        raise
