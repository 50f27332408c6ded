"""Several members, each in a process of its own, kept alive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from trio_parallel_kafka.cli.fleet.keeper import MemberKeeper, RestartPolicy
from trio_parallel_kafka.cli.fleet.linked import FAILED, UNUSABLE
from trio_parallel_kafka.cli.fleet.member import STOP_SIGNALS
from trio_parallel_kafka.cli.fleet.roster import DRAINING, STOPPED, MemberEntry, Roster
from trio_parallel_kafka.cli.fleet.showing import Showing
from trio_parallel_kafka.cli.output import say

KILLED: Final = 128
"""Added to the number of the signal that killed the fleet, this is the exit status."""


class Supervisor:
    """Runs a fleet, once.

    Args:
        indices: the numbers of the members.
        command: what runs the member of such a number.
        policy: when one that has died is started again.
    """

    def __init__(
        self, indices: Iterable[int], command: Callable[[int], Sequence[str]], policy: RestartPolicy | None = None
    ) -> None:
        self._draining: Final = trio.Event()
        self._was_asked = False
        self._say: Callable[[str], None] = say
        self._killed_by: int | None = None
        self._is_unusable = False
        self._roster: Final = Roster(tuple(map(MemberEntry, indices)))
        self._keepers: Final = [
            MemberKeeper(
                entry,
                command(entry.index),
                policy or RestartPolicy(),
                self._draining,
                gives_up=self._gives_up,
                say=self._tell,
            )
            for entry in self._roster.entries
        ]

    async def run(self, showing: Showing) -> int:
        """Run until a signal has made all members drain, or they can't live; return the exit status.

        The first signal (``SIGTERM``, or Ctrl-C) drains, a second kills. Cancellation kills.

        Raises:
            ConfigError: the status file can't be written.
        """
        async with showing.of(self._roster.snapshot) as self._say:
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._obey_signals, nursery.cancel_scope)
                    async with trio.open_nursery() as lives:
                        for keeper in self._keepers:
                            lives.start_soon(keeper.keep)
                    nursery.cancel_scope.cancel()
            finally:
                self._roster.state = STOPPED
        return self._status()

    def _status(self) -> int:
        if self._killed_by is not None:
            return KILLED + self._killed_by
        if self._is_unusable:
            return UNUSABLE
        return FAILED if any(keeper.has_failed for keeper in self._keepers) else 0

    async def _obey_signals(self, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC910 - a task of its own
        with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                if self._was_asked:
                    self._say(f"killing {self._living()}")
                    self._killed_by = number
                    everything.cancel()
                    return
                self._was_asked = True
                self._drain()
                self._say(f"draining {self._living()}; a second signal kills")

    def _drain(self) -> None:
        self._roster.state = DRAINING
        self._draining.set()

    def _gives_up(self, reason: str) -> bool:
        """Whether a member that can't work is the end of the fleet: not if another can, or this one could."""
        if any(entry.has_begun for entry in self._roster.entries):
            return False
        if not self._is_unusable:
            self._say(f"error: a member can't work, and a restart wouldn't help, so all are drained: {reason}")
        self._is_unusable = True
        self._drain()
        return True

    def _tell(self, text: str) -> None:
        self._say(text)

    def _living(self) -> str:
        pids = [f"{entry.index} (pid {entry.pid})" for entry in self._roster.entries if entry.pid is not None]
        return f"member {', '.join(pids)}" if pids else "no member: none is alive"
