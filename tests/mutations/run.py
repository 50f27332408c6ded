"""Does the simulation find what is broken? ``python -m mutations.run`` tries every mutant of the table.

For each, the schedule that is known to find it is tried first, which keeps this fast. Which one that is changes with
the package and the schedules: ``--pin`` notes what was found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs
from mutations.mutant import Mutant
from mutations.table import MUTANTS
from mutations.trial import Trial, try_out

PINNED: Final = Path(__file__).with_name("seeds.json")
"""The seed that is known to find each mutant, by its name."""

SCHEDULES: Final = 400
"""Tried with each mutant, at most."""

WIDTH: Final = 150
"""Characters of a line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Try them out, print what was found, and fail if something wasn't."""
    options = _options(arguments)
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    began = time.monotonic()
    clean = try_out(None, pinned_seeds(chosen))
    if clean.is_found:
        print(f"the package as it is breaks under seed {clean.seed}:", *clean.problems, sep="\n")
        return 2
    found: dict[str, int] = {}
    with ThreadPoolExecutor(options.processes) as pool:
        trials = pool.map(lambda mutant: try_out(mutant, seeds_for(mutant, options.schedules)), chosen)
        for mutant, trial in zip(chosen, trials, strict=True):
            _show(mutant, trial, as_json=options.json)
            if trial.seed is not None:
                found[mutant.name] = trial.seed
    print(
        f"{len(found)} of {len(chosen)} mutants found in {time.monotonic() - began:.0f} s; "
        f"the package as it is broke no promise under {clean.schedules} schedules",
        file=sys.stderr,
    )
    if options.pin:
        _pin(found)
    return 0 if len(found) == len(chosen) else 1


def seeds_for(mutant: Mutant, count: int = SCHEDULES) -> list[int]:
    """The schedules to be tried with a mutant: the one that is known to find it, then others."""
    return list(dict.fromkeys([*pinned_seeds([mutant]), *range(count)]))[:count]


def pinned_seeds(mutants: Sequence[Mutant]) -> list[int]:
    """The schedules that are known to find these."""
    pinned = _pinned()
    return list(dict.fromkeys(pinned[mutant.name] for mutant in mutants if mutant.name in pinned))


def _pinned() -> Mapping[str, int]:
    pinned: dict[str, int] = json.loads(PINNED.read_text(encoding="utf-8"))
    return pinned


def _pin(found: Mapping[str, int]) -> None:
    """Note these; forget mutants that are in the table no more."""
    known = {**_pinned(), **found}
    kept = {mutant.name: known[mutant.name] for mutant in MUTANTS if mutant.name in known}
    PINNED.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _show(mutant: Mutant, trial: Trial, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"mutant": mutant.name, "promise": mutant.promise, **attrs.asdict(trial)}), flush=True)
        return
    if trial.is_found:
        (what, *_) = _most_telling(trial).splitlines()
        by = f"seed {trial.seed}, schedule {trial.schedules}, {trial.seconds:.1f} s: {what}"
    else:
        by = f"NOT FOUND in {trial.schedules} schedules, {trial.seconds:.1f} s"
    print(f"{mutant.promise}  {mutant.name}\n      {by[:WIDTH]}", flush=True)


def _most_telling(trial: Trial) -> str:
    """That a guarantee was broken says more than what else went wrong."""
    return next((each for each in trial.problems if "doesn't hold" in each), trial.problems[0])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutations.run", description="Try whether the simulation finds mutants.")
    parser.add_argument("--only", metavar="NAME", default="", help="those whose name holds this")
    parser.add_argument(
        "--schedules", type=int, default=SCHEDULES, help="tried with each, at most (default: %(default)s)"
    )
    parser.add_argument("--processes", type=int, default=2, help="tried at once (default: %(default)s)")
    parser.add_argument("--pin", action="store_true", help="note the seeds that found something, to be tried first")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
