"""Outputs whose reader has stopped reading."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest
import trio
from cli.fleet_kit import PATIENCE, full_pipe

from trio_parallel_kafka.cli.fleet.outputs import LAST_LINES_TIMEOUT, MOST_MESSAGES, Outputs


@contextmanager
def output_that_nobody_empties() -> Iterator[tuple[TextIO, int]]:
    """A full pipe, and its reading end."""
    with full_pipe() as (reading, writing), os.fdopen(os.dup(writing), "w") as output:
        yield output, reading


async def read(pipe: trio.lowlevel.FdStream, until: bytes) -> list[bytes]:
    """Read from a pipe until something comes; return the lines."""
    received = b""
    while until not in received:
        received += await pipe.receive_some()
    return [line for line in received.split(b"\n") if line]


@pytest.mark.parametrize("is_blocking", [False, True])
async def test_a_reader_that_stops_for_a_while(monkeypatch: pytest.MonkeyPatch, *, is_blocking: bool) -> None:
    """It gets the newest messages, as many as are kept, then the newest statistics; nothing twice, nothing cut off."""
    first = "first" + "!" * 5_000
    with trio.fail_after(PATIENCE), output_that_nobody_empties() as (output, reading):
        os.set_blocking(output.fileno(), is_blocking)
        monkeypatch.setattr(sys, "__stderr__", output)
        outputs = Outputs()
        async with trio.open_nursery() as nursery:
            outputs.start_in(nursery)
            outputs.say(first)
            while outputs._stderr._messages:  # until it is being written
                await trio.sleep(0.01)
            for number in range(MOST_MESSAGES + 20):
                outputs.say(f"message {number}")
                outputs.show_people(f"statistics {number}")
            lines = await read(trio.lowlevel.FdStream(os.dup(reading)), b"statistics")
            nursery.cancel_scope.cancel()
        await outputs.finish()
    kept = [f"message {number}" for number in range(20, MOST_MESSAGES + 20)]
    assert lines == [f"trio-parallel-kafka: {each}".encode() for each in (first, *kept, "statistics 119")]


async def test_the_last_lines_have_a_bound(monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    """Nobody waits longer for who doesn't read, not even if cancelled; what there is to say goes on to the others."""
    with output_that_nobody_empties() as (output, _):
        monkeypatch.setattr(sys, "__stdout__", output)
        outputs = Outputs()
        outputs.show_programs("{}")
        began = trio.current_time()
        with trio.CancelScope() as scope:
            scope.cancel()
            await outputs.finish()
    assert trio.current_time() - began == LAST_LINES_TIMEOUT
