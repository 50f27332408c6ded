"""The life of one member process, from its start to its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from trio_parallel_kafka.cli.fleet.link import LAST_WORDS_TIMEOUT, SupervisorEnd
from trio_parallel_kafka.cli.fleet.roster import MemberEntry

_REAP_TIMEOUT: Final = 10.0
"""Seconds that the operating system may take to end a process that was killed."""


async def live(command: Sequence[str], entry: MemberEntry, draining: trio.Event) -> int:
    """Run a member process to its end.

    It gets a session of its own, so that Ctrl-C in a terminal doesn't reach it. If it fails, or this is cancelled, it
    and all that it has started in that session is killed.

    Args:
        command: what to run; the option that names the link is added.
        entry: where to put down what it says.
        draining: once it is set, the member is asked to drain.

    Returns:
        Its exit status, or the negative number of the signal that ended it.

    Raises:
        OSError: the process can't be started.
    """
    own, theirs = socket.socketpair()
    with own, theirs:
        process = await trio.lowlevel.open_process(
            [*command, f"--link={theirs.fileno()}"],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        try:
            theirs.close()
            entry.started(process.pid)
            await _attend(process, SupervisorEnd(own), entry, draining)
        finally:
            if process.returncode != 0:
                with suppress(ProcessLookupError, PermissionError):  # all of them are gone, or about to be
                    os.killpg(process.pid, signal.SIGKILL)
            with trio.move_on_after(_REAP_TIMEOUT, shield=True):
                await process.wait()  # noqa: ASYNC102 - bounded
    status = process.returncode
    return -signal.SIGKILL if status is None else status


async def _attend(process: trio.Process, link: SupervisorEnd, entry: MemberEntry, draining: trio.Event) -> None:
    heard_all = trio.Event()

    async def hear() -> None:
        await link.hear(entry.take)
        heard_all.set()

    async def ask_to_drain() -> None:
        await draining.wait()
        await link.ask_to_drain()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        nursery.start_soon(ask_to_drain)
        await process.wait()
        with trio.move_on_after(LAST_WORDS_TIMEOUT):  # what it has forked may keep its end open
            await heard_all.wait()
        nursery.cancel_scope.cancel()
