"""What a soak has found: a table, and the same for programs to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
from soak.ledger import Faults
from soak.samples import QUANTITIES, Sample
from soak.trends import HOUR, Trend, Verdict, trend_of

WARM_UP: Final = 0.2
"""The part of the time whose samples decide nothing."""

Series = Mapping[str, Sequence[Sample]]


@attrs.frozen
class Finding:
    """One quantity of one process.

    Attributes:
        name: whose.
        quantity: what.
        trend: over the time that decides, or ``None`` where there are too few samples.
        highest: the highest value in that time.
        tolerated: how much it may grow in an hour.
        verdict: what it comes to.
    """

    name: str
    quantity: str
    trend: Trend | None
    highest: float
    tolerated: float
    verdict: Verdict


@attrs.frozen
class Findings:
    """All of a soak.

    Attributes:
        began: when half load began, in seconds on the samples' clock.
        ended: when it ended.
        maximum_rate: records a second when produced as fast as it goes.
        rate: records a second that were produced after that.
        produced: how many there were in all.
        missing: how many weren't done at the end.
        uncommitted: partitions whose end isn't committed.
        faults: what went wrong, over all members.
        series: the samples, by name.
    """

    began: float
    ended: float
    maximum_rate: float
    rate: float
    produced: int
    missing: int
    uncommitted: int
    faults: Faults
    series: Series

    def __iter__(self) -> Iterator[Finding]:
        hours = (1 - WARM_UP) * (self.ended - self.began) / HOUR
        decides_from = self.began + WARM_UP * (self.ended - self.began)
        for name, samples in self.series.items():
            deciding = [each for each in samples if decides_from <= each.at <= self.ended]
            for quantity, kind in QUANTITIES.items():
                points = [(each.at, each.values[quantity] / kind.scale) for each in deciding if quantity in each.values]
                if points:
                    trend = trend_of(points)
                    tolerated = kind.tolerance(0.0 if trend is None else trend.mean, hours)
                    verdict = Verdict.UNCLEAR if trend is None else trend.verdict(tolerated)
                    yield Finding(name, quantity, trend, max(value for _, value in points), tolerated, verdict)

    @property
    def is_sound(self) -> bool:
        """Whether all is done, in order and committed, and nothing grows."""
        is_right = not (self.missing or self.uncommitted or self.faults.out_of_order or self.faults.overlaps)
        return is_right and all(each.verdict is not Verdict.GROWS for each in self)

    def table(self) -> str:
        """In words and columns."""
        minutes = (self.ended - self.began) / 60
        lines = [
            f"{minutes:.1f} minutes at {self.rate:,.0f} records/s, half of the maximum of {self.maximum_rate:,.0f};",
            f"{self.produced:,} records: {self.missing:,} missing, {self.faults.out_of_order:,} out of order,",
            f"{self.faults.overlaps:,} overlaps of a key, {self.faults.replays:,} replayed;",
            f"{self.uncommitted} partitions aren't committed to their end",
            "",
            f"{'who':8} {'what':12} {'mean':>10} {'highest':>10} {'slope per hour':>28} {'tolerated':>11}  verdict",
        ]
        for each in self:
            unit = QUANTITIES[each.quantity].unit
            what = f"{each.quantity}, {unit}" if unit else each.quantity
            mean, slope = "", "too few samples"
            if each.trend is not None:
                mean, slope = f"{each.trend.mean:,.1f}", f"{each.trend.slope:+,.2f} \u00b1 {each.trend.margin:,.2f}"
            figures = f"{mean:>10} {each.highest:>10,.1f} {slope:>28} {each.tolerated:>11,.0f}"
            lines.append(f"{each.name:8} {what:12} {figures}  {each.verdict}")
        return "\n".join(lines)

    def as_mapping(self) -> dict[str, Any]:
        """For JSON; all samples included."""
        return {
            **attrs.asdict(self, filter=lambda attribute, _value: attribute.name != "series"),
            "findings": [{**attrs.asdict(each), "verdict": str(each.verdict)} for each in self],
            "series": {name: [attrs.asdict(each) for each in samples] for name, samples in self.series.items()},
        }
