"""How long to wait before a member is started again."""

from __future__ import annotations

from typing import Final

import attrs

_HIGHEST_POWER: Final = 30  # beyond any bound that makes sense


@attrs.frozen
class RestartPolicy:
    """Delays that double, spread at random so that members that fell together don't come back together.

    Attributes:
        first: seconds before the first restart, at most.
        longest: seconds before any restart, at most.
        well_after: seconds that a member has to run for its next failure to count as the first.
    """

    first: float = 1.0
    longest: float = 30.0
    well_after: float = 60.0

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait.

        Args:
            failures: how many there were in a row, from 1.
            chance: a random number from 0 to 1.
        """
        whole: float = min(self.longest, self.first * 2.0 ** min(failures - 1, _HIGHEST_POWER))
        return whole * (1 + chance) / 2
