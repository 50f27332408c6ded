"""One mutant's trial: a copy of the package is changed, and simulated in an interpreter of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import attrs
from mutations.mutant import Mutant

PACKAGE: Final = "trio_parallel_kafka"
TESTS: Final = Path(__file__).resolve().parent.parent
LONGEST: Final = 10.0
"""Seconds of real time that a schedule may take. They take milliseconds: one that goes on and on hangs."""

PATIENCE: Final = 600.0
"""Seconds for a whole trial."""


class StaleTableError(LookupError):
    """What a mutant replaces isn't there, or isn't unique: the table has to follow the code."""


@attrs.frozen
class Trial:
    """What became of a mutant, or of the package as it is.

    Attributes:
        seed: the schedule that showed it to be broken, or ``None`` if none did.
        schedules: how many were run.
        seconds: how long that took, without the imports.
        problems: what was found.
    """

    seed: int | None
    schedules: int
    seconds: float
    problems: Sequence[str] = ()

    @property
    def is_found(self) -> bool:
        """Whether a promise was seen to be broken."""
        return self.seed is not None


def try_out(mutant: Mutant | None, seeds: Iterable[int], *, longest: float = LONGEST) -> Trial:
    """Simulate the package with a mutant's change, or unchanged, until a schedule finds something.

    Args:
        mutant: the change.
        seeds: the schedules to be tried, in this order.
        longest: seconds of real time that one may take.

    Raises:
        StaleTableError: the change can't be made.
        RuntimeError: the trial itself failed.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy_package(Path(folder))
        if mutant is not None:
            mutate(Path(folder), mutant)
        return _searched(Path(folder), seeds, longest)


def copy_package(folder: Path) -> None:
    """Put a copy of the package into a folder."""
    shutil.copytree(TESTS.parent / PACKAGE, folder / PACKAGE)


def mutate(folder: Path, mutant: Mutant) -> None:
    """Change the copy.

    Raises:
        StaleTableError: the change can't be made.
    """
    path = folder / PACKAGE / mutant.path
    text = path.read_text(encoding="utf-8")
    if (count := text.count(mutant.old)) != 1:
        raise StaleTableError(f"{mutant.name!r}: {mutant.path} holds its text {count} times, not once:\n{mutant.old}")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    # Bytecode is known by its source's time, which may be that of the copy's, to the second.
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def _searched(folder: Path, seeds: Iterable[int], longest: float) -> Trial:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    # Sets of strings have the same order each time, so that a seed means the same in every trial.
    environment |= {"PYTHONPATH": f"{folder}{os.pathsep}{TESTS}", "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "mutations.search", str(folder), str(longest)],
        input=json.dumps(list(seeds)),
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the search ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return Trial(**json.loads(done.stdout))
