"""Cases for guarantees: a history written by hand, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from testing.script import Script

from trio_parallel_kafka.testing.guarantee import Guarantee

Writes = Callable[[Script], None]


@attrs.frozen
class Case:
    """A history that a guarantee is held against; ``message``: how its violation begins, empty if there is none."""

    write: Writes
    guarantee: type[Guarantee]
    options: dict[str, Any]
    message: str

    def check(self) -> None:
        script = Script()
        self.write(script)
        guarantee = self.guarantee(script.history, **self.options)
        violation = guarantee.violation()
        assert guarantee.is_held == (violation is None)
        if violation is None:
            assert not self.message
        else:
            assert self.message, violation
            assert str(violation).startswith(f"{self.guarantee.__name__} doesn't hold: {self.message}")
            assert violation.guarantee == self.guarantee.__name__


class Cases:
    """Collects them, by decorators; ``params`` for :func:`pytest.mark.parametrize`."""

    def __init__(self) -> None:
        self.params: list[Any] = []

    def held(self, guarantee: type[Guarantee], **options: Any) -> Callable[[Writes], None]:
        """A history in which nothing breaks the guarantee."""
        return self.broken(guarantee, "", **options)

    def broken(self, guarantee: type[Guarantee], message: str, **options: Any) -> Callable[[Writes], None]:
        """A history that breaks the guarantee, and what is said of it."""

        def keep(write: Writes) -> None:
            case = Case(write, guarantee, options, message)
            self.params.append(pytest.param(case, id=f"{guarantee.__name__}-{write.__name__.strip('_')}"))

        return keep
