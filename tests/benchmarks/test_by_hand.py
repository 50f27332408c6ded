"""What consumers written by hand are measured with."""

from __future__ import annotations

import attrs
import pytest
from benchmarks.outcomes import JOB

from benchmarks.peers.by_hand import PATIENCE, Offsets, StallGuard, buffered, check_options


def test_commit_position_is_the_first_open_offset() -> None:
    """What is done above an open record isn't committed."""
    offsets = Offsets()
    for offset in (3, 4, 5):
        offsets.opened(0, offset)
    offsets.completed(0, 3)
    offsets.completed(0, 5)
    assert offsets.take_commit() == {0: 4}


def test_commit_position_is_the_end_when_all_is_done() -> None:
    """Then it is the next offset to read, also behind a gap."""
    offsets = Offsets()
    for offset in (3, 7):
        offsets.opened(1, offset)
        offsets.completed(1, offset)
    assert offsets.take_commit() == {1: 8}


def test_only_what_has_moved_is_committed() -> None:
    """A partition in which nothing was completed since isn't committed again."""
    offsets = Offsets()
    for partition in (0, 1):
        offsets.opened(partition, 0)
        offsets.opened(partition, 1)
        offsets.completed(partition, 0)
    assert offsets.take_commit() == {0: 1, 1: 1}
    offsets.completed(1, 1)
    assert offsets.take_commit() == {1: 2}


def test_stall_guard_allows_pauses() -> None:
    """Progress, however slow, isn't a stall."""
    times = iter([100.0, 100.0 + PATIENCE, 101.0 + PATIENCE, 101.0 + 2 * PATIENCE])
    counts = iter([0, 0, 1, 1])
    check = StallGuard(lambda: next(counts), 2, lambda: next(times))
    for _ in range(4):
        check()


def test_stall_guard_ends_a_run_in_which_nothing_happens() -> None:
    """It says how far the run got."""
    times = iter([0.0, PATIENCE + 1.0])
    check = StallGuard(lambda: 1, 2, lambda: next(times))
    check()
    with pytest.raises(TimeoutError, match="handled 1 of 2, then nothing more for 30 s"):
        check()


def test_buffer_is_large_enough_for_all_handlers() -> None:
    """More handlers at once get more records to choose from, unless the job names a number."""
    many = attrs.evolve(JOB, concurrency=10_000)
    assert buffered(JOB, 2_000) == 2_000
    assert buffered(many, 2_000) == 40_000
    assert buffered(attrs.evolve(many, options={"buffered": 500}), 2_000) == 500


def test_unknown_option_is_refused() -> None:
    """A misspelt option doesn't go unnoticed."""
    check_options({"batch": 1}, "batch", "buffered")
    with pytest.raises(ValueError, match="bufferd"):
        check_options({"batch": 1, "bufferd": 1}, "batch", "buffered")
