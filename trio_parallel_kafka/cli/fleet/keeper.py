"""Keeps one member alive."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from typing import Final

import trio

from trio_parallel_kafka.cli.fleet.life import live
from trio_parallel_kafka.cli.fleet.linked import UNUSABLE
from trio_parallel_kafka.cli.fleet.restarts import RestartPolicy
from trio_parallel_kafka.cli.fleet.roster import MemberEntry
from trio_parallel_kafka.cli.output import say

_SIGNAL_NAMES: Final = {each.value: each.name for each in signal.Signals}
_NOT_STARTED: Final = 71  # sysexits.h: the operating system refused


class MemberKeeper:
    """Runs a member process, and runs it again when it has died, until it is to drain.

    Args:
        entry: what is known of the member.
        command: what runs it.
        policy: when it is started again.
        draining: set once the fleet is to drain.
        give_up: called with the reason when a restart wouldn't help.
    """

    def __init__(
        self,
        entry: MemberEntry,
        command: Sequence[str],
        policy: RestartPolicy,
        draining: trio.Event,
        give_up: Callable[[str], None],
    ) -> None:
        self._entry: Final = entry
        self._command: Final = command
        self._policy: Final = policy
        self._draining: Final = draining
        self._give_up: Final = give_up
        self.has_failed: bool = False

    async def keep(self) -> None:
        """Keep it alive until it has drained, or can't live. Cancellation kills it."""
        while not self._draining.is_set():
            status = await self._live()
            self.has_failed = status != 0
            if self.has_failed and self._entry.failure is None:
                self._entry.ended_so(f"its process {self._how_it_ended(status)}")
            if status == UNUSABLE:
                self._give_up(self._entry.failure or "see what it has printed")
            elif not self._draining.is_set():
                await self._wait_to_restart(status)
            elif status:
                say(f"member {self._entry.index} {self._how_it_ended(status)} while it drained")
        await trio.lowlevel.checkpoint()

    async def _live(self) -> int:
        try:
            return await live(self._command, self._entry, self._draining)
        except OSError as error:
            self._entry.fails(f"its process can't be started: {error}")
            return _NOT_STARTED  # noqa: ASYNC910 - whoever calls this has a checkpoint
        finally:
            self._entry.ended()

    async def _wait_to_restart(self, status: int) -> None:
        self._entry.waits_for_restart(self._policy.well_after)
        delay = self._policy.delay(self._entry.failures_in_a_row, random.random())  # noqa: S311 - no secret
        say(f"member {self._entry.index} {self._how_it_ended(status)}; it is started again in {delay:.1f} s")
        with trio.move_on_after(delay):
            await self._draining.wait()
            self._entry.stays_ended()

    def _how_it_ended(self, status: int) -> str:
        why = f" ({self._entry.failure})" if self._entry.failure else ""
        if status < 0:
            return f"was killed by {_SIGNAL_NAMES.get(-status, f'signal {-status}')}{why}"
        return f"ended with status {status}{why}" if status else "has drained, and not on our behalf"
