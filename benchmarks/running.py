"""Runs a system in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from benchmarks.job import Job, Outcome, dump_job, load_outcome

ROOT: Final = Path(__file__).resolve().parents[1]
PATIENCE: Final = 60.0
"""Seconds that a run may take over its time limit's share."""

_TAIL: Final = 500
"""Characters of what a program complained about."""


class RunError(RuntimeError):
    """A system has failed; the message says how."""


def run_system(command: Sequence[str], job: Job, limit: float) -> Outcome:
    """Run it and take its outcome. However this ends, the process and its children are gone.

    Args:
        command: its command line, without the job.
        job: what it is to do.
        limit: seconds that it may take.

    Raises:
        RunError: it failed, or took longer.
    """
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        process = subprocess.Popen(
            [*command, dump_job(job)],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the suite alone, which ends what it has started
        )
        with process:
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired as error:
                raise RunError(f"didn't end within {limit:.0f} s{_tail(complaints)}") from error
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise RunError(f"ended with status {process.returncode}{_tail(complaints)}")
    lines = output.strip().splitlines()
    if not lines:
        raise RunError("said nothing")
    return load_outcome(lines[-1])


def _tail(complaints: IO[str]) -> str:
    complaints.seek(0)
    said = complaints.read().strip()
    return f": …{said[-_TAIL:]}" if len(said) > _TAIL else f": {said}" if said else ""
