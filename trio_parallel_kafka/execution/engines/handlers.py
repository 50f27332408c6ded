"""Which handlers an engine can run."""

from __future__ import annotations

import functools
import inspect
import pkgutil
import types
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
        Exception: what its module raises as it is imported, with a note.
    """
    if not isinstance(handler, str):
        return handler
    if ":" not in handler:
        raise InvalidHandlerError(f"a handler is named by 'module:function', not {handler!r}")
    try:
        return cast("AnyHandler", pkgutil.resolve_name(handler))
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise InvalidHandlerError(
            f"can't import the handler {handler!r}: {type(error).__name__}: {error}; check the spelling, and that "
            "the module can be found from where the program runs"
        ) from error
    except Exception as error:
        error.add_note(f"while importing the handler {handler!r}")
        raise


def made(result: object) -> object:
    """What a plain handler has returned; what it yields is made here, where it runs."""
    return tuple(result) if isinstance(result, types.GeneratorType) else result
