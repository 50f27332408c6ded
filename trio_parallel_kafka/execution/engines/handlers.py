"""Which handlers an engine can run."""

from __future__ import annotations

import functools
import inspect
import pkgutil
from typing import cast

from trio_parallel_kafka.errors import InvalidHandlerError
from trio_parallel_kafka.execution.engine import AnyHandler


def is_async(handler: object) -> bool:
    """Whether calling it gives something to await."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004 - its kind matters


def imported(handler: AnyHandler | str) -> AnyHandler:
    """The function that ``"module:function"`` names; a function itself.

    Raises:
        InvalidHandlerError: it isn't there.
    """
    if not isinstance(handler, str):
        return handler
    if ":" not in handler:
        raise InvalidHandlerError(f"a handler is named by 'module:function', not {handler!r}")
    try:
        return cast("AnyHandler", pkgutil.resolve_name(handler))
    except Exception as error:  # a module may raise anything
        raise InvalidHandlerError(
            f"can't import the handler {handler!r}: {type(error).__name__}: {error}; check the spelling, and that "
            "the module can be found from where the program runs"
        ) from error
