"""The simulation has teeth: it finds each mutant of the table, and nothing in the package as it is."""

from __future__ import annotations

import pytest
from mutations.mutant import Mutant
from mutations.run import main, pinned_seeds, seeds_for
from mutations.table import MUTANTS
from mutations.trial import StaleTableError, try_out

PROMISES = {f"P{number}" for number in range(1, 9)}

HANGING = Mutant(
    "the position is looked for without an end",
    "P5",
    "core/tracker.py",
    "        return next(iter(self._incomplete), self._next_offset)\n",
    "        while True:\n            pass\n",
)


def test_package_is_clean() -> None:
    """The package as it is breaks no promise under the schedules that find the mutants."""
    trial = try_out(None, pinned_seeds(MUTANTS))
    assert not trial.is_found, trial.problems


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_found(mutant: Mutant) -> None:
    """A schedule shows what is broken."""
    hint = "if schedules have changed, look further: python -m mutations.run --pin --schedules 3000 --only ..."
    assert try_out(mutant, seeds_for(mutant)).is_found, hint


def test_table_is_broad() -> None:
    """Every promise is broken by some mutant, no two have one name, and there are enough of them."""
    assert {mutant.promise for mutant in MUTANTS} == PROMISES
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len(MUTANTS) >= 25


def test_table_follows_the_code() -> None:
    """A mutant whose text isn't there any more is an error, not one that wasn't found."""
    with pytest.raises(StaleTableError, match="0 times, not once"):
        try_out(Mutant("nothing", "P1", "core/tracker.py", "no such text", ""), [0])


def test_mutant_that_hangs_is_found() -> None:
    """A schedule that has no end in real time is a finding, too."""
    trial = try_out(HANGING, [0], longest=1.0)
    assert trial.seed == 0
    assert trial.problems[0].startswith("hangs")


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints a line for each mutant that was asked for, and fails if one isn't found."""
    name = MUTANTS[0].name
    assert main(["--only", name, "--processes", "1"]) == 0
    printed = capsys.readouterr()
    assert name in printed.out
    assert "1 of 1 mutants found" in printed.err
    assert main(["--only", name, "--schedules", "0", "--json"]) == 1
    assert '"seed": null' in capsys.readouterr().out
