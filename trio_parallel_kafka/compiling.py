"""What the sources say to the compiler; to Python it means nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr as mypyc_attr
else:
    Class = TypeVar("Class", bound=type)

    def mypyc_attr(**_attributes: Any) -> Callable[[Class], Class]:
        """Give a class as it is; compiled, with these attributes (see mypyc's documentation)."""
        return lambda given: given
