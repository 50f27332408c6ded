"""Keeps one member alive: when it is started again, and when not."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from trio_parallel_kafka.cli.fleet.life import live
from trio_parallel_kafka.cli.fleet.linked import UNUSABLE
from trio_parallel_kafka.cli.fleet.roster import MemberEntry

_SIGNAL_NAMES: Final = {each.value: each.name for each in signal.Signals}
_NOT_STARTED: Final = 71  # sysexits.h: the operating system refused
_HIGHEST_POWER: Final = 30  # beyond any bound that makes sense


@attrs.frozen
class RestartPolicy:
    """Delays that double, spread at random so that members that fell together don't come back together.

    Attributes:
        first: seconds before the first restart, at most.
        longest: seconds before any restart, at most.
        well_after: seconds that a member has to run for its next failure to count as the first.
    """

    first: float = 1.0
    longest: float = 30.0
    well_after: float = 60.0

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait.

        Args:
            failures: how many there were in a row, from 1.
            chance: a random number from 0 to 1.
        """
        whole: float = min(self.longest, self.first * 2.0 ** min(failures - 1, _HIGHEST_POWER))
        return whole * (1 + chance) / 2


class MemberKeeper:
    """Runs a member process, and runs it again when it has died, until it is to drain.

    Args:
        entry: what is known of the member.
        command: what runs it.
        policy: when it is started again.
        draining: set once the fleet is to drain.
        gives_up: called with the reason when it can't work as it is configured: whether the fleet ends for that.
        say: tells people what becomes of the member.
    """

    def __init__(
        self,
        entry: MemberEntry,
        command: Sequence[str],
        policy: RestartPolicy,
        draining: trio.Event,
        *,
        gives_up: Callable[[str], bool],
        say: Callable[[str], None],
    ) -> None:
        self._entry: Final = entry
        self._command: Final = command
        self._policy: Final = policy
        self._draining: Final = draining
        self._gives_up: Final = gives_up
        self._say: Final = say
        self.has_failed: bool = False

    async def keep(self) -> None:
        """Keep it alive until it has drained, or can't live. Cancellation kills it."""
        while not self._draining.is_set():
            status = await self._live()
            self.has_failed = status != 0
            if self.has_failed and self._entry.failure is None:
                self._entry.ended_so(f"its process {self._how_it_ended(status)}")
            if status == UNUSABLE and self._gives_up(self._entry.failure or "see what it has printed"):
                break
            if not self._draining.is_set():
                await self._wait_to_restart(status)
            elif status:
                self._say(f"member {self._entry.index} {self._how_it_ended(status)} while it drained")
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
        self._say(f"member {self._entry.index} {self._how_it_ended(status)}; it is started again in {delay:.1f} s")
        with trio.move_on_after(delay):
            await self._draining.wait()
            self._entry.stays_ended()

    def _how_it_ended(self, status: int) -> str:
        why = f" ({self._entry.failure})" if self._entry.failure else ""
        if status < 0:
            return f"was killed by {_SIGNAL_NAMES.get(-status, f'signal {-status}')}{why}"
        return f"ended with status {status}{why}" if status else "has drained, and not on our behalf"
