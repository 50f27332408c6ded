"""From the samples of several members to one outcome."""

from __future__ import annotations

import attrs
import pytest
from benchmarks.outcomes import OUTCOME

from benchmarks.own.samples import Sample, combined, when_done

FIRST = [Sample(10.0, 0, 1.0), Sample(11.0, 40, 1.5), Sample(12.0, 60, 2.0), Sample(13.0, 60, 2.1)]
SECOND = [Sample(10.5, 0, 0.5), Sample(11.5, 30, 1.0), Sample(12.5, 40, 1.25)]


def test_members_together() -> None:
    """They begin with the first and end with the last that did anything; what they used and held adds up."""
    outcome = combined([(FIRST, OUTCOME), (SECOND, attrs.evolve(OUTCOME, order_violations=2))], missing=3)
    assert (outcome.records, outcome.seconds, outcome.missing, outcome.order_violations) == (100, 2.5, 3, 2)
    assert (outcome.warm_records, outcome.warm_seconds) == (50, 1.0)
    assert outcome.cpu_seconds == pytest.approx(1.0 + 0.75)
    assert outcome.peak_rss_mb == 100.0
    assert outcome.figures == {"smallest_share": 0.4}
    assert outcome.settings == {"members": "2"}


def test_when_so_many_were_done() -> None:
    """The moment is that of the sample with which all of them together had done them."""
    assert [when_done([FIRST, SECOND], count) for count in (40, 41, 70, 71, 100)] == [11.0, 11.5, 11.5, 12.0, 12.5]
    with pytest.raises(LookupError):
        when_done([FIRST, SECOND], 101)
