"""The page that a consumer and its worker process share, from both sides."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from engines.process_kit import open_files
from hypothesis import example, given, strategies as st

from trio_parallel_kafka.execution.engines import board as board_module
from trio_parallel_kafka.execution.engines.board import (
    ANSWERED,
    CAPACITY,
    DONE,
    RUNNING,
    SETTLED,
    SKIPPED,
    WAITING,
    join_board,
    open_board,
)
from trio_parallel_kafka.execution.engines.crew import CHUNK_LIMIT
from trio_parallel_kafka.execution.engines.processes import LOOK

SLOWEST: Final = 4
"""Steps of time after which one side's write is seen by the other, at the latest."""

CALLS: Final = 4


def test_each_side_sees_what_the_other_writes() -> None:
    """The consumer sees states, the process sees marks, through two mappings of one memory."""
    with open_board() as (consumer, path):
        process = join_board(path)
        assert process.begin(0)
        assert consumer.state(0) == RUNNING
        process.end(0, DONE)
        assert process.begin(1)
        process.end(1, ANSWERED)
        consumer.mark(2)
        assert not process.begin(2)
        assert [consumer.state(index) for index in range(4)] == [DONE, ANSWERED, SKIPPED, WAITING]
        process.close()


def test_running_call_is_found_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer is told which call the process is on, if any, and since when; never a negative time."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with open_board() as (board, _):
        assert board.running() is None
        board.begin(0)
        board.end(0, DONE)
        assert board.running() is None
        board.begin(1)
        now = 102.5
        assert board.running() == (1, 2.5)
        now = 99.0
        assert board.running() == (1, 0.0)
        board.end(1, ANSWERED)
        assert board.running() is None


def test_marks_are_no_states() -> None:
    """All calls marked, none is taken for running; the last of a chunk has room, too."""
    with open_board() as (board, _):
        for index in range(CAPACITY):
            board.mark(index)
        assert board.running() is None
        assert board.state(CAPACITY - 1) == WAITING
        assert not board.begin(CAPACITY - 1)
        assert board.state(CAPACITY - 1) == SKIPPED


def test_clear_board_knows_nothing() -> None:
    """A new chunk begins without marks or states of the last."""
    with open_board() as (board, _):
        board.mark(3)
        board.begin(0)
        board.clear()
        assert board.running() is None
        assert board.begin(3)


def test_chunks_fit_and_looks_are_late_enough() -> None:
    """A chunk has no more calls than the board; what is marked at one look is settled at the next."""
    assert CHUNK_LIMIT <= CAPACITY
    assert LOOK > SETTLED


@pytest.mark.parametrize("has_memfd", [True, False])
def test_memory_goes_with_its_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, has_memfd: bool) -> None:
    """Neither a file nor a descriptor is left, on systems without anonymous files either."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not has_memfd:
        monkeypatch.delattr(os, "memfd_create")
    before = open_files()
    with open_board() as (board, path):
        other = join_board(path)
        board.mark(7)
        assert not other.begin(7)
        other.close()
        assert len(list(tmp_path.iterdir())) == (0 if has_memfd else 1)
    assert open_files() == before
    assert not list(tmp_path.iterdir())


def test_board_is_let_go_when_its_block_fails() -> None:
    """An error in the block closes the memory, too."""
    before = open_files()
    with pytest.raises(KeyError), open_board():
        raise KeyError
    assert open_files() == before


class View(bytearray):
    """One side's sight of the memory: its own writes at once, the other's some time later, in their order."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(board_module._SIZE)
        self.clock = clock
        self.other: View | None = None
        self.arriving: list[tuple[int, int, int]] = []

    def __setitem__(self, index: Any, value: Any) -> None:
        self.clock.tick(self)
        super().__setitem__(index, value)
        assert self.other is not None
        earliest = max((at for at, _, _ in self.other.arriving), default=0)
        self.other.arriving.append((max(earliest, self.clock.now + self.clock.delay()), index, value))

    def __getitem__(self, index: Any) -> Any:
        self.clock.tick(self)
        for at, where, value in self.arriving:
            if at <= self.clock.now:
                super().__setitem__(where, value)
        return super().__getitem__(index)


class Clock:
    """Steps of time. They pass as the process reads and writes; what the consumer does happens between them."""

    def __init__(self, gaps: list[int], delays: list[int], agenda: list[tuple[int, Callable[[], None]]]) -> None:
        self.now = 0
        self.gaps = iter(gaps)
        self.delays = iter(delays)
        self.agenda = agenda
        self.process: View | None = None

    def tick(self, view: View) -> None:
        if view is self.process:
            self.pass_until(self.now + next(self.gaps, 1))

    def pass_until(self, end: int) -> None:
        while self.agenda and self.agenda[0][0] <= end:
            at, action = self.agenda.pop(0)
            self.now = at
            action()
        self.now = end

    def delay(self) -> int:
        return next(self.delays, 0)


@given(
    gaps=st.lists(st.integers(0, 3 * SLOWEST), min_size=4, max_size=12),
    delays=st.lists(st.integers(0, SLOWEST), max_size=16),
    marked_at=st.integers(0, 20),
    marked=st.sets(st.integers(0, CALLS - 1), min_size=1),
)
@example(gaps=[0, 0], delays=[SLOWEST, SLOWEST], marked_at=0, marked={0})
@example(gaps=[0, 3 * SLOWEST], delays=[], marked_at=1, marked={0})
def test_call_taken_back_is_never_run(gaps: list[int], delays: list[int], marked_at: int, marked: set[int]) -> None:
    """What is marked, and not announced when that has settled, never runs; all else is known to have begun.

    However the two sides' steps mix, and however late each sees the other's writes, up to half of what settling takes.
    """
    taken: set[int] = set()
    ran: set[int] = set()

    def mark() -> None:
        for index in marked:
            consumer.mark(index)

    def look() -> None:
        taken.update(index for index in marked if consumer.state(index) in {WAITING, SKIPPED})

    clock = Clock(gaps, delays, [(marked_at, mark), (marked_at + 2 * SLOWEST, look)])
    views = View(clock), View(clock)
    views[0].other, views[1].other = reversed(views)
    clock.process = views[1]
    with pytest.MonkeyPatch.context() as patch, open_board() as (consumer, _), open_board() as (process, _):
        for board, view in zip((consumer, process), views, strict=True):
            patch.setattr(view, "close", board._memory.close, raising=False)
            patch.setattr(board, "_memory", view)
        for index in range(CALLS):
            if process.begin(index):
                ran.add(index)
                process.end(index, DONE)
        clock.pass_until(clock.now + 100)

    assert not taken & ran
    assert set(range(CALLS)) - marked <= ran
    skipped = {index for index in range(CALLS) if views[1][index + board_module._STATES] == SKIPPED}
    assert skipped == set(range(CALLS)) - ran
