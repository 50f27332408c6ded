"""Whether a quantity that was sampled over time grows: a straight line through it, and how sure its slope is."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import attrs

HOUR: Final = 3600.0
FEWEST: Final = 8
"""Samples below which nothing is said."""

_DEVIATIONS: Final = 1.96
"""Standard errors on either side of the slope within which the true one is in 95 of 100 cases."""


class Verdict(enum.StrEnum):
    FLAT = "flat"
    """It surely grows no faster than is tolerated."""
    GROWS = "GROWS"
    """It surely does."""
    UNCLEAR = "unclear"
    """A longer run would tell."""


@attrs.frozen
class Trend:
    """A straight line by least squares.

    Attributes:
        mean: of the values.
        slope: how much it grows in an hour.
        margin: how far off the slope may be, with a confidence of 95 %.
        samples: how many there were.
    """

    mean: float
    slope: float
    margin: float
    samples: int

    def verdict(self, tolerated: float) -> Verdict:
        """Judge by how much it may grow in an hour."""
        if self.slope - self.margin > tolerated:
            return Verdict.GROWS
        return Verdict.FLAT if self.slope + self.margin <= tolerated else Verdict.UNCLEAR


def trend_of(samples: Sequence[tuple[float, float]]) -> Trend | None:
    """Find the trend in pairs of seconds and value; ``None`` if they are too few.

    Neighbours are alike: memory that was taken stays taken for a while. So a hundred samples tell less than a hundred
    independent ones would, and the margin is made wider by as much as what is left beside the line has of that.
    """
    count = len(samples)
    if count < FEWEST:
        return None
    middle = math.fsum(at for at, _ in samples) / count
    mean = math.fsum(value for _, value in samples) / count
    spread = math.fsum((at - middle) ** 2 for at, _ in samples)
    slope = math.fsum((at - middle) * (value - mean) for at, value in samples) / spread
    beside = [value - mean - slope * (at - middle) for at, value in samples]
    squares = math.fsum(each**2 for each in beside)
    alike = math.fsum(first * second for first, second in pairwise(beside)) / squares if squares else 0.0
    alike = min(max(alike, 0.0), 0.99)
    independent = max(count * (1 - alike) / (1 + alike) - 2, 1.0)
    error = math.sqrt(squares / independent / spread)
    return Trend(mean, slope * HOUR, _DEVIATIONS * error * HOUR, count)
