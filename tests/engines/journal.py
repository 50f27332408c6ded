"""What handlers write down, in whichever process they run, and what makes them wait."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import trio

from trio_parallel_kafka import Record

VARIABLE: Final = "ENGINE_TEST_JOURNAL"
"""The environment variable that names the journal's folder: worker processes have it, too."""

Lane = tuple[int, str]
"""A partition and a key."""


class Entry(NamedTuple):
    """What happened to a record: ``begun``, ``ended`` (well or not) or ``cancelled``, in which call and process."""

    what: str
    call: str
    pid: int
    partition: int
    offset: int
    attempt: int
    assignment_epoch: int
    key: str


class Journal:
    """A file with a line for each event, in the order in which they happened, and gates.

    Args:
        folder: where it is; without one, where the environment says.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder: Final = folder or Path(os.environ[VARIABLE])

    # The handler's side

    @contextmanager
    def noting(self, records: Sequence[Record]) -> Iterator[None]:
        """Write down what becomes of a call."""
        call = f"{os.getpid()}:{time.monotonic_ns()}"
        self._note("begun", call, records)
        what = "ended"
        try:
            yield
        except trio.Cancelled:
            what = "cancelled"
            raise
        finally:
            self._note(what, call, records)

    def is_open(self, gate: str) -> bool:
        """Whether those may go on who wait for it."""
        return (self._folder / f"gate-{gate}").exists()

    def _note(self, what: str, call: str, records: Iterable[Record]) -> None:
        lines = [
            json.dumps(
                [
                    *(what, call, os.getpid(), record.partition, record.offset, record.attempt),
                    *(record.assignment_epoch, (record.raw_key or b"").decode()),
                ]
            )
            for record in records
        ]
        fd = os.open(self._folder / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(fd, "".join(f"{line}\n" for line in lines).encode())  # in one piece, whoever else writes
        finally:
            os.close(fd)

    # The test's side

    def open(self, gate: str) -> None:
        """Let go those who wait for it, and those to come."""
        (self._folder / f"gate-{gate}").touch()

    def entries(self) -> list[Entry]:
        """All that was written down."""
        path = self._folder / "journal"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Entry(*json.loads(line)) for line in lines]

    def attempts(self, partition: int, offset: int) -> list[int]:
        """The numbers of the attempts at a record that have begun."""
        return [each.attempt for each in self._begun() if (each.partition, each.offset) == (partition, offset)]

    def begun(self, partition: int) -> list[int]:
        """The offsets that have begun in a partition, in that order."""
        return [each.offset for each in self._begun() if each.partition == partition]

    def running(self) -> list[Entry]:
        """What has begun, and neither ended nor died with its process."""
        over = {each.call for each in self.entries() if each.what != "begun"}
        return [each for each in self._begun() if each.call not in over and is_alive(each.pid)]

    def order(self) -> dict[Lane, list[int]]:
        """The offsets of each lane, in the order in which they began."""
        lanes: dict[Lane, list[int]] = defaultdict(list)
        for each in self._begun():
            lanes[each.partition, each.key].append(each.offset)
        return lanes

    def overlaps(self) -> list[Entry]:
        """What began while another call had records of its lane."""
        at_work: dict[Lane, set[str]] = defaultdict(set)
        found = []
        for each in self.entries():
            calls = at_work[each.partition, each.key]
            if each.what != "begun":
                calls.discard(each.call)
                continue
            if {call for call in calls if is_alive(int(call.partition(":")[0]))} - {each.call}:
                found.append(each)
            calls.add(each.call)
        return found

    def _begun(self) -> list[Entry]:
        return [each for each in self.entries() if each.what == "begun"]


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
