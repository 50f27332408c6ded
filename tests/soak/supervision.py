"""Runs the members, each a process, and hears their samples."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
from soak.ledger import Faults
from soak.samples import Sample


class MemberProcess:
    """A member and what it has said; see :func:`member_process`.

    Attributes:
        name: what it is called.
        samples: so far, in their order.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.samples: list[Sample] = []

    @property
    def latest(self) -> Sample | None:
        """The last sample, if there is one."""
        return self.samples[-1] if self.samples else None

    @property
    def faults(self) -> Faults:
        """What has gone wrong by the last sample."""
        return Faults() if self.latest is None else self.latest.faults

    async def listen(self, output: trio.abc.ReceiveStream) -> None:
        """Take samples until the process ends."""
        rest = b""
        async for chunk in output:
            *lines, rest = (rest + chunk).split(b"\n")
            self.samples.extend(map(Sample.from_json, lines))


@asynccontextmanager
async def member_process(name: str, *arguments: str) -> AsyncIterator[MemberProcess]:
    """Run :mod:`soak.member` for the length of a block, and stop it in good order at its end.

    Args:
        name: what it is to be called.
        arguments: of the program.

    Raises:
        subprocess.CalledProcessError: it ended with an error.
    """
    command = [sys.executable, "-m", "soak.member", *arguments]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    member = MemberProcess(name)
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, stdout=subprocess.PIPE, env=environ)
        process: trio.Process = await nursery.start(run)
        assert process.stdout is not None
        nursery.start_soon(member.listen, process.stdout)
        yield member
        process.terminate()
