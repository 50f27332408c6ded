"""The time, as far as it matters to statistics and lingering."""

from __future__ import annotations

import attrs


@attrs.define
class CoarseClock:
    """Trio's time as of the last batch or look; reading it costs nothing."""

    now: float = 0.0
