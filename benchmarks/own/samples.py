"""How far members got, and when: from the samples of each to one outcome for all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import attrs

from benchmarks.job import Outcome


@attrs.frozen
class Sample:
    """A member at one moment.

    Attributes:
        at: seconds on the clock that all processes share.
        done: records handled by then.
        cpu: seconds used by then.
    """

    at: float
    done: int
    cpu: float


def combined(members: Sequence[tuple[Sequence[Sample], Outcome]], missing: int) -> Outcome:
    """What the members did together, from the first handler's start until the last sample that had more than before.

    Args:
        members: samples and outcome of each that handled anything; its first sample is of its first handler's start.
        missing: records that none of them has committed.
    """
    series = [samples for samples, _ in members]
    outcomes = [outcome for _, outcome in members]
    done = sum(samples[-1].done for samples in series)
    begins = min(samples[0].at for samples in series)
    ends = max(_end(samples).at for samples in series)
    half = when_done(series, done // 2)
    return Outcome(
        records=done,
        seconds=ends - begins,
        warm_records=done - done // 2,
        warm_seconds=ends - half,
        cpu_seconds=sum(_end(samples).cpu - samples[0].cpu for samples in series),
        peak_rss_mb=sum(each.peak_rss_mb for each in outcomes),
        order_violations=sum(each.order_violations for each in outcomes),
        missing=missing,
        peak_concurrency=sum(each.peak_concurrency for each in outcomes),
        versions=outcomes[0].versions,
        settings={**outcomes[0].settings, "members": str(len(members))},
        figures={"smallest_share": min(samples[-1].done for samples in series) / max(done, 1)},
    )


def when_done(series: Sequence[Sequence[Sample]], count: int) -> float:
    """When all of them together had done so many."""
    events = sorted((later.at, later.done - earlier.done) for samples in series for earlier, later in pairwise(samples))
    total = 0
    for at, more in events:
        total += more
        if total >= count:
            return at
    raise LookupError(f"never {count}")


def _end(samples: Sequence[Sample]) -> Sample:
    """The first sample in which all was done."""
    return next(each for each in samples if each.done == samples[-1].done)


def sample_of(plain: dict[str, Any]) -> Sample:
    """Read one from JSON data."""
    return Sample(plain["at"], plain["done"], plain["cpu"])
