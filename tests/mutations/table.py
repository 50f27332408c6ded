"""Ways to break the package, each of which the simulation has to find."""

from __future__ import annotations

from typing import Final

from mutations.in_control import IN_CONTROL
from mutations.in_core import IN_CORE
from mutations.in_execution import IN_EXECUTION

MUTANTS: Final = (*IN_CORE, *IN_CONTROL, *IN_EXECUTION)
"""All of them. One that no schedule could ever find, for nothing is broken by it, has no place here."""
