"""Runs many schedules, on all cores, and says which of them broke a promise.

``python -m simulation.run --schedules 2000``, in the folder ``tests``; ``--seed N`` replays one and shows its course.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

import attrs
from simulation.promises import Verdict, examine
from simulation.schedule import Schedule
from simulation.shortening import shortened

CHUNK: Final = 50
"""Schedules that a process runs before it reports."""

SHOWN: Final = 5
"""Broken promises that are shown at length."""

PROGRESS: Final = 5.0
"""Seconds between two lines of progress."""


@attrs.frozen
class Broken:
    """A schedule that broke a promise."""

    seed: int
    problem: str


@attrs.frozen
class Chunk:
    """What some schedules came to."""

    schedules: int
    events: int
    virtual_seconds: float
    broken: tuple[Broken, ...]
    covered: Counter[str]


@attrs.define
class Summary:
    """What all came to, so far."""

    schedules: int = 0
    events: int = 0
    virtual_seconds: float = 0.0
    broken: list[Broken] = attrs.field(factory=list)
    covered: Counter[str] = attrs.field(factory=Counter)

    def add(self, chunk: Chunk) -> None:
        """Take one in."""
        self.schedules += chunk.schedules
        self.events += chunk.events
        self.virtual_seconds += chunk.virtual_seconds
        self.broken += chunk.broken
        self.covered += chunk.covered


def run_chunk(seeds: Sequence[int]) -> Chunk:
    """Run the schedules of these seeds."""
    logging.disable()
    verdicts = [examine(Schedule.of(seed)) for seed in seeds]
    covered: Counter[str] = Counter()
    for verdict in verdicts:
        covered.update(_features(verdict.schedule))
    return Chunk(
        len(verdicts),
        sum(verdict.events for verdict in verdicts),
        sum(verdict.seconds for verdict in verdicts),
        tuple(Broken(verdict.schedule.seed, verdict.problems[0]) for verdict in verdicts if verdict.problems),
        covered,
    )


def _features(schedule: Schedule) -> Iterator[str]:
    """What a schedule is about, to be counted."""
    yield f"protocol {schedule.protocol}"
    yield f"ordering {schedule.ordering}"
    yield f"on failure {schedule.on_failure}"
    yield f"members {len(schedule.members)}"
    yield "exactly once" if schedule.exactly_once else "at least once"
    yield f"batches by {schedule.batch_scope}" if schedule.batch_scope else "single records"
    for kind in {trouble.kind for trouble in schedule.troubles}:
        yield f"trouble: {kind}"
    for how in {life.how if life.at_step is None else "kill at a step" for life in schedule.members if _ends(life)}:
        yield f"member's end: {how}"


def _ends(life: Any) -> bool:
    return life.leaves is not None or life.at_step is not None


def run_all(first: int, count: int, processes: int) -> Iterator[Chunk]:
    """Run so many schedules, in so many processes."""
    chunks = iter([range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)])
    with ProcessPoolExecutor(processes) as pool:
        running: set[Future[Chunk]] = set()
        while True:
            while len(running) < 2 * processes and (chunk := next(chunks, None)) is not None:
                running.add(pool.submit(run_chunk, chunk))
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in ended)


def replay(seed: int, *, is_to_be_shortened: bool) -> int:
    """Run one schedule and show what happened."""
    schedule = Schedule.of(seed)
    verdict = examine(schedule)
    if verdict.problems and is_to_be_shortened:
        schedule, verdict = shortened(schedule)
    print(schedule)
    _show(verdict)
    return bool(verdict.problems)


def _show(verdict: Verdict) -> None:
    for problem in verdict.problems or ("all promises were kept",):
        print(problem)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="simulate", description="Run the whole consumer under random schedules.")
    parser.add_argument("--schedules", type=int, default=2000, help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first one's seed (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="how many (default: one a core)")
    parser.add_argument("--seed", type=int, help="replay this one alone")
    parser.add_argument(
        "--shorten", action="store_true", help="with --seed: look for a shorter schedule that fails alike"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        return replay(given.seed, is_to_be_shortened=given.shorten)
    began = told = time.monotonic()
    summary = Summary()
    for chunk in run_all(given.first_seed, given.schedules, given.processes):
        summary.add(chunk)
        for broken in chunk.broken:
            if len(summary.broken) <= SHOWN:
                print(
                    f"\nseed {broken.seed}: {broken.problem}\nreplay it with --seed {broken.seed} --shorten\n",
                    flush=True,
                )
        if time.monotonic() - told > PROGRESS:
            told = time.monotonic()
            _report(summary, given.schedules, told - began)
    seconds = time.monotonic() - began
    _report(summary, given.schedules, seconds)
    for feature, count in sorted(summary.covered.items()):
        print(f"  {count:7,}  {feature}")
    if summary.broken:
        print("seeds that broke a promise:", *[each.seed for each in summary.broken])
    if given.json is not None:
        figures = attrs.asdict(summary) | {"seconds": round(seconds, 1), "processes": given.processes}
        given.json.write_text(json.dumps(figures, indent=2))
    return bool(summary.broken)


def _report(summary: Summary, count: int, seconds: float) -> None:
    print(
        f"{summary.schedules:,} of {count:,} schedules in {seconds:,.0f} s: {len(summary.broken)} broke a promise; "
        f"{summary.events:,} events in {summary.virtual_seconds / 3600:,.1f} virtual hours",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
