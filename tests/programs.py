"""Runs the programs in examples/ as users do: each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"

PATIENCE = 100.0
"""Seconds after which a program hangs for certain. It is killed then, and so ends whoever waits for its output."""


@contextmanager
def example(name: str, *arguments: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program for the length of a block; what is left of it then is killed."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    with subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True) as process:
        reaper = threading.Timer(PATIENCE, process.kill)
        reaper.start()
        try:
            yield process
        finally:
            reaper.cancel()
            process.kill()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """Wait for so many lines of output; fewer if it ends before that."""
    assert process.stdout is not None
    return [line.rstrip("\n") for _, line in zip(range(count), process.stdout, strict=False)]


def drain(process: subprocess.Popen[str]) -> list[str]:
    """Ask a program to end in good order, see that it does, and return the rest of its output."""
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    rest = process.stdout.read().splitlines()
    assert process.wait(PATIENCE) == 0
    return rest
