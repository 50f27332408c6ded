"""The shared ledger: it sees each fault that a record's handling may have, and only those."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from soak.ledger import Faults, Ledger, sum_of

KEYS = 10


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty one of ten keys."""
    with Ledger(tmp_path / "ledger", KEYS) as made:
        yield made


def handle(ledger: Ledger, *numbers: int) -> None:
    """Handle records, one after another."""
    for number in numbers:
        with ledger.handling(number):
            pass


def test_all_in_order(ledger: Ledger) -> None:
    """Keys may overtake one another."""
    handle(ledger, *range(5), 10, *range(9, 4, -1), 11, 20)
    assert ledger.faults == Faults()
    assert ledger.done() == 13
    assert ledger.missing(12) == 0
    assert ledger.missing(21) == 8


def test_one_left_out(ledger: Ledger) -> None:
    """A record whose key has an earlier one that isn't done is out of order."""
    handle(ledger, 0, 20, 30)
    assert ledger.faults == Faults(out_of_order=1), "the one behind it is in order again"


def test_replayed(ledger: Ledger) -> None:
    """A record that was done is a replay, and takes nothing back."""
    handle(ledger, 0, 10, 20, 10, 20, 30)
    assert ledger.faults == Faults(replays=2)
    assert ledger.done() == 4


def test_two_of_a_key_at_once(ledger: Ledger) -> None:
    """They overlap, and the second is out of order as well."""
    with ledger.handling(0), ledger.handling(10):
        pass
    assert ledger.faults == Faults(overlaps=1, out_of_order=1)
    with ledger.handling(1), ledger.handling(2):
        pass
    assert ledger.faults == Faults(overlaps=1, out_of_order=1)


def test_failed(ledger: Ledger) -> None:
    """A record whose handler raises isn't done, and may be tried again."""
    with pytest.raises(ValueError, match="no"), ledger.handling(0):
        raise ValueError("no")
    assert ledger.done() == 0
    assert ledger.missing(1) == 1
    handle(ledger, 0)
    assert (ledger.done(), ledger.faults) == (1, Faults())


def test_shared_between_processes(ledger: Ledger, tmp_path: Path) -> None:
    """What one process notes, another knows."""
    handle(ledger, 0)
    program = (
        "import sys; from pathlib import Path; from soak.ledger import Ledger\n"
        "with Ledger(Path(sys.argv[1]), 10) as ledger:\n"
        "    with ledger.handling(10): pass\n"
        "    with ledger.handling(0): pass\n"
        "    print(ledger.faults)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "ledger"],
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert shown.strip() == str(Faults(replays=1))
    assert ledger.done() == 2
    handle(ledger, 20)
    assert ledger.faults == Faults()


def test_the_sum_of_members() -> None:
    """Each kind is added up."""
    assert sum_of([Faults(1, 2, 3), Faults(10, 20, 30)]) == Faults(11, 22, 33)
