"""The whole consumer under random schedules: found anew by hypothesis, replayed by seed, shortened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import attrs
import pytest
from hypothesis import given, settings, strategies as st
from simulation import run
from simulation.promises import Verdict, examine
from simulation.schedule import Attempt, NewRecord, Schedule
from simulation.shortening import shortened


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_promises_are_kept(chance: Random, seed: int) -> None:
    """Whatever happens; and if not, hypothesis looks for the simplest that breaks one."""
    verdict = examine(Schedule.drawn(chance, seed))
    assert not verdict.problems, "\n".join(verdict.problems)


COURSE = """
import hashlib, logging
from simulation.promises import examine
from simulation.schedule import Schedule
logging.disable()
print([hashlib.sha256(repr(examine(Schedule.of(seed)).course).encode()).hexdigest() for seed in range(8)])
"""


def test_seed_replays_exactly() -> None:
    """The same seeds take the same course in another interpreter, whatever its hash seed."""
    courses = {_output(COURSE, hash_seed) for hash_seed in ("1", "2")}
    assert len(courses) == 1


def _output(program: str, hash_seed: str) -> str:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    return ran.stdout


def test_shortening_keeps_what_fails() -> None:
    """Of a schedule that fails because of one record, that record is left, and nothing else."""
    guilty = NewRecord(0.0, 0, 1, (Attempt("raise", 0.5),))
    long = attrs.evolve(Schedule.of(5), records=(*Schedule.of(5).records, guilty))

    def verdict_of(schedule: Schedule) -> Verdict:
        problems = ("AtLeastOnce: for the test",) if guilty in schedule.records else ()
        return Verdict(schedule, problems, 0, 0.0, ())

    schedule, verdict = shortened(long, run=verdict_of)
    assert schedule.records == (guilty,)
    assert len(schedule.members) == 1
    assert not schedule.troubles
    assert verdict.problems


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It runs as many as asked for, says what they were about, and writes the figures; one alone is shown."""
    figures = tmp_path / "figures.json"
    assert run.main(["--schedules", "3", "--processes", "1", "--json", str(figures)]) == 0
    printed = capsys.readouterr().out
    assert "3 of 3 schedules" in printed
    assert "0 broke a promise" in printed
    assert '"schedules": 3' in figures.read_text()
    assert run.main(["--seed", "1"]) == 0
    assert "all promises were kept" in capsys.readouterr().out
