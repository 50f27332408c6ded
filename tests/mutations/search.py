"""Runs schedules until one finds something broken: ``python -m mutations.search FOLDER SECONDS``, seeds on stdin.

It is started by :mod:`mutations.trial`, with the copy of the package in ``FOLDER`` first on Python's path. A schedule
that takes longer than ``SECONDS`` of real time hangs.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from simulation.promises import examine
from simulation.schedule import Schedule

import trio_parallel_kafka


def main(folder: str, longest: float, seeds: list[int]) -> None:
    """Print what was found, as JSON."""
    assert Path(trio_parallel_kafka.__file__).is_relative_to(folder), "not the copy is being tested"
    logging.disable()
    began = time.perf_counter()

    def hang(_signal: int, _frame: FrameType | None) -> NoReturn:
        _report(seeds[number], number + 1, began, [f"hangs: the schedule has no end after {longest:g} s"])
        sys.stdout.flush()
        os._exit(0)  # what loops for ever may not listen to anything else

    number = -1
    signal.signal(signal.SIGALRM, hang)
    for number, seed in enumerate(seeds):
        signal.setitimer(signal.ITIMER_REAL, longest)
        verdict = examine(Schedule.of(seed))
        signal.setitimer(signal.ITIMER_REAL, 0)
        if verdict.problems:
            _report(seed, number + 1, began, verdict.problems)
            return
    _report(None, len(seeds), began, [])


def _report(seed: int | None, schedules: int, began: float, problems: object) -> None:
    seconds = round(time.perf_counter() - began, 3)
    json.dump({"seed": seed, "schedules": schedules, "seconds": seconds, "problems": problems}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), json.load(sys.stdin))
