"""The offset tracker against sets of offsets."""

from __future__ import annotations

from typing import Literal

import pytest
from core.kit import to_offsets, to_ranges
from hypothesis import example, given, strategies as st

from trio_parallel_kafka.core.tracker import OffsetTracker, OffsetWentBackError

Operation = tuple[Literal["seen", "complete", "skip", "replace"], int]

small = st.integers(0, 30)
operations = st.lists(st.tuples(st.sampled_from(["seen", "seen", "complete", "skip", "replace"]), small), max_size=40)


class NaiveTracker:
    """Remembers every offset there ever was."""

    def __init__(self, position: int, completed: set[int]) -> None:
        self.start = position
        self.inherited = completed
        self.read_to = position
        self.incomplete: dict[int, str] = {}

    @property
    def position(self) -> int:
        return min(self.incomplete, default=self.read_to)

    @property
    def completed_above(self) -> set[int]:
        read = set(range(self.position, self.read_to)) - set(self.incomplete)
        return read | {offset for offset in self.inherited if offset >= self.read_to}


def state(tracker: OffsetTracker[str]) -> tuple[object, ...]:
    """All that a tracker says."""
    return tracker.position, tracker.next_offset, len(tracker), tracker.oldest, tracker.completed_above()


def see(tracker: OffsetTracker[str], model: NaiveTracker, offset: int) -> None:
    """Deliver an offset to both, and compare the answers."""
    before = state(tracker)
    if offset < model.read_to:
        with pytest.raises(OffsetWentBackError, match=f"offset {offset} came after offset {model.read_to - 1}"):
            tracker.seen(offset, "again")
        assert state(tracker) == before
        return
    item = f"record {offset}"
    assert tracker.seen(offset, item) is (offset not in model.inherited)
    model.read_to = offset + 1
    if offset not in model.inherited:
        model.incomplete[offset] = item


def complete(tracker: OffsetTracker[str], model: NaiveTracker, offset: int) -> None:
    """Complete an offset in both, and compare the answers."""
    if offset in model.incomplete:
        assert tracker.complete(offset) == model.incomplete.pop(offset)
        return
    before = state(tracker)
    with pytest.raises(KeyError):
        tracker.complete(offset)
    assert state(tracker) == before


def skip(tracker: OffsetTracker[str], model: NaiveTracker, offset: int) -> None:
    """Tell both that nothing is left below an offset."""
    tracker.skip_to(offset)
    model.read_to = max(model.read_to, offset)


def replace(tracker: OffsetTracker[str], model: NaiveTracker, offset: int) -> None:
    """Put another item in place of an incomplete one's, and compare the answers."""
    if offset in model.incomplete:
        model.incomplete[offset] += " again"
        tracker.replace(offset, model.incomplete[offset])
        return
    before = state(tracker)
    with pytest.raises(AssertionError):
        tracker.replace(offset, "from nowhere")
    assert state(tracker) == before


ACTS = {"seen": see, "complete": complete, "skip": skip, "replace": replace}


@given(position=st.integers(0, 10), inherited=st.sets(small, max_size=20), steps=operations)
@example(position=0, inherited=set(), steps=[])
@example(position=0, inherited={0, 1}, steps=[])  # the first map may begin at the position itself
@example(position=0, inherited={2}, steps=[("seen", 0), ("seen", 1), ("complete", 1)])  # own and inherited touch
@example(position=0, inherited={1, 2}, steps=[("seen", 0), ("seen", 1), ("complete", 0)])  # half of a range is read
@example(position=0, inherited={2, 3, 6}, steps=[("seen", 0), ("seen", 3), ("seen", 6)])  # gaps within ranges
@example(position=0, inherited={3, 4}, steps=[("seen", 0), ("skip", 4)])  # the log's end lies within a range
@example(position=5, inherited=set(), steps=[("seen", 4)])
@example(position=5, inherited=set(), steps=[("skip", 4), ("seen", 5)])
@example(position=0, inherited=set(), steps=[("seen", 0), ("seen", 1), ("replace", 0)])  # it stays the oldest
def test_tracker_matches_sets_of_offsets(position: int, inherited: set[int], steps: list[Operation]) -> None:
    """Position, map, what is to be handled, and each refusal follow from plain sets; a refusal changes nothing."""
    inherited = {offset for offset in inherited if offset >= position}
    tracker: OffsetTracker[str] = OffsetTracker(position, to_ranges(inherited))
    model = NaiveTracker(position, inherited)
    for name, offset in steps:
        ACTS[name](tracker, model, offset)
        assert tracker.next_offset == model.read_to
        assert tracker.position == model.position
        assert len(tracker) == len(model.incomplete)
        assert tracker.oldest == model.incomplete.get(model.position)
        assert tracker.completed_above() == to_ranges(model.completed_above)
        assert {each for each in range(35) if each in tracker} == set(model.incomplete)


@given(position=st.integers(0, 10), inherited=st.sets(small, max_size=20), steps=operations, log=st.sets(small))
@example(position=0, inherited={2}, steps=[("seen", 0), ("seen", 1), ("complete", 1)], log={0, 1, 2, 3})
def test_hand_over_offers_exactly_the_rest(
    position: int, inherited: set[int], steps: list[Operation], log: set[int]
) -> None:
    """A tracker that starts from another's position and map asks for what that one hadn't completed, and no more."""
    inherited = {offset for offset in inherited if offset >= position}
    first: OffsetTracker[str] = OffsetTracker(position, to_ranges(inherited))
    model = NaiveTracker(position, inherited)
    for name, offset in steps:
        ACTS[name](first, model, offset)
    second: OffsetTracker[str] = OffsetTracker(first.position, first.completed_above())
    rest = sorted({offset for offset in log if offset >= first.position} | set(model.incomplete))
    offered = {offset for offset in rest if second.seen(offset, "")}
    assert offered == set(model.incomplete) | {
        offset for offset in log if offset >= first.next_offset and offset not in inherited
    }


@given(completed=st.sets(small), seen=st.sets(small, min_size=1))
def test_map_has_the_form_that_a_commit_needs(completed: set[int], seen: set[int]) -> None:
    """Ranges are never empty, never touch, and lie at or above the position."""
    tracker: OffsetTracker[str] = OffsetTracker(0, to_ranges(offset for offset in completed if offset > max(seen)))
    for offset in sorted(seen):
        tracker.seen(offset, "")
    for offset in seen & completed:
        tracker.complete(offset)
    ranges = tracker.completed_above()
    lowest = tracker.position
    for start, end in ranges:
        assert lowest <= start < end
        lowest = end + 1
    assert not to_offsets(ranges) & (seen - completed)


def test_log_without_records_leaves_nothing_to_commit_twice() -> None:
    """Markers at a log's end move the position there once, whatever is told of it again."""
    tracker: OffsetTracker[str] = OffsetTracker(7)
    tracker.skip_to(9)
    tracker.skip_to(8)
    assert (tracker.position, tracker.next_offset, tracker.completed_above()) == (9, 9, ())
